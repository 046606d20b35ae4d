package reconciler

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// result is what a worker brings back.
type result struct {
	task   *task
	op     op
	image  runtime.Image
	info   runtime.Info // after a failed start too, if it could be asked
	tuned  uint64       // Task.Tuned of the content that it was made with, or given
	err    error
	hooked int  // the start whose post_start hooks are done; 0: none
	going  bool // not the end: the container runs, and its post_start hooks are being executed
}

// listed is what the list worker brings back; began tells what it may not have seen.
type listed struct {
	infos []runtime.Info
	err   error
	began uint64
}

// act starts a worker for each task that needs one and may have it.
func (r *Reconciler) act(ctx context.Context, now time.Time) {
	if r.resort {
		r.order = slices.SortedFunc(maps.Values(r.tasks), func(a, b *task) int {
			return cmp.Or(cmp.Compare(a.Task.Index, b.Task.Index), cmp.Compare(a.Task.ID, b.Task.ID))
		})
		r.resort = false
	}
	var past []*task // that have a container but will not run again
	for _, t := range r.order {
		t.settle(now, r.complete)
		if t.have && (t.leaving(r.complete) || t.status.State.Terminal()) {
			past = append(past, t)
		}
	}
	for _, t := range r.order {
		r.watchHealth(ctx, t)
		o := r.rejoin(t, t.next(now, r.complete))
		if now.Before(r.hesitateUntil) && (o == opLook || o == opPull || o == opCreate || o == opStart || o == opHooks) {
			continue
		}
		switch o {
		case opNone:
			t.sayAwaits(now, r.complete)
			if t.forgettable(r.complete) {
				delete(r.tasks, t.Task.ID)
				r.viewOld = true
				r.resort = true
			}
		case opLook:
			t.to(now, job.Pulling)
			r.begin(ctx, t, o)
		case opPull:
			if r.pulls < r.cfg.Parallel {
				r.pulls++
				t.to(now, job.Pulling)
				t.unsay(saysQueued)
				r.begin(ctx, t, o)
			} else if t.status.Message == "" {
				t.say(saysQueued)
			}
		case opCreate, opStart:
			if r.starts < r.cfg.Parallel && r.portsFree(ctx, t, past) {
				r.starts++
				t.starting = true
				r.begin(ctx, t, o)
			}
		default:
			r.begin(ctx, t, o)
		}
	}
}

// portsFree tells whether t may bind its host ports. Who is leaving is on its way; an ended container that is only kept
// for its log must go now, because its port is its own until then.
func (r *Reconciler) portsFree(ctx context.Context, t *task, past []*task) bool {
	by := t.blockedBy(past)
	for _, l := range by {
		if l.status.State.Terminal() && !l.running() && l.busy == opNone && !time.Now().Before(l.notBefore) {
			r.log.Info("removing an ended container: its host port is wanted", "task", l.Task.ID, "by", t.Task.ID)
			r.begin(ctx, l, opRemove)
		}
	}
	return len(by) == 0
}

// begin starts a worker. It has the task's words by value: the record stays with Run's goroutine.
func (r *Reconciler) begin(ctx context.Context, t *task, o op) {
	r.started++
	t.busy, t.touched = o, r.started
	if o == opInspect {
		t.stale = false // an event from now on makes it stale again
	}
	ctx, t.cancel = context.WithCancel(ctx)
	cancel := t.cancel
	call := r.call(t, o)
	r.workers.Go(func() {
		defer cancel()
		r.tell(call(ctx))
	})
}

// tell brings a result, unless all ends; that of a cancelled call too.
func (r *Reconciler) tell(res result) {
	select {
	case r.resultCh <- res:
	case <-r.endCh:
	}
}

