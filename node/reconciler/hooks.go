package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// postStartLimit bounds all post_start hooks of one start: a hook that hangs must not hold the task for ever.
const postStartLimit = 10 * time.Minute

// defaultGrace is the runtime's, for a service that names none.
const defaultGrace = 10 * time.Second

// hooksDue tells whether the post_start hooks of the present run are still to be executed: the agent that started it ended
// in the midst of them. What is noted of starts is on disk, so they are not executed twice, but for a crash right after.
func (t *task) hooksDue() bool { return t.have && t.hooksDueIn(t.info) }

func (t *task) hooksDueIn(in runtime.Info) bool {
	return len(t.Service.PostStart) > 0 && in.State == runtime.Running && in.Starts > max(t.startsSeen, t.hooked)
}

// afterStart executes the post_start hooks while wanted lasts, and tells whether they are done. When one fails, or is cut,
// the container is stopped. One that ended by itself meanwhile is no failure of its hooks: false without an error. The
// agent's end (ctx) stops nothing.
func afterStart(ctx, wanted context.Context, rt runtime.Runtime, id runtime.ID, hooks []job.Hook) (done bool, err error) {
	hookCtx, cancel := context.WithTimeout(ctx, postStartLimit)
	defer cancel()
	defer context.AfterFunc(wanted, cancel)()
	err = runHooks(hookCtx, rt, id, "post_start", hooks)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		return true, nil
	case hookCtx.Err() == nil && endedByItself(ctx, rt, id, err):
		return false, ctx.Err()
	}
	if stopErr := rt.Stop(ctx, id, -1); stopErr != nil {
		return false, fmt.Errorf("%w; and stop it: %w", err, stopErr)
	}
	return false, err
}

// endedByItself tells whether a hook failed because its container ended, which is known a moment later.
func endedByItself(ctx context.Context, rt runtime.Runtime, id runtime.ID, failed error) bool {
	for try := 0; ctx.Err() == nil; try++ {
		if in, err := rt.Inspect(ctx, id); err == nil && in.State != runtime.Running {
			return true
		}
		var code exitCode
		if try == endingLooks || errors.Is(failed, runtime.ErrInvalid) || errors.As(failed, &code) && code != 128+9 { // its own doing
			return false
		}
		select {
		case <-time.After(endingLook):
		case <-ctx.Done():
		}
	}
	return true // it does not matter any more
}

// A container's end is known within a moment of that of what was executed in it: two syncs of a busy disk.
const (
	endingLook  = 100 * time.Millisecond
	endingLooks = 20
)

// exitCode is a hook's that failed.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// stopHooks are what is to be executed before a stop, and how long all of it may take. One that never served has none.
func (t *task) stopHooks() ([]job.Hook, time.Duration) {
	if t.hooksDue() {
		return nil, 0
	}
	return t.Service.PreStop, cmp.Or(t.Service.StopGrace, defaultGrace)
}

// beforeStop executes the pre_stop hooks within the grace period and gives what is left of that; below 0: the spec's. A
// hook that fails keeps no container from ending.
func (r *Reconciler) beforeStop(ctx context.Context, id runtime.ID, hooks []job.Hook, grace time.Duration) time.Duration {
	if len(hooks) == 0 {
		return -1
	}
	began := time.Now()
	hookCtx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := runHooks(hookCtx, r.cfg.Runtime, id, "pre_stop", hooks); err != nil {
		r.log.Warn("a hook failed; the container is stopped all the same", "container", id, "error", err)
	}
	return max(grace-time.Since(began), time.Millisecond)
}

func runHooks(ctx context.Context, rt runtime.Runtime, id runtime.ID, kind string, hooks []job.Hook) error {
	for i, h := range hooks {
		var out head
		code, err := rt.Exec(ctx, id, runtime.Exec{Args: h.Command, Env: h.Env, User: h.User, WorkingDir: h.WorkingDir, Stdout: &out, Stderr: &out})
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s[%d] %s: %w", kind, i, h.Command[0], context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("%s[%d] %s: %w", kind, i, h.Command[0], err)
		case code != 0:
			return fmt.Errorf("%s[%d] %s: %w: %s", kind, i, h.Command[0], exitCode(code), out.text())
		}
	}
	return nil
}
