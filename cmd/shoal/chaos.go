package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"shoal/cmd/shoal/game"
	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/gameday"
)

// exitBroken: a game day saw a promise broken.
const exitBroken = 9

const chaosHelp = "It plays faults out of a seed on the nodes, one after the other, watches how the cluster does, and reports whether a promise of shoal's was\n" +
	"broken. Without --faults it plays those that are safe: `shoal chaos ls` lists all. Each fault is undone at its deadline by a process of its own\n" +
	"on the node, whoever dies meanwhile; Ctrl-C or `shoal chaos stop` undo everything at once. The majority of the voters is left alone.\n\n" +
	"Examples:\n  shoal chaos --for 10m --dry-run --seed 7\n  shoal chaos --for 10m --report game.html\n  shoal chaos --for 10m --faults kill-agent,partition --nodes b,c --jobs shop\n  shoal chaos stop"

func chaosCommand() *cli.Command {
	return &cli.Command{
		Name: "chaos", Category: categoryCluster,
		Usage:       "play a game day: break things on purpose, undo them, and judge what the cluster made of it",
		Description: chaosHelp,
		Flags: clientFlags(
			&cli.DurationFlag{Name: "for", Usage: "begin faults for this `TIME`"},
			&cli.IntFlag{Name: "rounds", Usage: "begin faults this `NUMBER` of times at most (default: as often as the time allows)"},
			&cli.Uint64Flag{Name: "seed", Usage: "the `NUMBER` that the schedule comes out of; the same one gives the same schedule (default: a fresh one, which is printed)"},
			&cli.StringSliceFlag{Name: "faults", Usage: "`NAMES` of the faults to play, with commas; destructive ones are played only if they are named here, with --yes"},
			&cli.StringSliceFlag{Name: "nodes", Usage: "`NAMES` of the nodes to hit, with commas (default: all)"},
			&cli.StringSliceFlag{Name: "jobs", Usage: "`NAMES` of the jobs to watch, whose tasks may be hit, with commas (default: all that run)"},
			&cli.DurationFlag{Name: "every", Usage: "begin faults at most once in this `TIME` (default: when the cluster is whole again, and the pause is over)"},
			&cli.DurationFlag{Name: "pause", Value: 5 * time.Second, Usage: "leave the cluster alone for this `TIME` once it is whole again"},
			&cli.DurationFlag{Name: "hold", Usage: "hold faults for this `TIME` at most (default: see `shoal chaos ls`)"},
			&cli.IntFlag{Name: "max-down", Value: 1, Usage: "hit at most this `NUMBER` of nodes at a time"},
			&cli.DurationFlag{Name: "within", Value: 30 * time.Second, Usage: "everything must run again within this `TIME` of a fault's end"},
			&cli.StringFlag{Name: "size", Usage: "take at most this `SIZE` of memory or disk, such as 512m (default: see `shoal chaos ls`)"},
			&cli.BoolFlag{Name: "allow-no-quorum", Usage: "faults may leave no majority of the voters; changes fail meanwhile"},
			&cli.BoolFlag{Name: "keep-going", Usage: "go on when a promise was broken, instead of ending the game"},
			&cli.BoolFlag{Name: "yes", Usage: "destructive faults are meant"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print the schedule and touch nothing"},
			&cli.StringSliceFlag{Name: "report", Usage: "write the report to this `FILE` too: .html, .txt or .json; may be given more than once"},
			jsonFlag(),
		),
		Action: asking(playChaos),
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list the faults: what each does, how it is undone, what it needs", Description: "Example: shoal chaos ls",
				Flags: []cli.Flag{jsonFlag()}, Action: listFaults,
			},
			{
				Name: "status", Usage: "show whether a game is on, and what is broken on purpose where", Description: "Example: shoal chaos status",
				Flags: clientFlags(jsonFlag()), Action: asking(chaosStatus),
			},
			{
				Name: "stop", Usage: "undo everything on all nodes and end the game, whoever began it",
				Description: "A node that is cut off cannot be asked: it is asked again until --wait has passed; its own helper undoes the fault at the deadline.\n\n" +
					"Examples:\n  shoal chaos stop\n  shoal chaos stop --local    on a node whose agent does not run",
				Flags: clientFlags(
					&cli.BoolFlag{Name: "local", Usage: "on this machine alone, without asking an agent"},
					&cli.StringFlag{Name: "data-dir", Value: defaultDataDir, EnvVars: []string{"SHOAL_DATA_DIR"}, Usage: "with --local: the agent's `DIR`"},
					&cli.DurationFlag{Name: "wait", Value: 2 * time.Minute, Usage: "ask nodes that do not answer again for this `TIME`"},
				),
				Action: stopChaos,
			},
		},
	}
}

