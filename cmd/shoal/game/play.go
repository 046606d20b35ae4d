package game

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/gameday"
)

// Times of a game.
const (
	// settleLooks in a row must find the cluster whole.
	settleLooks = 3
	// giveUp is how much longer than it may the cluster is watched at the least while it does not recover.
	giveUp = 5 * time.Second
	// undoLate is how late after its deadline a fault may be undone, from the point of view of who asks from time to time.
	undoLate = 10 * time.Second
	// cleanUp bounds the end of a game, also when nodes do not answer.
	cleanUp = 90 * time.Second
	poll    = 100 * time.Millisecond
	// fresh is how old the looks may be on which the next fault begins.
	fresh = 2 * time.Second
	// slack is how long the nodes keep a game whose client is gone, beyond its time.
	slack = 2 * time.Minute
)

// Played is a fault of the schedule and what became of it. Times are the client's.
type Played struct {
	Planned
	On      string    `json:"on"` // the node that was hit
	Task    string    `json:"task,omitempty"`
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	UndidIt string    `json:"undoneBy,omitempty"`
	Proof   string    `json:"proof,omitempty"`
	// Skipped says why it was not played, Failed why it could not be.
	Skipped string `json:"skipped,omitempty"`
	Failed  string `json:"failed,omitempty"`
	Cost    Cost   `json:"cost"`

	id     string
	nodeID job.NodeID
	before []api.Task // of the node, when it began
	// silent: the node could not do its part. blind: it was the one that the game asks, so that the game saw nothing.
	silent, blind bool
	late          time.Duration // how late it was undone
	unfenced      string
}

// Game is one that is played.
type Game struct {
	cl    Cluster
	o     Options
	say   func(format string, args ...any)
	id    string
	by    string
	begun time.Time

	home   api.Status
	hit    []string // the nodes that may be hit, sorted
	nodes  []api.NodeView
	w      *watcher
	played []*Played
	fenced map[string]bool // job/service
}

// New looks at the cluster and refuses one that is not whole, or that does not want a game. Nothing is changed.
func New(ctx context.Context, cl Cluster, o Options, by string, say func(format string, args ...any)) (*Game, []Planned, error) {
	if err := o.Check(); err != nil {
		return nil, nil, err
	}
	g := &Game{cl: cl, o: o, say: say, id: api.NewKey()[:12], by: by, fenced: map[string]bool{}}
	var err error
	if g.home, err = cl.Status(ctx); err != nil {
		return nil, nil, err
	}
	// Asked first: while a game is on the cluster is not whole, and that is why.
	if st, err := cl.Chaos(ctx, ""); err == nil && st.Game != nil {
		return nil, nil, gameIsOn(st.Game)
	}
	v, err := ask(ctx, cl)
	if err != nil {
		return nil, nil, err
	}
	g.nodes = v.nodes.Nodes
	if g.hit, err = hittable(g.nodes, o.Nodes); err != nil {
		return nil, nil, err
	}
	watched := o.Jobs
	if len(watched) == 0 {
		watched = v.watchable()
	}
	for end := time.Now().Add(o.Settle); len(v.unwell(watched)) > 0 && time.Now().Before(end) && sleep(ctx, lookEvery); {
		if again, err := ask(ctx, cl); err == nil {
			v, g.nodes = again, again.nodes.Nodes
		}
	}
	if bad := v.unwell(watched); len(bad) > 0 {
		return nil, nil, job.Errorf(job.Conflict, "the cluster is not whole, so a game would prove nothing and might do harm: %s. Mend that first, or watch other jobs with --jobs", strings.Join(bad, "; "))
	}
	if err := g.allowed(ctx, g.hit); err != nil {
		return nil, nil, err
	}
	if err := g.findFenced(ctx, watched); err != nil {
		return nil, nil, err
	}
	g.w = &watcher{cl: cl, home: g.home.Node, watched: watched, reg: register{open: map[uint64]bool{}}}
	return g, Schedule(g.o, g.hit), nil
}

