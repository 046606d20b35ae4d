package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"shoal/consensus/job"
	"shoal/node/api"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Category: categoryLook,
		Usage: "show the processes of a task, or what all tasks use", ArgsUsage: "[TASK|JOB]",
		Description: "With a TASK it lists its processes. Without, or with the name of a job of several tasks, it shows what tasks use, as `shoal\n" +
			"stats` does: on a terminal until Ctrl-C; in a pipe, or with --once, it prints one table. 100 % is one CPU.\n\n" +
			"Examples:\n  shoal top\n  shoal top web/front.1",
		Flags:  clientFlags(statsFlags()...),
		Action: asking(top),
	}
}

func statsCommand() *cli.Command {
	return &cli.Command{
		Name: "stats", Category: categoryLook,
		Usage: "show what tasks use: CPU, memory, network, disk, processes", ArgsUsage: "[TASK|JOB...]",
		Description: "On a terminal it goes on until Ctrl-C; in a pipe, or with --no-stream, it prints one table. 100 % is one CPU. NET and BLOCK are\n" +
			"bytes in and out since the start.\n\nExample: shoal stats --no-stream web",
		Flags:  clientFlags(append(statsFlags(), &cli.BoolFlag{Name: "no-stream", Usage: "print one table and end"})...),
		Action: asking(stats),
	}
}

func statsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "once", Usage: "print one table and end"},
		&cli.DurationFlag{Name: "interval", Value: 2 * time.Second, Usage: "`TIME` over which CPU is measured"},
		jsonFlag(),
	}
}

func top(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, 1); err != nil {
		return err
	}
	word := c.Args().First()
	if t, err := oneTask(c.Context, cl, word); word != "" && err == nil && !c.IsSet("once") && !c.IsSet("interval") {
		return processes(c, s, cl, t)
	}
	return stats(c, s, cl)
}

func processes(c *cli.Context, s *screen, cl *api.Client, task *api.Task) error {
	list, err := cl.Processes(c.Context, string(task.ID))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(list)
	}
	t := newTable("USER", "PID", "PPID", "STATE", "START", "TIME", "MEMORY", "COMMAND")
	for _, p := range list {
		t.add(p.User, p.PID, p.Parent, p.State, p.Started.Local().Format("15:04:05"), p.CPU.Round(10*time.Millisecond).String(), job.FormatBytes(p.Memory), p.Command)
	}
	s.table(t)
	return nil
}

func stats(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 0, -1); err != nil {
		return err
	}
	interval := c.Duration("interval")
	if interval < 100*time.Millisecond {
		return exitf(exitUsage, "--interval %v: it takes at least 100ms", interval)
	}
	once := c.Bool("once") || c.Bool("no-stream") || c.Bool("json") || !s.terminal
	if once && !c.IsSet("interval") {
		interval = time.Second
	}
	before, err := measure(c.Context, cl, c.Args().Slice())
	for err == nil {
		if err = pause(c.Context, interval); err != nil {
			break
		}
		var now sample
		if now, err = measure(c.Context, cl, c.Args().Slice()); err != nil {
			break
		}
		usages := compare(&before, &now)
		switch {
		case c.Bool("json"):
			return s.json(usages)
		case once:
			s.table(usageTable(usages))
			return nil
		}
		var b bytes.Buffer
		buffered := *s
		buffered.out = &b
		buffered.table(usageTable(usages))
		s.printf("\x1b[H\x1b[2J%s\n\n%s", s.paint(dim, "every "+interval.String()+" until Ctrl-C"), b.String())
		before = now
	}
	if c.Context.Err() != nil && !once {
		return nil // Ctrl-C is how it ends
	}
	return err
}

// sample is the figures of all running tasks at about one time.
type sample struct {
	tasks []api.Task
	stats map[job.TaskID]reading
}

type reading struct {
	at    time.Time
	stats api.TaskStats
}

// measuring bounds how many tasks are asked at once.
const measuring = 16

func measure(ctx context.Context, cl *api.Client, words []string) (sample, error) {
	list, err := cl.Tasks(ctx, api.TaskQuery{})
	if err != nil {
		return sample{}, err
	}
	if len(words) > 0 {
		targets := make([]target, len(words))
		for i, w := range words {
			targets[i] = parseTarget(w)
		}
		if list.Tasks, err = pick(targets, list.Tasks); err != nil {
			return sample{}, err
		}
	}
	out := sample{tasks: list.Tasks, stats: map[job.TaskID]reading{}}
	readings := make([]*reading, len(list.Tasks))
	var g errgroup.Group
	g.SetLimit(measuring)
	for i := range list.Tasks {
		t := &list.Tasks[i]
		if t.State() != job.Running {
			continue
		}
		g.Go(func() error {
			if st, err := cl.Stats(ctx, string(t.ID)); err == nil { // a task that just ended, or whose node is away, has none
				readings[i] = &reading{time.Now(), st}
			}
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	for i, r := range readings {
		if r != nil {
			out.stats[list.Tasks[i].ID] = *r
		}
	}
	return out, ctx.Err()
}

// usage is what one task uses. CPUPercent is -1 while it is not known.
type usage struct {
	api.TaskStats
	Name       string  `json:"name"` // "web/front.2"
	NodeName   string  `json:"nodeName"`
	CPUPercent float64 `json:"cpuPercent"` // of one CPU
}

func compare(before, now *sample) []usage {
	out := []usage{}
	for i := range now.tasks {
		t := &now.tasks[i]
		r, ok := now.stats[t.ID]
		if !ok {
			continue
		}
		u := usage{TaskStats: r.stats, Name: fullName(t), NodeName: t.NodeName, CPUPercent: -1}
		if old, ok := before.stats[t.ID]; ok && r.at.After(old.at) && r.stats.CPU >= old.stats.CPU { // less: it was restarted
			u.CPUPercent = 100 * float64(r.stats.CPU-old.stats.CPU) / float64(r.at.Sub(old.at))
		}
		out = append(out, u)
	}
	return out
}

func usageTable(usages []usage) *table {
	t := newTable("NAME", "NODE", "CPU", "MEMORY", "LIMIT", "NET", "BLOCK", "PROCESSES", "TASK")
	both := func(in, out int64) string { return job.FormatBytes(in) + " / " + job.FormatBytes(out) }
	for _, u := range usages {
		cpu, limit := "", ""
		if u.CPUPercent >= 0 {
			cpu = fmt.Sprintf("%.1f %%", u.CPUPercent)
		}
		if u.MemoryLimit > 0 {
			limit = job.FormatBytes(u.MemoryLimit)
		}
		t.add(u.Name, u.NodeName, cpu, job.FormatBytes(u.MemoryBytes), limit, both(u.NetReceived, u.NetSent), both(u.BlockRead, u.BlockWritten), u.PIDs, string(u.Task))
	}
	return t
}
