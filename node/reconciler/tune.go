package reconciler

import (
	"errors"
	"maps"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// updateTries is how often a change in place is tried when the runtime is only short of something.
const updateTries = 5

// change is what the task's container is to be changed to.
func (t *task) change(node job.NodeID) runtime.Change {
	u := Spec(t.Assignment, node, nil, nil, nil).Changeable()
	if h := t.info.Labels[labelHealth]; h != "" { // the image's check: only its creation knew it
		u.Labels = maps.Clone(u.Labels)
		u.Labels[labelHealth] = h
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