func gameIsOn(g *api.ChaosGame) error {
	return job.Errorf(job.Conflict, "a game that %s began is on until %s; `shoal chaos status` tells more, `shoal chaos stop` ends it", g.By, g.Until.Local().Format(time.TimeOnly))
}

// Watched are the jobs that the game watches.
func (g *Game) Watched() []string { return g.w.watched }

// allowed asks every node whether it would take part; those that would be hit must also allow it.
func (g *Game) allowed(ctx context.Context, hit []string) error {
	destructive := slices.ContainsFunc(g.o.Faults, func(name string) bool { f, _ := gameday.Find(name); return f.Destructive })
	for i := range g.nodes {
		n := &g.nodes[i]
		if n.State == job.NodeLeft {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, askPatience)
		st, err := g.cl.Chaos(asking, n.ID)
		cancel()
		switch {
		case job.KindOf(err) == job.NotFound:
			return job.Errorf(job.Conflict, "node %s runs version %s, which knows no game days: upgrade it first", n.Name, n.Version)
		case err != nil:
			return fmt.Errorf("ask node %s: %w", n.Name, err)
		case st.Game != nil:
			return gameIsOn(st.Game)
		case st.Fault != nil:
			return job.Errorf(job.Conflict, "%s of an earlier game is not undone on node %s yet; `shoal chaos stop` undoes it", st.Fault.Fault, n.Name)
		case st.Policy == string(gameday.Never):
			return job.Errorf(job.Denied, "the agent of node %s was started with --chaos=never, so no game is played on this cluster", n.Name)
		case destructive && st.Policy != string(gameday.Allow) && slices.Contains(hit, n.Name):
			return job.Errorf(job.Denied, "the agent of node %s was started with --chaos=%s, which allows nothing destructive: leave it out with --nodes, or those faults", n.Name, st.Policy)
		}
	}
	return nil
}

func (g *Game) findFenced(ctx context.Context, watched []string) error {
	for _, name := range watched {
		d, err := g.cl.Job(ctx, name, false)
		if err != nil {
			return err
		}
		for i := range d.Job.Spec.Services {
			if s := &d.Job.Spec.Services[i]; s.FailoverPolicy().Mode == job.FailoverFenced {
				g.fenced[name+"/"+s.Name] = true
			}
		}
	}
	return nil
}

// Play plays the schedule until its end, a broken promise, a stop, or ctx's end; whatever the reason, everything is undone
// and the report says how it was. An error means that the game could not begin, and that nothing was done.
func (g *Game) Play(ctx context.Context, plan []Planned) (*Report, error) {
	if err := g.enter(ctx, plan); err != nil {
		return nil, err
	}
	g.begun = time.Now()
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { g.w.run(watching) })
	g.note(ctx, "", "a game day begins: %s breaks things on purpose for %v (%s, seed %d)", g.by, g.o.For, g.id, g.o.Seed)
	why := g.rounds(ctx, plan)
	if why == "" && ctx.Err() != nil {
		why = "interrupted"
	}
	if why == "" { // a little calm, so that what comes late is seen
		sleep(ctx, g.o.Pause)
	}
	// The last change is read once more; then nobody looks any more, because what was written is removed.
	g.w.pause()
	g.w.look(watching)
	stop()
	wg.Wait()
	ended := time.Now()
	left := g.leave(context.WithoutCancel(ctx))
	return g.report(why, ended, left), nil
}