// call prepares what a worker does.
func (r *Reconciler) call(t *task, o op) func(context.Context) result {
	rt, id := r.cfg.Runtime, runtime.ID(t.Task.ID)
	res := result{task: t, op: o}
	inspect := func(ctx context.Context, err error) result {
		in, inspectErr := rt.Inspect(ctx, id)
		res.info, res.err = in, err
		if err == nil {
			res.err = inspectErr
		}
		return res
	}
	switch o {
	case opLook:
		ref := t.Service.Image
		return func(ctx context.Context) result {
			res.image, res.err = rt.Present(ctx, ref)
			return res
		}
	case opPull:
		ref, task := t.Service.Image, t.Task.ID
		return func(ctx context.Context) result {
			defer r.pulled.forget(task)
			res.image, res.err = rt.Pull(ctx, ref, r.pulled.note(task))
			return res
		}
	case opCreate:
		var env []string
		if r.cfg.Env != nil {
			env = r.cfg.Env(t.Assignment)
		}
		spec := Spec(t.Assignment, r.cfg.Node, env, t.image.Health, r.joinedContainer(t))
		res.tuned = t.Task.Tuned
		return func(ctx context.Context) result {
			res.info, res.err = rt.Create(ctx, spec)
			return res
		}
	case opStart, opHooks:
		fenced, until := t.fenced(), t.until
		hooks := t.Service.PostStart
		res.info = t.info
		var wanted context.Context
		wanted, t.unhook = context.WithCancel(context.Background())
		return func(ctx context.Context) result {
			if fenced && o == opStart {
				if err := rt.Renew(ctx, id, until); err != nil {
					return inspect(ctx, err)
				}
			}
			if o == opStart {
				if res.info, res.err = rt.Start(ctx, id); res.err != nil {
					return inspect(ctx, res.err)
				}
			}
			if len(hooks) == 0 {
				return res
			}
			r.tell(result{task: t, op: o, going: true})
			if done, err := afterStart(ctx, wanted, rt, id, hooks); !done {
				return inspect(ctx, err)
			}
			res.hooked = res.info.Starts
			return res
		}
	case opDrain:
		a, index, drain := t.Assignment, r.index, r.cfg.Drain
		return func(ctx context.Context) result {
			if drain == nil {
				drain = fixedDrain
			}
			drain(ctx, a, index)
			return res
		}
	case opUpdate:
		change := t.change(r.cfg.Node)
		res.tuned = t.Task.Tuned
		return func(ctx context.Context) result {
			res.info, res.err = rt.Update(ctx, id, change)
			return res
		}
	case opStop:
		hooks, grace := t.stopHooks()
		return func(ctx context.Context) result {
			grace := r.beforeStop(ctx, id, hooks, grace)
			if res.err = ctx.Err(); res.err != nil { // the agent's end is not the container's
				return res
			}
			return inspect(ctx, rt.Stop(ctx, id, grace))
		}
	case opRemove:
		return func(ctx context.Context) result {
			res.err = rt.Remove(ctx, id)
			return res
		}
	default:
		return func(ctx context.Context) result { return inspect(ctx, nil) }
	}
}

// finish takes a worker's result.
func (r *Reconciler) finish(res result) {
	t := res.task
	if t.starting {
		t.starting = false
		r.starts--
	}
	if res.going {
		return
	}
	r.started++
	t.busy, t.cancel, t.touched = opNone, nil, r.started
	if t.unhook != nil {
		t.unhook()
		t.unhook = nil
	}
	if res.op == opPull {
		r.pulls--
		r.lookAgain(t.Service.Image)
	}
	r.viewOld = r.viewOld || res.op != opInspect
	now := time.Now()
	before := t.status.State
	t.done(now, res, r.complete)
	if res.err != nil && res.op == opInspect {
		r.listAgain(now.Add(time.Second))
	}
	if res.err != nil && res.op != opLook && !errors.Is(res.err, context.Canceled) {
		r.log.Warn(string(res.op)+" failed", "task", t.Task.ID, "name", t.Task.Name(), "try", t.tries, "error", res.err)
	}
	r.logState(t, before)
}

// finishReady takes what other workers brought meanwhile, so that a burst costs one pass.
func (r *Reconciler) finishReady() {
	for range cap(r.resultCh) {
		select {
		case res := <-r.resultCh:
			r.finish(res)
		default:
			return
		}
	}
}

func (r *Reconciler) logState(t *task, before job.State) {
	if s := &t.status; s.State != before {
		r.log.Info("task is "+string(s.State), "task", s.Task, "job", t.Task.Job, "name", t.Task.Name(), "message", s.Message)
	}
}

// list asks for all containers.
func (r *Reconciler) list(ctx context.Context) {
	r.listing, r.listAt = true, time.Now().Add(24*time.Hour) // listed says when; what comes before asks for one of its own
	began := r.started
	r.workers.Go(func() {
		infos, err := r.cfg.Runtime.List(ctx)
		select {
		case r.listCh <- listed{infos, err, began}:
		case <-ctx.Done():
		}
	})
}

// listAgain asks for a list at a time, or sooner if one is asked for already. A list that is under way may have read what this one
// is for before it was so: it does not count.
func (r *Reconciler) listAgain(at time.Time) {
	if at.Before(r.listAt) {
		r.listAt = at
	}
}

// listed compares all containers with all tasks. What a worker touched since the list began is newer than the list.
func (r *Reconciler) listed(l listed) {
	now := time.Now()
	r.listing = false
	early := r.early
	r.early = nil
	if l.err != nil {
		r.log.Warn("cannot list containers", "error", l.err)
		r.listAgain(now.Add(backoff(firstRetry, r.listTries, maxRetry)))
		r.listTries++
		return
	}
	r.listTries = 0
	r.listAgain(now.Add(resyncEvery))
	r.lookAgain("") // for images that somebody loaded
	seen := seenLive
	switch {
	case !r.adopted && r.rebooted:
		seen = seenReboot
	case !r.adopted:
		seen = seenAtBoot
	}
	there := map[job.TaskID]bool{}
	for _, in := range l.infos {
		id := job.TaskID(in.Labels[labelTask])
		if id == "" || runtime.ID(id) != in.ID {
			continue // not ours
		}
		there[id] = true
		if t := r.task(id); t.busy == opNone && t.touched <= l.began {
			before := t.status.State
			t.observe(now, in, seen)
			r.logState(t, before)
			t.stale = t.stale || early[id]
		}
	}
	for id, t := range r.tasks {
		if !there[id] && t.busy == opNone && t.touched <= l.began && (t.have || !r.adopted) {
			before := t.status.State
			t.noteGone(now, seen)
			r.logState(t, before)
		}
	}
	r.adopted, r.viewOld = true, true
}
