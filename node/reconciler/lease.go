package reconciler

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// Leased is a task that runs only with the leader's word.
type Leased struct {
	Task  job.TaskID
	Lease time.Duration
}

// Leased lists the tasks that need the leader's word, sorted by task.
func (r *Reconciler) Leased() []Leased {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.view.leased)
}

// LeaseWanted is sent to when a task needs its first word: it waits for that alone.
func (r *Reconciler) LeaseWanted() <-chan struct{} { return r.leaseCh }

// Granted takes the leader's word that tasks may run until a moment of the runtime's boot clock. It passes it on to their
// containers before it returns.
func (r *Reconciler) Granted(ctx context.Context, until map[job.TaskID]time.Duration) {
	for id, at := range until {
		if err := r.cfg.Runtime.Renew(ctx, runtime.ID(id), at); err != nil && !errors.Is(err, runtime.ErrNotFound) {
			r.log.Warn("cannot renew a container's lease", "task", id, "error", err)
		}
	}
	r.mu.Lock()
	if r.inbox.until == nil {
		r.inbox.until = map[job.TaskID]time.Duration{}
	}
	for id, at := range until {
		r.inbox.until[id] = max(r.inbox.until[id], at)
	}
	r.mu.Unlock()
	r.wake()
}

// takeGrants brings the leader's words to the tasks.
func (r *Reconciler) takeGrants(until map[job.TaskID]time.Duration) {
	for id, at := range until {
		if t := r.tasks[id]; t != nil {
			t.until = max(t.until, at)
		}
	}
}

func (t *task) fenced() bool { return t.assigned && t.Task.Failover == job.FailoverFenced }

// wantsLease tells whether the leader's word is to be asked for: from its assignment until it is over.
func (t *task) wantsLease() bool {
	return t.fenced() && t.Task.Desired != job.DesiredLost && (!t.status.State.Terminal() || t.running())
}

// leaseLeft is for how long the leader's word still holds.
func (t *task) leaseLeft() time.Duration { return t.until - t.boot() }

// awaitsLease tells whether it may not be started for want of the leader's word: a start takes a while, so half of the
// lease must be left.
func (t *task) awaitsLease() bool { return t.fenced() && t.leaseLeft() < t.Task.Lease/2 }

const (
	saysAwaits  = "waits for the leader's word, because it is fenced"
	saysExpired = "its lease ran out without a word from the leader"
)

// expired tells whether its container was ended by its lease.
func (t *task) expired() bool { return t.fenced() && t.info.Error != "" && t.leaseLeft() <= 0 }

// sayAwaits tells people why nothing is done.
func (t *task) sayAwaits(now time.Time, complete bool) {
	if !t.have || t.running() || t.busy != opNone || t.leaving(complete) || t.status.State.Terminal() || now.Before(t.notBefore) || !t.awaitsLease() {
		return
	}
	if !strings.Contains(t.status.Message, saysExpired) && t.status.Message != saysAwaits {
		t.say(saysAwaits)
	}
}