// enter makes every node take part, in the order of their ids, so that of two games that begin at once one is refused.
func (g *Game) enter(ctx context.Context, plan []Planned) error {
	ids := g.memberIDs()
	slices.Sort(ids)
	now := time.Now()
	var longest time.Duration // the last fault may begin at the very end, and is waited for
	for _, p := range plan {
		longest = max(longest, p.Hold)
	}
	game := api.ChaosGame{ID: g.id, By: g.by, Began: now, Until: now.Add(g.o.For + longest + 2*g.patience() + slack)}
	for i, id := range ids {
		asking, cancel := context.WithTimeout(ctx, askPatience)
		err := g.cl.JoinGame(asking, id, game)
		cancel()
		if err != nil {
			StopAll(context.WithoutCancel(ctx), g.cl, g.id, ids[:i+1], cleanUp)
			return err
		}
	}
	return nil
}

func (g *Game) memberIDs() []job.NodeID {
	var ids []job.NodeID
	for i := range g.nodes {
		if g.nodes[i].State != job.NodeLeft {
			ids = append(ids, g.nodes[i].ID)
		}
	}
	return ids
}

// note writes into the cluster's history. That it could not is no reason to stop: a fault may be why.
func (g *Game) note(ctx context.Context, node job.NodeID, format string, args ...any) {
	asking, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	text := fmt.Sprintf(format, args...)
	if err := g.cl.NoteGame(asking, api.ChaosNote{Node: node, Text: text[:min(len(text), 300)]}); err != nil && ctx.Err() == nil {
		g.say("cannot write into the cluster's history: %v", err)
	}
}

// rounds plays until it has to stop and says why, "" when the schedule is done.
func (g *Game) rounds(ctx context.Context, plan []Planned) string {
	for len(plan) > 0 {
		n := slices.IndexFunc(plan, func(p Planned) bool { return p.Round != plan[0].Round })
		if n < 0 {
			n = len(plan)
		}
		round := plan[:n]
		plan = plan[n:]
		if !sleep(ctx, time.Until(g.begun.Add(round[0].At))) {
			return "interrupted"
		}
		if time.Since(g.begun) > g.o.For {
			return ""
		}
		if why := g.round(ctx, round); why != "" {
			return why
		}
		if !sleep(ctx, g.o.Pause) {
			return "interrupted"
		}
	}
	return ""
}

// round begins the faults of a round, waits for their ends and for the cluster to be whole again.
func (g *Game) round(ctx context.Context, round []Planned) string {
	v, ok := g.awaitWhole(ctx, time.Now().Add(-fresh), g.patience())
	if !ok {
		if ctx.Err() != nil {
			return "interrupted"
		}
		return "the cluster is not whole any more, so the next fault would prove nothing"
	}
	var under []*Played
	for _, p := range round {
		f := &Played{Planned: p}
		g.played = append(g.played, f)
		g.aim(ctx, f, &v, under)
		if f.Skipped == "" {
			under = append(under, f)
		}
	}
	var wg sync.WaitGroup
	for _, f := range under {
		wg.Go(func() { g.hold(ctx, f) })
	}
	wg.Wait()
	if slices.ContainsFunc(under, func(f *Played) bool { return f.Failed == stoppedElsewhere }) {
		return stoppedElsewhere
	}
	if ctx.Err() != nil {
		return "interrupted"
	}
	return g.recover(ctx, under)
}

const stoppedElsewhere = "somebody stopped the game"

// patience is how long the cluster is watched while it does not recover: twice as long as it may take.
func (g *Game) patience() time.Duration { return g.o.Within + max(g.o.Within, giveUp) }

// awaitWhole waits until the last looks, none older than since, find the cluster whole, and gives the last.
func (g *Game) awaitWhole(ctx context.Context, since time.Time, patience time.Duration) (view, bool) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if s := g.w.since(since); len(s) >= settleLooks {
			if _, ok := settledAt(s[len(s)-settleLooks:], settleLooks); ok {
				return g.w.latest(since)
			}
		}
		if !sleep(ctx, poll) {
			break
		}
	}
	return view{}, false
}