// settleFirst is how long a cluster may take to be whole before a game is refused: a node that just came back is suspect for
// a moment.
const settleFirst = 15 * time.Second

func chaosOptions(c *cli.Context) (game.Options, error) {
	o := game.Options{
		For: c.Duration("for"), Rounds: c.Int("rounds"), Seed: c.Uint64("seed"), Faults: commas(c.StringSlice("faults")), Nodes: commas(c.StringSlice("nodes")), Jobs: commas(c.StringSlice("jobs")),
		Every: c.Duration("every"), Pause: c.Duration("pause"), Hold: c.Duration("hold"), MaxDown: c.Int("max-down"), Within: c.Duration("within"),
		Settle: settleFirst, NoQuorumNeeded: c.Bool("allow-no-quorum"), KeepGoing: c.Bool("keep-going"), Yes: c.Bool("yes") || c.Bool("dry-run"),
	}
	if !c.IsSet("seed") {
		o.Seed = rand.Uint64N(1_000_000)
	}
	if v := c.String("size"); v != "" {
		size, err := units.RAMInBytes(v)
		if err != nil || size <= 0 {
			return o, job.Errorf(job.Invalid, "--size %s: it takes a size such as 512m", v)
		}
		o.SizeBytes = size
	}
	if !c.IsSet("for") {
		return o, exitf(exitUsage, "chaos: --for says how long, such as `shoal chaos --for 10m`; with --dry-run it only prints what it would do")
	}
	return o, o.Check()
}

// commas takes words apart at their commas.
func commas(words []string) []string {
	var out []string
	for _, w := range words {
		for p := range strings.SplitSeq(w, ",") {
			if p = strings.TrimSpace(p); p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

func playChaos(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	o, err := chaosOptions(c)
	if err != nil {
		return err
	}
	say := func(format string, args ...any) {
		s.errf("%s  %s\n", s.paint(dim, time.Now().Local().Format(time.TimeOnly)), fmt.Sprintf(format, args...))
	}
	g, plan, err := game.New(c.Context, cl, o, whoami(), say)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return showSchedule(c, s, o, g, plan)
	}
	files, err := openReports(c.StringSlice("report"))
	if err != nil {
		return err
	}
	defer files.close()
	watched := strings.Join(g.Watched(), ", ")
	if watched == "" {
		watched = "no job"
	}
	say("seed %d, %v, watching %s; Ctrl-C or `shoal chaos stop` ends it and undoes everything", o.Seed, o.For, watched)
	r, err := g.Play(c.Context, plan)
	if err != nil {
		return err
	}
	if err := files.write(r); err != nil {
		s.note("%v", err)
	}
	if c.Bool("json") {
		err = s.json(r)
	} else {
		err = r.Text(s.out)
	}
	switch {
	case err != nil:
		return err
	case r.Broken:
		return exitf(exitBroken, "%s", strings.ToLower(r.Verdict()))
	case c.Context.Err() != nil:
		return exitf(exitInterrupted, "interrupted; everything is undone")
	case r.Why != "":
		return exitf(exitFailed, "the game ended early: %s", r.Why)
	}
	return nil
}

// whoami is who plays, for the others: a person's name if sudo tells it, and the machine.
func whoami() string {
	who := os.Getenv("SUDO_USER")
	if who == "" {
		who = "root"
	}
	if host, err := os.Hostname(); err == nil {
		who += " on " + host
	}
	return who
}

func showSchedule(c *cli.Context, s *screen, o game.Options, g *game.Game, plan []game.Planned) error {
	if c.Bool("json") {
		return s.json(plan)
	}
	t := newTable("AT", "ROUND", "FAULT", "ON", "FOR", "WHAT")
	for _, p := range plan {
		kind, err := gameday.Find(p.Fault)
		if err != nil {
			return err
		}
		on, hold, what := p.Node, "-", kind.What
		if p.Peer != "" {
			on += " and " + p.Peer
		}
		if p.Hold > 0 {
			hold = p.Hold.String()
		}
		if p.Percent > 0 {
			what = fmt.Sprintf("%s: %d %%", what, p.Percent)
		}
		t.add("+"+p.At.Round(time.Second).String(), p.Round, p.Fault, on, hold, what)
	}
	s.table(t)
	s.note("seed %d; nothing was touched. Times are the earliest: each round waits until the cluster is whole. Watched: %s", o.Seed, strings.Join(g.Watched(), ", "))
	return nil
}

func listFaults(c *cli.Context) error {
	s := newScreen(c)
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(gameday.Catalogue)
	}
	t := newTable("FAULT", "KIND", "HELD", "WHAT IT DOES", "HOW IT ENDS", "NEEDS")
	for _, f := range gameday.Catalogue {
		kind, held := cell{"safe", green}, "-"
		switch {
		case f.Destructive:
			kind = cell{"destructive", red}
		case f.ByName:
			kind = cell{"safe, by name", yellow}
		}
		switch {
		case f.Least < f.Most:
			held = fmt.Sprintf("%v to %v", f.Least, f.Most)
		case f.Most > 0:
			held = "up to " + f.Most.String()
		}
		t.add(f.Name, kind, held, f.What, f.Undo, f.Needs)
	}
	s.table(t)
	return nil
}

// reports are the files that a game's report goes to. They are opened before it begins: a game without its report is lost.
type reports []*os.File

func openReports(paths []string) (reports, error) {
	var out reports
	for _, p := range paths {
		switch filepath.Ext(p) {
		case ".html", ".txt", ".json":
		default:
			out.close()
			return nil, job.Errorf(job.Invalid, "--report %s: it takes a name that ends in .html, .txt or .json", p)
		}
		f, err := os.Create(p)
		if err != nil {
			out.close()
			return nil, fmt.Errorf("--report: %w", err)
		}
		out = append(out, f)
	}
	return out, nil
}

func (rs reports) write(r *game.Report) error {
	var errs []error
	for _, f := range rs {
		var err error
		switch filepath.Ext(f.Name()) {
		case ".html":
			err = r.HTML(f)
		case ".txt":
			err = r.Text(f)
		default:
			err = (&screen{out: f}).json(r)
		}
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("report %s: %w", f.Name(), err))
		}
	}
	return errors.Join(errs...)
}

