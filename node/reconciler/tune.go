package reconciler

import (
	"errors"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// updateTries is how often a change in place is tried when the runtime is only short of something.
const updateTries = 5

// onlyAtCreation are the labels whose values only a container's creation knew: a change in place keeps them.
var onlyAtCreation = []string{labelHealth, labelJoins}

// change is what the task's container is to be changed to.
func (t *task) change(node job.NodeID) runtime.Change {
	u := Spec(t.Assignment, node, nil, nil, nil).Changeable() // its labels are a map of its own
	for _, name := range onlyAtCreation {
		if v, ok := t.info.Labels[name]; ok {
			u.Labels[name] = v
		}
	}
	return u
}

// untuned takes that a change in place failed. The leader replaces the task then, which runs on as it was.
func (t *task) untuned(now time.Time, res result) {
	if errors.Is(res.err, runtime.ErrBusy) && t.tries+1 < updateTries {
		t.retry(now, firstRetry)
		return
	}
	t.tries, t.notBefore = 0, time.Time{}
	t.status.Untuned = res.tuned
	t.status.Refusal = clip(res.err.Error())
}
