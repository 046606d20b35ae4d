package reconciler

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// postStartLimit bounds all post_start hooks of one start: a hook that hangs must not hold the task for ever.
const postStartLimit = 10 * time.Minute

// defaultGrace is the runtime's, for a service that names none.
const defaultGrace = 10 * time.Second

// afterStart executes the post_start hooks while wanted lasts; when one fails, or is cut, the container is stopped. The
// agent's end (ctx) stops nothing.
func afterStart(ctx, wanted context.Context, rt runtime.Runtime, id runtime.ID, hooks []job.Hook) error {
	hookCtx, cancel := context.WithTimeout(ctx, postStartLimit)
	defer cancel()
	defer context.AfterFunc(wanted, cancel)()
	if err := runHooks(hookCtx, rt, id, "post_start", hooks); err != nil && ctx.Err() == nil {
		if stopErr := rt.Stop(ctx, id, -1); stopErr != nil {
			return fmt.Errorf("%w; and stop it: %w", err, stopErr)
		}
		return err
	}
	return ctx.Err()
}

// stopHooks are what is to be executed before a stop, and how long all of it may take.
func (t *task) stopHooks() ([]job.Hook, time.Duration) {
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
			return fmt.Errorf("%s[%d] %s: exit code %d: %s", kind, i, h.Command[0], code, out.text())
		}
	}
	return nil
}
