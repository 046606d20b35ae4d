package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"shoal/consensus/job"
	"shoal/node/api"
)

// printWhere prints what would be placed where, and what would not, by a rehearsal at the leader. Nothing is changed.
func printWhere(ctx context.Context, s *screen, cl *api.Client, spec *job.Spec, c *comparison) error {
	r, err := cl.Rehearse(ctx, *spec)
	switch job.KindOf(err) {
	case "":
	case job.Denied, job.NotFound: // a reader's role, or an agent of before
		s.note("where tasks would be placed cannot be told: %v", err)
		return nil
	default:
		return err
	}
	if len(r.Tasks)+len(r.Blocked)+len(r.Taken) == 0 {
		return nil
	}
	s.printf("\nplaced, if all goes well:\n")
	t := newTable("SERVICE", "NODE", "TASKS", "")
	for _, row := range whereRows(&r) {
		t.add(row.service, row.node, row.tasks, row.change)
	}
	s.table(t)
	if err := printPulls(ctx, s, cl, c, &r); err != nil {
		return err
	}
	for _, b := range r.Blocked {
		s.printf("%s\n", s.paint(red, fmt.Sprintf("%s of %s would wait: %s", plural(b.Slots, "task"), b.Service, oneLine(b.Reason))))
	}
	for _, k := range r.Taken {
		then := "fits nowhere else now"
		if k.To != "" {
			then = "would go on at " + k.To
		}
		s.printf("%s\n", s.paint(yellow, fmt.Sprintf("%s/%s at %s would make room (%s); it %s", k.Job, k.Name, k.Node, k.Cause, then)))
	}
	if r.Cut {
		s.printf("this change takes too many steps to be followed to its end\n")
	}
	return nil
}

type whereRow struct {
	service, node, change string
	tasks                 int
}

// whereRows counts the tasks of a service on each node, and how many of them are new there, come from elsewhere, or stay.
func whereRows(r *job.Rehearsal) []whereRow {
	type key struct{ service, node string }
	type sums struct{ kept, fresh, moved, renewed int }
	by := map[key]*sums{}
	for _, t := range r.Tasks {
		k := key{t.Service, t.Node}
		if by[k] == nil {
			by[k] = &sums{}
		}
		switch {
		case t.Kept:
			by[k].kept++
		case t.Was == "":
			by[k].fresh++
		case t.Was == t.Node:
			by[k].renewed++
		default:
			by[k].moved++
		}
	}
	var rows []whereRow
	for k, v := range by {
		var parts []string
		for _, p := range []struct {
			n    int
			text string
		}{{v.fresh, "new"}, {v.moved, "from another node"}, {v.renewed, "replaced"}, {v.kept, "as it is"}} {
			if p.n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", p.n, p.text))
			}
		}
		rows = append(rows, whereRow{k.service, k.node, strings.Join(parts, ", "), v.kept + v.fresh + v.moved + v.renewed})
	}
	slices.SortFunc(rows, func(a, b whereRow) int {
		return cmp.Or(strings.Compare(a.service, b.service), strings.Compare(a.node, b.node))
	})
	return rows
}