func (rs reports) close() {
	for _, f := range rs {
		_ = f.Close() // closed already, or nothing was written
	}
}

// chaosAsk bounds one question about game days.
const chaosAsk = 3 * time.Second

func chaosStatus(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	list, err := cl.Nodes(c.Context)
	if err != nil {
		return err
	}
	all := make([]any, 0, len(list.Nodes)) // api.ChaosStatus, or noAnswer
	t := newTable("NODE", "ALLOWS", "GAME", "BY", "UNTIL", "BROKEN ON PURPOSE")
	on := false
	for i := range list.Nodes {
		n := &list.Nodes[i]
		ctx, cancel := context.WithTimeout(c.Context, chaosAsk)
		st, err := cl.Chaos(ctx, n.ID)
		cancel()
		if err != nil {
			all = append(all, noAnswer{Node: string(n.ID), Error: err.Error()})
			t.add(n.Name, cell{"?", yellow}, "?", "?", "?", cell{"does not answer: " + err.Error(), yellow})
			continue
		}
		all = append(all, st)
		var id, by, until string
		fault := cell{text: "nothing"}
		if st.Game != nil {
			on = true
			id, by, until = st.Game.ID, st.Game.By, st.Game.Until.Local().Format(time.TimeOnly)
		}
		if f := st.Fault; f != nil {
			on = true
			fault = cell{fmt.Sprintf("%s until %s", f.Fault, f.Deadline.Local().Format(time.TimeOnly)), red}
		}
		t.add(n.Name, st.Policy, id, by, until, fault)
	}
	if c.Bool("json") {
		return s.json(all)
	}
	s.table(t)
	if !on {
		s.note("no game is on")
	}
	return nil
}

func stopChaos(c *cli.Context) error {
	s := newScreen(c)
	if err := wantArgs(c, 0, 0); err != nil {
		return err
	}
	if c.Bool("local") {
		return stopLocal(c, s)
	}
	cl, err := dial(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	list, err := cl.Nodes(c.Context)
	if err != nil {
		return fmt.Errorf("%w; on each node `shoal chaos stop --local` works without an agent", err)
	}
	var ids []job.NodeID
	for i := range list.Nodes {
		if list.Nodes[i].State != job.NodeLeft {
			ids = append(ids, list.Nodes[i].ID)
		}
	}
	left := game.StopAll(c.Context, cl, "", ids, c.Duration("wait"))
	if len(left) > 0 {
		return exitf(exitFailed, "not everything could be undone:\n  %s", strings.Join(left, "\n  "))
	}
	ctx, cancel := context.WithTimeout(c.Context, chaosAsk)
	defer cancel()
	_ = cl.NoteGame(ctx, api.ChaosNote{Text: "the game day was stopped by " + whoami() + ": everything is undone"}) // for people only
	s.note("everything is undone on %d nodes, and no game is on", len(ids))
	return nil
}
