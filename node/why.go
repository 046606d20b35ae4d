package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Why tells what led to a task and what became of it, in causal order.
func (n *Node) Why(_ context.Context, ref string) (api.Why, error) {
	v := n.state.View()
	t, err := findTask(v, ref)
	if err != nil {
		return whyBlocked(v, ref, err)
	}
	w := api.Why{Meta: api.Meta{Index: v.Index()}, Task: viewTask(v, t)}
	steps := append(causes(v, t), api.Step{At: t.Placed, What: "placed", Index: t.Index, Node: w.Task.NodeName, Text: t.Cause})
	steps = append(steps, life(v, t, w.Task.NodeName)...)
	for i := range steps {
		if i > 0 {
			steps[i].Since = sinceStep(steps[i-1].At, steps[i].At)
		}
	}
	w.Steps = steps
	for _, b := range v.Blocked(t.Job) {
		if b.Service == t.Service {
			w.Blocked = append(w.Blocked, *b)
		}
	}
	return w, nil
}

// whyBlocked answers for "job" or "job/service" that has slots without a task.
func whyBlocked(v *state.View, ref string, notFound error) (api.Why, error) {
	jobName, service, _ := strings.Cut(ref, "/")
	service, _, _ = strings.Cut(service, ".")
	w := api.Why{Meta: api.Meta{Index: v.Index()}}
	for _, b := range v.Blocked(jobName) {
		if service == "" || b.Service == service {
			w.Blocked = append(w.Blocked, *b)
		}
	}
	if len(w.Blocked) > 0 {
		return w, nil
	}
	j := v.Job(jobName)
	switch {
	case j == nil || strings.Contains(ref, "."):
		return w, notFound
	case service != "" && !slices.ContainsFunc(j.Spec.Services, func(s job.Service) bool { return s.Name == service }):
		return w, job.Errorf(job.NotFound, "job %s has no service %q; `shoal ps %s` lists them", jobName, service, jobName)
	}
	return w, job.Errorf(job.Invalid, "nothing of %s is held back; ask for one of its tasks, as `shoal ps %s` lists them", ref, jobName)
}

// causes finds what made the leader place a task: the loss of its predecessor's node, its predecessor's failure, or
// what a user asked for.
func causes(v *state.View, t *job.Task) []api.Step {
	if steps := runSteps(v, t); t.Replaces == "" && steps != nil {
		return steps
	}
	if t.Replaces != "" {
		prev := v.Task(t.Replaces)
		if prev == nil { // forgotten meanwhile; what was submitted long ago is not the cause
			return nil
		}
		if steps := nodeLoss(v, prev, t); len(steps) > 0 {
			return steps
		}
		if st := v.Status(prev.ID); st != nil && st.State == job.Failed {
			return []api.Step{{At: st.At[job.Failed], What: "predecessor failed", Node: nodeName(v, prev.Node), Text: st.Message}}
		}
		return nil
	}
	var asked *job.Event
	for _, e := range v.Events(state.EventFilter{Job: t.Job}) {
		if (e.Kind == job.EventJobSubmitted || e.Kind == job.EventJobScaled) && e.Index < t.Index {
			asked = e
		}
	}
	if asked == nil {
		return nil
	}
	return []api.Step{{At: asked.Time, What: strings.TrimPrefix(asked.Kind, "job-"), Index: asked.Index, Text: asked.Message}}
}

var lossWords = map[string]string{job.EventNodeSuspect: "suspect", job.EventNodeDead: "dead", job.EventNodeDown: "node down"}

// nodeLoss lists the last suspicion, death and decision about prev's node before t was placed.
func nodeLoss(v *state.View, prev, t *job.Task) []api.Step {
	last := map[string]*job.Event{}
	for _, e := range v.Events(state.EventFilter{Node: prev.Node, Since: prev.Index}) {
		if lossWords[e.Kind] != "" && e.Task == "" && e.Index <= t.Index {
			last[e.Kind] = e
		}
	}
	down := last[job.EventNodeDown]
	if down == nil {
		return nil
	}
	var steps []api.Step
	for _, kind := range []string{job.EventNodeSuspect, job.EventNodeDead, job.EventNodeDown} {
		e := last[kind]
		if e == nil || e.Index != down.Index { // one command records all three
			continue
		}
		s := api.Step{At: e.Time, What: lossWords[kind], Node: nodeName(v, prev.Node), Text: e.Message}
		if kind == job.EventNodeDown {
			s.Index = e.Index
		}
		steps = append(steps, s)
	}
	return append(steps, released(v, prev)...)
}

// released is the moment at which a task of a lost node that was held was set free to be replaced.
func released(v *state.View, prev *job.Task) []api.Step {
	for _, e := range v.Events(state.EventFilter{Task: prev.ID}) {
		if e.Kind == job.EventTaskReleased && e.Index == prev.Released {
			return []api.Step{{At: e.Time, What: "released", Index: e.Index, Node: nodeName(v, prev.Node), Text: e.Message}}
		}
	}
	return nil
}

// life lists the states that a task reached, as its node saw them.
func life(v *state.View, t *job.Task, node string) []api.Step {
	st := v.Status(t.ID)
	var steps []api.Step
	add := func(s job.State, what, text string) {
		if st != nil && !st.At[s].IsZero() {
			steps = append(steps, api.Step{At: st.At[s], What: what, Node: node, Text: text})
		}
	}
	for _, s := range []job.State{job.Pulling, job.Created, job.Running} {
		add(s, string(s), "")
	}
	add(job.State(job.Healthy), string(job.Healthy), "")
	for _, e := range v.Events(state.EventFilter{Task: t.ID}) {
		switch e.Kind {
		case job.EventTaskTuned:
			steps = append(steps, api.Step{At: e.Time, What: "changed", Index: e.Index, Text: e.Message})
		case job.EventTaskRenew:
			steps = append(steps, api.Step{At: e.Time, What: "restart", Index: e.Index, Text: e.Message})
		}
	}
	if t.Desired != job.DesiredRun {
		for _, e := range v.Events(state.EventFilter{Task: t.ID}) {
			if e.Kind == job.EventTaskStop {
				steps = append(steps, api.Step{At: e.Time, What: "asked to " + strings.Replace(string(t.Desired), "lost", "give up", 1), Index: e.Index, Text: t.StopCause})
			}
		}
	}
	add(job.Stopping, string(job.Stopping), "")
	for _, s := range []job.State{job.Complete, job.Failed, job.Lost} {
		add(s, string(s), ending(st))
	}
	return steps
}

func ending(st *job.Status) string {
	if st == nil {
		return ""
	}
	var parts []string
	if st.ExitCode != nil {
		parts = append(parts, fmt.Sprintf("exit code %d", *st.ExitCode))
	}
	if st.OOM {
		parts = append(parts, "out of memory")
	}
	if st.Message != "" {
		parts = append(parts, st.Message)
	}
	return strings.Join(parts, ", ")
}

func nodeName(v *state.View, id job.NodeID) string {
	if node := v.Node(id); node != nil {
		return node.Name
	}
	return string(id)
}
