package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// A job has no hope to become healthy by itself when one of its slots has failed so many times in a row, or when a task
// has been held up for so long: before its start, or by restarts of which there were so many.
const (
	hopelessFailures = 3
	hopelessHoldUp   = 30 * time.Second
)

// outlook is what a list of tasks means for somebody who waits for a job.
type outlook struct {
	want, ready int
	services    []prospect
	troubles    []trouble     // that will not go away by themselves
	changing    bool          // an update or rollback is under way
	canaries    []job.Rollout // updates that wait to be promoted, and nothing else does
	turned      *job.Rollout  // an update of what was asked for was given up: paused, or taken back; nil: not so
}

func (o *outlook) healthy() bool {
	return (o.ready >= o.want || len(o.canaries) > 0) && !o.changing && o.turned == nil
}

// prospect is how one service comes along.
type prospect struct {
	name        string
	want, ready int // want is 0 for a global service before its tasks are placed
	states      map[string]int
	remark      string // the latest trouble, "" if there is none
	batch       bool
	scheduled   bool // a batch that runs by its schedule: nothing of it is waited for
}

// leaving counts tasks that are to make place, former those of an earlier content that serve until it is their turn.
const (
	leaving = "leaving"
	former  = "of the former version"
)

// trouble is a reason for a job not to become healthy; task is nil for slots without one.
type trouble struct {
	task *api.Task
	text string
	run  *job.Run // of a batch that ended in it; nil: none
}

// String is the prospect's line without its name: "2/3 ready, 1 pulling: no other node has image x".
func (p *prospect) String() string {
	if p.batch {
		return p.batchLine()
	}
	parts := []string{fmt.Sprintf("%d/%d ready", p.ready, p.want)}
	for _, st := range []string{"pending", string(job.Placed), string(job.Pulling), string(job.Created), "starting", string(job.Running), "paused", string(job.Unhealthy), string(job.Stopping), string(job.Complete), string(job.Failed), string(job.Lost), former, leaving} {
		if n := p.states[st]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, st))
		}
	}
	line := strings.Join(parts, ", ")
	if p.remark != "" {
		line += ": " + p.remark
	}
	return line
}

// judge reduces a list of the tasks of spec's job. heldUp tells for how long the caller has seen a task being held up
// with a message; it may be nil.
func judge(spec *job.Spec, list *api.TaskList, heldUp func(*api.Task) time.Duration) outlook {
	o := outlook{want: list.Want, ready: list.Ready}
	for i := range spec.Services {
		svc := &spec.Services[i]
		if svc.IsBatch() {
			o.services = append(o.services, o.batch(spec.Name, svc, list))
			continue
		}
		o.services = append(o.services, o.service(svc, list, heldUp))
	}
	return o
}

func (o *outlook) service(svc *job.Service, list *api.TaskList, heldUp func(*api.Task) time.Duration) prospect {
	p := prospect{name: svc.Name, want: svc.Replicas, states: map[string]int{}}
	digest := svc.Digest()
	placed, slots := 0, map[string]bool{} // slots with a task
	for i := range list.Tasks {
		t := &list.Tasks[i]
		if t.Service != svc.Name {
			continue
		}
		if t.Digest != digest || t.Desired != job.DesiredRun {
			switch {
			case t.State().Terminal():
			case t.Desired == job.DesiredRun:
				p.states[former]++
				slots[t.Name] = true
			default:
				p.states[leaving]++
			}
			continue
		}
		placed++
		slots[t.Name] = true
		p.count(svc, t)
		if reason := hopeless(svc, t, heldUp); reason != "" {
			o.troubles = append(o.troubles, trouble{task: t, text: reason})
		}
	}
	blocked := 0
	for _, b := range list.Blocked {
		if b.Service == svc.Name {
			blocked += b.Slots
			p.remark = b.Reason
		}
	}
	if svc.Mode.PerNode() {
		p.want = placed + blocked
	}
	if n := p.want - len(slots); n > 0 {
		p.states["pending"] = n
	}
	return p
}

// count puts a task into the tallies.
func (p *prospect) count(svc *job.Service, t *api.Task) {
	state := t.State()
	word := string(state)
	switch {
	case t.Ready, state == job.Complete && svc.Restart.Policy != job.RestartAny:
		p.ready++
		return
	case state == job.Running && t.Status.Paused:
		word = "paused"
	case state == job.Running && t.Status.Health == job.HealthStarting:
		word = "starting"
	case state == job.Running && t.Status.Health == job.Unhealthy:
		word = string(job.Unhealthy)
	}
	p.states[word]++
	if t.Status != nil && t.Status.Message != "" {
		p.remark = t.Name + ": " + oneLine(t.Status.Message)
	}
}

// hopeless says why a task is no reason to wait any longer, "" if it is.
func hopeless(svc *job.Service, t *api.Task, heldUp func(*api.Task) time.Duration) string {
	state, failures := t.State(), t.Attempt
	if state == job.Failed {
		failures++
	}
	switch {
	case t.Ready:
		return ""
	case state == job.Failed && svc.Restart.Policy == job.RestartNever:
		return "failed" + because(t) + ", and its restart policy is no"
	case failures >= hopelessFailures:
		return fmt.Sprintf("failed %d times in a row%s", failures, because(t))
	case held(t) && heldUp != nil && heldUp(t) >= hopelessHoldUp && state == job.Running:
		return fmt.Sprintf("was restarted %d times and is not ready%s", t.Status.Restarts, because(t))
	case held(t) && heldUp != nil && heldUp(t) >= hopelessHoldUp:
		return fmt.Sprintf("is still %s after %s%s", state, age(heldUp(t)), because(t))
	}
	return ""
}

// held tells whether something keeps a task from starting, or from going on for long.
func held(t *api.Task) bool {
	st := t.Status
	if st == nil || t.Ready || st.State.Terminal() {
		return false
	}
	return st.State.Before(job.Running) && st.Message != "" || st.Restarts >= hopelessFailures
}

// because words what a task says of its end: ": exit code 3, out of memory, no such file".
func because(t *api.Task) string {
	st := t.Status
	if st == nil {
		return ""
	}
	var parts []string
	if st.ExitCode != nil && !strings.Contains(st.Message, "exit code") {
		parts = append(parts, fmt.Sprintf("exit code %d", *st.ExitCode))
	}
	if st.OOM && !strings.Contains(st.Message, "memory") {
		parts = append(parts, "out of memory")
	}
	if st.Message != "" {
		parts = append(parts, oneLine(st.Message))
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}

// reasons lists why a job is not healthy, for the end of a waiting that was in vain: what has failed first.
func reasons(o *outlook, list *api.TaskList) []trouble {
	out := slices.Clone(o.troubles)
	for i := range list.Tasks {
		t := &list.Tasks[i]
		if t.Ready || t.Desired != job.DesiredRun || slices.ContainsFunc(out, func(tr trouble) bool { return tr.task != nil && tr.task.ID == t.ID }) {
			continue
		}
		if state := t.State(); state != job.Complete {
			text := "is " + string(state)
			if state == job.Running && t.Status.Health != job.HealthNone {
				text += " but " + string(t.Status.Health)
			}
			out = append(out, trouble{task: t, text: text + because(t)})
		}
	}
	for _, b := range list.Blocked {
		out = append(out, trouble{text: fmt.Sprintf("%s of %s cannot be placed: %s", plural(b.Slots, "task"), b.Service, oneLine(b.Reason))})
	}
	return out
}
