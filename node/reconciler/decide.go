package reconciler

import (
	"context"
	"errors"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// op is a slow call that a worker makes for one task.
type op string

const (
	opNone    op = ""
	opInspect op = "inspect"
	opLook    op = "look" // whether its image is here
	opPull    op = "pull"
	opCreate  op = "create"
	opStart   op = "start"
	opHooks   op = "hooks" // post_start, of a run whose start was another agent's
	opStop    op = "stop"
	opRemove  op = "remove"
	opUpdate  op = "update"
	opDrain   op = "drain"
)

// next decides the one thing to do for a task now. complete says that the whole set is known.
func (t *task) next(now time.Time, complete bool) op {
	switch {
	case t.busy != opNone || t.idle(complete):
		return opNone
	case t.stale && t.have:
		return opInspect
	case now.Before(t.notBefore):
		return opNone
	case t.running() && t.leaving(complete) && t.draining:
		return opDrain
	case t.running() && (t.leaving(complete) || t.status.State.Terminal() || t.unwell):
		return opStop
	case t.leaving(complete):
		if t.have {
			return opRemove
		}
		return opNone
	case t.status.State.Terminal(): // an ended container is kept for its log
		return opNone
	case t.have && t.Task.Tuning(&t.status):
		return opUpdate
	case t.hooksDue() && !t.info.Paused:
		return opHooks
	case t.running():
		return opNone
	case t.have && t.Task.Wait != job.WaitNone: // until the leader says that its predecessor has ended
		return opNone
	case t.have && t.awaitsLease():
		return opNone // see sayAwaits
	case t.have:
		return opStart
	case t.image == nil && !t.absent:
		return opLook
	case t.image == nil:
		return opPull
	default:
		return opCreate
	}
}

// settle moves the state of a task that is leaving, by what is there.
func (t *task) settle(now time.Time, complete bool) {
	if t.busy != opNone || t.status.State.Terminal() || !t.leaving(complete) {
		return
	}
	if t.running() {
		if t.status.Ready() && t.Task.Desired == job.DesiredStop {
			t.draining = true
		}
		t.to(now, job.Stopping)
		return
	}
	if !t.assigned && t.have && t.status.State != job.Stopping && t.info.State == runtime.Stopped && t.info.ExitCode != 0 {
		t.fail(now, "%s", exitReason(t.info, false)) // it ended so before anybody asked it to
		return
	}
	t.status.Message = ""
	if t.status.State == job.Stopping && t.have && t.info.ExitCode == 128+9 && t.info.Error == "" {
		t.say("killed: it did not end within its grace period")
	}
	t.to(now, job.Complete)
}

// forgettable tells that nothing more is to do or to tell.
func (t *task) forgettable(complete bool) bool {
	return complete && !t.assigned && !t.have && t.busy == opNone && t.sent >= t.status.Seq
}

// takesPort tells whether its container has the host port: from its first start until it is removed.
func (t *task) takesPort(p job.Port) bool {
	if !t.have || max(t.startsSeen, t.info.Starts) == 0 && t.busy != opStart {
		return false
	}
	bound := boundPorts(t.info.Ports)
	if bound == nil {
		bound = t.Service.Ports
	}
	for _, b := range bound {
		if b.Published == p.Published && b.Protocol == p.Protocol && overlaps(b, p) {
			return true
		}
	}
	return false
}

func overlaps(a, b job.Port) bool {
	all := func(p job.Port) bool { return !p.HostIP.IsValid() || p.HostIP.IsUnspecified() }
	return all(a) || all(b) || a.HostIP == b.HostIP
}

// blockedBy tells which of those that will not run again still have a host port that t wants.
func (t *task) blockedBy(past []*task) []*task {
	var by []*task
	for _, l := range past {
		if l != t && slices.ContainsFunc(t.Service.Ports, func(p job.Port) bool { return p.Published != 0 && l.takesPort(p) }) {
			by = append(by, l)
		}
	}
	return by
}

// done takes what a worker brought, and decides what follows.
func (t *task) done(now time.Time, res result, complete bool) {
	if res.op == opDrain {
		t.draining = false
		return
	}
	if res.op == opLook {
		t.looked(res)
		return
	}
	starting := res.op == opStart || res.op == opHooks
	t.hooked = max(t.hooked, res.hooked)
	if starting && res.info.State == runtime.Running && !t.hooksDueIn(res.info) {
		res.err = nil // whatever went wrong, it runs
	}
	if res.err == nil {
		if res.op != opInspect {
			t.succeeded()
		}
		switch res.op {
		case opPull:
			t.image = &res.image
		case opCreate, opUpdate:
			t.observe(now, res.info, seenLive)
			t.status.Tuned = res.tuned
		case opRemove:
			t.have, t.stale, t.info = false, false, runtime.Info{}
			t.startsSeen, t.exitsSeen, t.hooked = 0, 0, 0
		default:
			t.observe(now, res.info, seenLive)
		}
		return
	}
	switch {
	case (res.op == opPull || res.op == opCreate) && t.leaving(complete) && errors.Is(res.err, context.Canceled):
	case starting && t.leaving(complete) && errors.Is(res.err, context.Canceled): // see leave
		t.to(now, job.Stopping)
		if t.stale = res.info.ID == ""; !t.stale {
			t.observe(now, res.info, seenLive)
		}
	case starting && res.info.State == runtime.Running: // its hooks are not done, and it could not be stopped
		t.observe(now, res.info, seenLive)
		t.say("%v", res.err)
		t.retry(now, firstRetry)
	case res.op == opUpdate && !errors.Is(res.err, runtime.ErrNotFound):
		t.untuned(now, res)
	case res.op == opRemove, res.op == opStop && !errors.Is(res.err, runtime.ErrNotFound):
		t.say("%v", res.err)
		t.retry(now, firstRetry)
	case res.op == opInspect && !errors.Is(res.err, runtime.ErrNotFound):
		// the next list will tell
	case res.op != opPull && res.op != opCreate && errors.Is(res.err, runtime.ErrNotFound):
		t.noteGone(now, seenLive)
	case res.op == opCreate && errors.Is(res.err, runtime.ErrConflict):
		t.have, t.stale = true, true // made by an earlier try of ours: look at it
		t.retry(now, firstRetry)
	default:
		t.callFailed(now, res)
	}
}

// callFailed decides whether a failed pull, create or start is tried again.
func (t *task) callFailed(now time.Time, res result) {
	if res.op == opStart || res.op == opHooks {
		t.startFailed(res.info)
	}
	if res.op == opCreate && errors.Is(res.err, runtime.ErrNotFound) {
		t.image, t.absent = nil, true // it went since we pulled it
	}
	if res.op == opPull {
		t.absent = false // somebody may load it until the next try
	}
	t.say("%v", res.err)
	switch {
	case errors.Is(res.err, runtime.ErrInvalid):
		t.to(now, job.Failed)
	case errors.Is(res.err, runtime.ErrNoSpace), errors.Is(res.err, runtime.ErrBusy):
		t.retry(now, firstRetry)
	case errors.Is(res.err, runtime.ErrNotFound), errors.Is(res.err, runtime.ErrDenied):
		t.retryOrFail(now, slowRetry, hopelessTries)
	default:
		t.retryOrFail(now, firstRetry, unclearTries)
	}
}

func (t *task) retryOrFail(now time.Time, first time.Duration, limit int) {
	if t.tries+1 >= limit {
		t.fail(now, "%s; gave up after %d tries", t.status.Message, t.tries+1)
		return
	}
	t.retry(now, first)
}

// startFailed takes what is known after a start that failed: it is no exit that the restart policy would judge.
func (t *task) startFailed(in runtime.Info) {
	if in.ID == "" {
		return
	}
	t.info = in
	t.startsSeen, t.exitsSeen = in.Starts, in.Starts
	if in.State == runtime.Stopped && in.Starts > 0 {
		code := in.ExitCode
		t.status.ExitCode = &code
	}
}
