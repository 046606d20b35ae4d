package chaos

import (
	"context"
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// runReader begins runs of the batch and wants each to complete.
type runReader struct {
	w         *World
	seq       uint64 // of the run that was begun last; 0: none
	begun     time.Time
	completed int
}

// next judges the run that was begun the last time and, if it is over, begins another one.
func (r *runReader) next(ctx context.Context) (wrong string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var run *job.Run
	err := r.w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
		d, err := c.Job(ctx, jobBatch, false)
		if err != nil {
			return err
		}
		run = nil
		for i := range d.Runs {
			if r.seq == 0 || d.Runs[i].Seq == r.seq {
				run = &d.Runs[i] // without a number: the newest, which the submit began
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err.Error()
	case run == nil:
		return fmt.Sprintf("run %d, which was begun at %s, is not known any more", r.seq, r.begun.Format(time.TimeOnly))
	case run.Status == job.RunComplete:
		r.completed++
	case !run.Active():
		return fmt.Sprintf("run %d ended as %s: %s", run.Seq, run.Status, run.Reason)
	case r.seq != 0 && time.Since(r.begun) > recoveryPatience:
		return fmt.Sprintf("run %d has not ended after %v: %+v", run.Seq, time.Since(r.begun).Round(time.Second), *run)
	default:
		if r.seq == 0 {
			r.seq, r.begun = run.Seq, time.Now()
		}
		return ""
	}
	err = r.w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
		res, err := c.StartRun(ctx, api.NewKey(), jobBatch, "s")
		if err == nil {
			r.seq, r.begun = res.Run.Seq, time.Now()
		}
		return err
	})
	if err != nil && job.KindOf(err) != job.Conflict {
		return "begin a run: " + err.Error()
	}
	return ""
}
