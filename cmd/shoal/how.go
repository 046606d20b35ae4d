package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"shoal/consensus/job"
	"shoal/node/api"
)

// comparison is a job as it is and as it would be.
type comparison struct {
	old     *job.Spec // nil: there is no such job
	taken   *job.Spec // as the cluster would take it, with names of images resolved
	changes job.Changes
}

func (c *comparison) known() bool { return c.old != nil }

// compareWith asks the cluster what it has of a job, and what it would make of a spec.
func compareWith(ctx context.Context, s *screen, cl *api.Client, spec *job.Spec) (comparison, error) {
	var c comparison
	err := persist(ctx, s, cl, func() error {
		d, err := cl.Job(ctx, spec.Name, false)
		if job.KindOf(err) == job.NotFound {
			return nil
		}
		c.old = &d.Job.Spec
		return err
	})
	if err != nil {
		return c, err
	}
	c.taken = spec // a new job: names of images are as people wrote them
	if c.old != nil {
		dry, err := cl.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: *spec, DryRun: true})
		if err != nil {
			return c, err
		}
		c.taken = &dry.Job.Spec
	}
	c.changes = job.Diff(c.old, c.taken)
	return c, nil
}

// printHow says how the services that change come to be as they shall: a line each, after the differences.
func (c *comparison) printHow(s *screen) {
	for _, line := range c.how() {
		s.printf("  %s\n", s.paint(dim, line))
	}
}

// how words what printHow says. A service that is new, goes or is only scaled needs no words.
func (c *comparison) how() (lines []string) {
	if c.old == nil {
		return nil
	}
	for i := range c.changes.Services {
		ch := &c.changes.Services[i]
		was, is := c.old.Service(ch.Name), c.taken.Service(ch.Name)
		if was == nil || is == nil {
			continue
		}
		text := ""
		switch {
		case ch.Kind == job.ServiceInPlace:
			text = "tasks take it over where they run, all at once"
			if job.Wary(was, is) {
				u := is.UpdatePolicy(false)
				text = fmt.Sprintf("tasks take it over where they run, %s, each watched for %v", atATime(u.Parallelism), u.Monitor)
				if u.Canaries > 0 {
					text += ", " + howCanaries(u)
				}
			}
		case ch.Replace:
			text = howReplaced(was, is)
		default:
			continue
		}
		if first := c.waitsFor(is); first != "" {
			text += "; " + first
		}
		lines = append(lines, ch.Name+": "+text)
	}
	return lines
}

// howReplaced words the way in which a service's tasks are replaced.
func howReplaced(was, is *job.Service) string {
	u := is.UpdatePolicy(false)
	var parts []string
	parts = append(parts, atATime(u.Parallelism), howOrdered(was, is, u.Order))
	if u.Canaries > 0 && is.Renewal == was.Renewal {
		parts = append(parts, howCanaries(u))
	}
	parts = append(parts, fmt.Sprintf("each good after %v", u.Monitor))
	switch u.Failure {
	case job.FailContinue:
		parts = append(parts, "goes on when tasks fail")
	case job.FailPause:
		parts = append(parts, "pauses"+whenFail(u))
	default:
		parts = append(parts, "rolled back"+whenFail(u))
	}
	return "replaced " + strings.Join(parts, ", ")
}

func howCanaries(u job.Update) string {
	then := "then it waits for `shoal promote`"
	if u.AutoPromote {
		then = "the others follow when they are well"
	}
	return fmt.Sprintf("%s first, %s", canaries(u.Canaries), then)
}

func whenFail(u job.Update) string {
	if u.MaxFailureRatio > 0 {
		return fmt.Sprintf(" when more than %g %% fail", 100*u.MaxFailureRatio)
	}
	return " when one fails"
}

func atATime(n int) string {
	if n >= job.MaxReplicas {
		return "all at once"
	}
	return fmt.Sprintf("%d at a time", n)
}

// howOrdered says which of two tasks comes first, and why where nobody asked for it.
func howOrdered(was, is *job.Service, order job.UpdateOrder) string {
	switch {
	case order == job.StopFirst:
		return "stop-first"
	case order == job.StartFirst:
		return "start-first"
	case is.CanStartFirst() && was.CanStartFirst():
		return "start-first where there is room"
	case slices.ContainsFunc(is.Ports, func(p job.Port) bool { return p.Published != 0 }):
		return "stop-first (its port is taken until then)"
	}
	return "stop-first (two must not run beside each other)"
}

// waitsFor says which services that change too come before this one.
func (c *comparison) waitsFor(s *job.Service) string {
	var names []string
	for _, d := range s.DependsOn {
		i := slices.IndexFunc(c.changes.Services, func(ch job.ServiceChange) bool { return ch.Name == d.Service })
		if i >= 0 && (c.changes.Services[i].Replace || c.changes.Services[i].Kind == job.ServiceInPlace) {
			names = append(names, d.Service)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "after " + strings.Join(names, " and ")
}

// printPulls says which nodes would have to bring which images, as far as the tasks that are there tell what they have.
func printPulls(ctx context.Context, s *screen, cl *api.Client, c *comparison, r *job.Rehearsal) error {
	list, err := cl.Tasks(ctx, api.TaskQuery{All: true})
	if err != nil {
		return err
	}
	for _, line := range pulls(c, r, &list) {
		s.printf("%s\n", line)
	}
	return nil
}

// pulls words what printPulls says, a line an image.
func pulls(c *comparison, r *job.Rehearsal, list *api.TaskList) (lines []string) {
	has := map[string]bool{} // "node image", where the image is what a spec calls it, or a digest
	for i := range list.Tasks {
		t := &list.Tasks[i]
		if t.Status == nil || t.Status.At[job.Created].IsZero() && t.Status.At[job.Running].IsZero() {
			continue
		}
		has[t.NodeName+" "+t.Status.Image] = true
		if c.old != nil && t.Job == c.old.Name {
			if was := c.old.Service(t.Service); was != nil && was.Digest() == t.Digest {
				has[t.NodeName+" "+was.Image] = true
			}
		}
	}
	lacks := map[string][]string{}
	var images []string
	for _, t := range r.Tasks {
		is := c.taken.Service(t.Service)
		if t.Kept || is == nil {
			continue
		}
		_, digest, _ := strings.Cut(is.Image, "@")
		if has[t.Node+" "+is.Image] || digest != "" && has[t.Node+" "+digest] || slices.Contains(lacks[is.Image], t.Node) {
			continue
		}
		if lacks[is.Image] == nil {
			images = append(images, is.Image)
		}
		lacks[is.Image] = append(lacks[is.Image], t.Node)
	}
	for _, image := range images {
		slices.Sort(lacks[image])
		lines = append(lines, fmt.Sprintf("image %s: pulled before anything is stopped, unless it is there already: %s", tagOf(image), strings.Join(lacks[image], ", ")))
	}
	return lines
}