// hold begins the fault and waits until it is undone.
func (g *Game) hold(ctx context.Context, f *Played) {
	f.id = api.NewKey()[:12]
	g.note(ctx, f.nodeID, "%s, on purpose (game %s)", f.title(), g.id)
	asking, cancel := context.WithTimeout(ctx, askPatience+gamedayArm)
	defer cancel()
	r := api.ChaosRequest{ID: f.id, Game: g.id, Fault: f.Fault, Hold: f.Hold, Task: f.Task, SizeBytes: g.o.SizeBytes, Percent: f.Percent}
	for i := range g.nodes {
		if g.nodes[i].Name == f.Peer {
			r.Peer = g.nodes[i].ID
		}
	}
	asked := time.Now()
	_, err := g.cl.Inject(asking, f.nodeID, r)
	switch {
	case job.KindOf(err) == job.NotFound && strings.Contains(err.Error(), gameday.ErrNoGame.Error()):
		f.Failed = stoppedElsewhere
		return
	case errors.Is(err, context.Canceled):
		f.Failed = "interrupted"
		return
	case err != nil:
		f.Failed = err.Error()
		g.say("%s: %v", f.title(), err)
		return
	}
	f.Began = time.Now()
	g.say("%s", f.title())
	g.awaitUndone(ctx, f, asked)
}

// gamedayArm is how long a node may take to promise a fault.
const gamedayArm = 10 * time.Second

// awaitUndone asks the node until it says how the fault ended.
func (g *Game) awaitUndone(ctx context.Context, f *Played, asked time.Time) {
	deadline := f.Began.Add(f.Hold)
	patience := undoLate
	if f.silent { // nobody may reach it before it is back
		patience += g.o.Within
	}
	for sleep(ctx, poll) {
		asking, cancel := context.WithTimeout(ctx, lookPatience)
		sent := time.Now()
		st, err := g.cl.Chaos(asking, f.nodeID)
		cancel()
		if err == nil {
			// The node's clock may be another: half of the way is our guess of when it answered.
			skew := st.Now.Sub(sent.Add(time.Since(sent) / 2))
			if i := slices.IndexFunc(st.Outcomes, func(o api.ChaosOutcome) bool { return o.ID == f.id }); i >= 0 {
				o := st.Outcomes[i]
				f.Began, f.Ended = o.Began.Add(-skew), o.Undone.Add(-skew)
				f.UndidIt, f.Proof, f.Failed = o.By, o.Proof, o.Error
				f.late = max(0, f.Ended.Sub(f.Began)-f.Hold)
				return
			}
			if st.Game == nil || st.Game.ID != g.id {
				f.Failed, f.Ended = stoppedElsewhere, time.Now()
				return
			}
		}
		if time.Since(deadline) > patience {
			f.Ended, f.late = deadline, time.Since(deadline)
			f.Failed = "whether it was undone is not known: the node does not answer"
			return
		}
	}
	f.Ended, f.Failed = time.Now(), "interrupted"
}

// recover waits until the cluster is whole after the last of the faults, and says why the game cannot go on, "" if it can.
func (g *Game) recover(ctx context.Context, under []*Played) string {
	if len(under) == 0 {
		return ""
	}
	var ended time.Time
	for _, f := range under {
		if f.Ended.IsZero() {
			f.Ended = time.Now() // it did not begin
		}
		if f.Ended.After(ended) {
			ended = f.Ended
		}
	}
	_, whole := g.awaitWhole(ctx, ended, g.patience())
	g.weigh(ctx, under, ended)
	for _, f := range under {
		if f.Failed != "" {
			continue
		}
		g.note(ctx, f.nodeID, "%s on %s is over (game %s)", f.Fault, f.On, g.id)
		g.say("  %s", f.Cost.sentence())
	}
	switch {
	case ctx.Err() != nil:
		return "interrupted"
	case !whole:
		return "the cluster did not recover"
	case !g.o.KeepGoing:
		if b := g.firstBroken(); b != "" {
			return "a promise was broken: " + b
		}
	}
	return ""
}
