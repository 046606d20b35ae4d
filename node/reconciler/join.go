package reconciler

import (
	"strings"

	"shoal/consensus/job"
	"shoal/runtime"
)

// partners finds the tasks whose namespaces t joins, by service: of its job and slot, on this node, and meant to run. ok
// tells that all of them run. Nil for most tasks.
func (r *Reconciler) partners(t *task) (by map[string]*task, ok bool) {
	if t.Service.NetworkMode == "" && t.Service.Isolation == nil {
		return nil, true
	}
	ok = true
	for _, service := range t.Service.Together() {
		var found *task
		for _, p := range r.tasks {
			if p.Task.Job == t.Task.Job && p.Task.Service == service && p.Task.Slot == t.Task.Slot && p.running() && !p.hooksDue() && !p.leaving(r.complete) &&
				!p.status.State.Terminal() {
				found = p
			}
		}
		if found == nil {
			ok = false
			continue
		}
		if by == nil {
			by = map[string]*task{}
		}
		by[service] = found
	}
	return by, ok
}

// joinedContainer is how Spec finds them.
func (r *Reconciler) joinedContainer(t *task) func(string) runtime.ID {
	by, _ := r.partners(t)
	return func(service string) runtime.ID {
		if p := by[service]; p != nil {
			return p.info.ID
		}
		return ""
	}
}

// rejoin sees that a task which joins namespaces is made and started only while they are there, and anew when they were
// made anew: until then it goes on in what is left of the old ones.
func (r *Reconciler) rejoin(t *task, o op) op {
	if o != opNone && o != opCreate && o != opStart || t.busy != opNone || !t.assigned {
		return o
	}
	by, ok := r.partners(t)
	if ok && by == nil {
		return o
	}
	switch {
	case !ok && o != opNone:
		t.say("waiting for %s to run on this node", strings.Join(t.Service.Together(), ", "))
		return opNone
	case !ok:
		return o
	case o == opStart && !joinsThose(t.info.Labels[labelJoins], by):
		return opRemove // it was made to join others
	case o == opNone && t.running() && !t.leaving(r.complete) && !t.status.State.Terminal() && outdated(t.info.Joined, by):
		r.log.Info("starting a task anew: the container whose namespaces it joins was", "task", t.Task.ID, "name", t.Task.Name())
		t.rejoining = true
		return opStop
	}
	return o
}

// joinsThose compares what a container was made to join with what is there.
func joinsThose(label string, by map[string]*task) bool {
	for _, p := range by {
		if !strings.Contains(" "+label+" ", " "+string(p.info.ID)+" ") {
			return false
		}
	}
	return true
}

// outdated tells whether one of the containers is another, or another run, than was joined.
func outdated(joined map[runtime.ID]int, by map[string]*task) bool {
	for _, p := range by {
		if start, ok := joined[p.info.ID]; !ok || start != p.info.Starts {
			return true
		}
	}
	return false
}

// labelJoins lists the ids of the containers whose namespaces a container was made to join.
const labelJoins = "shoal.joins"

// allIsWell is what is said of a task that runs as it should: what the node could not do for it.
func (t *task) allIsWell() string { return strings.Join(t.info.Warnings, "; ") }

// noteJoins puts the label on.
func noteJoins(spec *runtime.Spec, s *job.Service) {
	if len(s.Together()) == 0 {
		return
	}
	var ids []string
	for _, id := range spec.Joins() {
		ids = append(ids, string(id))
	}
	spec.Labels[labelJoins] = strings.Join(ids, " ")
}
