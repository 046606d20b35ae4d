package scheduler

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// Bounds of a rehearsal: rounds of planning, and plans that did nothing but let time pass.
const (
	rehearsalRounds = 3000
	rehearsalIdle   = 64
)

// rehearsal is a copy of the cluster in which every node does at once what its tasks say, and all goes well.
type rehearsal struct {
	store *state.Store
	sub   *state.Subscription
	p     *Planner
	now   time.Time
	dirty map[job.TaskID]bool // tasks that changed and whose nodes have not acted yet
}

// Rehearse tells what submitting a spec, which is normalized and valid, would come to. store is a fork that it may change.
func Rehearse(store *state.Store, spec job.Spec, now time.Time) (job.Rehearsal, error) {
	v, sub := store.Subscribe(64)
	defer sub.Close()
	r := &rehearsal{store: store, sub: sub, p: New(v), now: now, dirty: map[job.TaskID]bool{}}
	before := map[string]*job.Task{}
	for _, t := range v.TasksOfJob(spec.Name) {
		if st := v.Status(t.ID); t.Desired == job.DesiredRun && (st == nil || !st.State.Terminal()) {
			before[t.Service+"\x00"+t.Name()] = t
		}
	}
	if err := r.apply(state.PutJob{Spec: spec, At: now}); err != nil {
		return job.Rehearsal{}, err
	}
	cut, err := r.run()
	if err != nil {
		return job.Rehearsal{}, err
	}
	return r.outcome(spec.Name, v, before, cut), nil
}

func (r *rehearsal) apply(c state.Command) error {
	raw, err := state.Encode(c)
	if err != nil {
		return err
	}
	if res := r.store.Apply(r.store.View().Index()+1, raw); res.Err != nil {
		return res.Err
	}
	for {
		select {
		case b, ok := <-r.sub.C:
			if !ok {
				return r.sub.Err()
			}
			r.p.Update(b)
			for _, c := range b.Changes {
				if t, ok := c.After.(*job.Task); ok && t != nil {
					r.dirty[t.ID] = true
				}
			}
			continue
		default:
		}
		return nil
	}
}

// run plans and acts until nothing happens any more; cut when that takes too long.
func (r *rehearsal) run() (cut bool, err error) {
	idle := 0
	for range rehearsalRounds {
		pl, next := r.p.Plan(r.now, 0)
		if !pl.Empty() {
			if err := r.apply(pl); err != nil {
				return false, err
			}
		}
		acted, err := r.act()
		switch {
		case err != nil:
			return false, err
		case len(pl.Place)+len(pl.Stop)+len(pl.Rollouts) > 0 || acted || next.Dirty:
			idle = 0
		case next.At.IsZero() || idle >= rehearsalIdle:
			return false, nil
		default:
			idle++
		}
		if !acted && !next.At.IsZero() && next.At.After(r.now) {
			r.now = next.At
		}
	}
	return true, nil
}

// act lets the nodes do what changed tasks say.
func (r *rehearsal) act() (acted bool, err error) {
	v := r.store.View()
	reports := map[job.NodeID][]job.Status{}
	for id := range r.dirty {
		t := v.Task(id)
		if t == nil {
			continue
		}
		if n := v.Node(t.Node); n == nil || n.State != job.NodeReady {
			continue
		}
		if st := r.step(v, t); st != nil {
			reports[t.Node] = append(reports[t.Node], *st)
		}
	}
	clear(r.dirty)
	for _, id := range sortedNames(reports) {
		if err := r.apply(state.Report{Node: id, Statuses: reports[id], At: r.now}); err != nil {
			return acted, err
		}
		acted = true
	}
	clear(r.dirty) // what reports changed needs no further step
	return acted, nil
}

func (r *rehearsal) step(v *state.View, t *job.Task) *job.Status {
	st := job.Status{Task: t.ID, Tuned: t.Tuned}
	if old := v.Status(t.ID); old != nil {
		if old.State.Terminal() {
			return nil
		}
		st = *old
		st.Tuned = t.Tuned
	}
	st.Seq++
	at := map[job.State]time.Time{}
	for k, x := range st.At {
		at[k] = x
	}
	sv := v.Service(t.Digest)
	switch {
	case t.Desired != job.DesiredRun:
		st.State = job.Complete
	case t.Wait != job.WaitNone:
		st.State = job.Created
	case sv != nil && (sv.IsBatch() || sv.Restart.Policy == job.RestartNever):
		st.State = job.Complete
		zero := 0
		st.ExitCode = &zero
	default:
		st.State, st.Health = job.Running, job.Healthy
	}
	at[st.State] = r.now
	st.At = at
	return &st
}

func (r *rehearsal) outcome(name string, was *state.View, before map[string]*job.Task, cut bool) job.Rehearsal {
	v := r.store.View()
	out := job.Rehearsal{Cut: cut}
	for _, t := range v.TasksOfJob(name) {
		if t.Desired != job.DesiredRun || was.Task(t.ID) != nil && before[t.Service+"\x00"+t.Name()] != t && was.Status(t.ID) != nil && was.Status(t.ID).State.Terminal() {
			continue
		}
		k := job.RehearsedTask{Service: t.Service, Name: t.Name(), Node: nodeName(v, t.Node)}
		if old := before[t.Service+"\x00"+t.Name()]; old != nil {
			k.Was, k.Kept = nodeName(was, old.Node), old.ID == t.ID
		}
		out.Tasks = append(out.Tasks, k)
	}
	for _, b := range v.Blocked(name) {
		out.Blocked = append(out.Blocked, *b)
	}
	for _, t := range was.Tasks() {
		if t.Job == name || t.Desired != job.DesiredRun {
			continue
		}
		now := v.Task(t.ID)
		if now == nil || now.Desired == job.DesiredRun || !strings.HasPrefix(now.StopCause, preemptedBy) {
			continue
		}
		k := job.TakenTask{Job: t.Job, Name: t.Name(), Node: nodeName(was, t.Node), Cause: now.StopCause}
		for _, o := range v.TasksOfSlot(t.Job, t.Service, t.Slot, t.Node) {
			if o.Desired == job.DesiredRun {
				k.To = nodeName(v, o.Node)
			}
		}
		out.Taken = append(out.Taken, k)
	}
	slices.SortStableFunc(out.Tasks, func(a, b job.RehearsedTask) int { return cmp.Compare(a.Service, b.Service) })
	return out
}

// preemptedBy begins the cause of a task's end that had to make room.
const preemptedBy = "preempted by "

func nodeName(v *state.View, id job.NodeID) string {
	if n := v.Node(id); n != nil {
		return n.Name
	}
	return string(id)
}
