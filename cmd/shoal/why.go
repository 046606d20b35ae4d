package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/node/api"
)

func whyCommand() *cli.Command {
	return &cli.Command{
		Name: "why", Category: categoryLook,
		Usage:     "tell what led to a task and what became of it, step by step",
		ArgsUsage: "TASK",
		Description: "TASK is an id or its beginning, or JOB/SERVICE.NUMBER; JOB/SERVICE tells what is held back.\n" +
			"Times are by the clocks of the machines that saw them.\n\nExample: shoal why web/front.2",
		Flags:  clientFlags(jsonFlag()),
		Action: asking(why),
	}
}

func why(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	w, err := cl.Why(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return s.json(w)
	}
	s.stale(w.Stale, w.Index)
	printWhy(s, &w, time.Now())
	return nil
}

func printWhy(s *screen, w *api.Why, now time.Time) {
	if w.Task.ID != "" {
		d := describe(&w.Task, now)
		s.printf("%s  task %s on node %s, %s\n", s.paint(bold, fullName(&w.Task)), w.Task.ID, w.Task.NodeName, s.paint(d.style, d.text))
		if r := remark(&w.Task); r != "" {
			s.printf("%s\n", oneLine(r))
		}
		s.printf("\n")
		s.table(timeline(w.Steps))
	}
	for _, b := range w.Blocked {
		s.printf("%s of %s/%s held back for %s: %s\n", plural(b.Slots, "task"), b.Job, b.Service, ageOf(b.Since, now), oneLine(b.Reason))
	}
}

// timeline lists steps with the time since the first and since the one before. The offset sums what lies between, so
// that clocks which disagree cannot make it run backwards.
func timeline(steps []api.Step) *table {
	t := newTable("TIME", "OFFSET", "STEP", "WHAT", "NODE", "INDEX", "")
	var offset time.Duration
	for _, st := range steps {
		offset += st.Since
		index := ""
		if st.Index > 0 {
			index = fmt.Sprint(st.Index)
		}
		t.add(cell{clock(st.At), dim}, millis(offset), cell{"+" + millis(st.Since), cyan}, cell{st.What, stepStyle(st.What)}, st.Node, index, st.Text)
	}
	return t
}

func stepStyle(what string) style {
	switch what {
	case "suspect", "stopping", "asked to stop", "asked to give up":
		return yellow
	case "dead", "node down", "failed", "lost", "predecessor failed":
		return red
	case "running", "healthy", "complete":
		return green
	}
	return plainStyle
}
