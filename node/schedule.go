package node

import (
	"context"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/scheduler"
	"shoal/consensus/state"
)

// Bounds of keeping schedules.
const (
	// scheduleLook is how long the leader sleeps at most while there are schedules: clocks that are set while it sleeps
	// delay a run by no more.
	scheduleLook  = 15 * time.Second
	scheduleRetry = time.Second
)

// keepSchedules begins scheduled runs for as long as this node leads. Whatever it proposes holds only while the schedule is
// as it was looked at, so a leader that was replaced meanwhile begins nothing twice.
func (n *Node) keepSchedules(ctx context.Context) error {
	var due scheduler.Schedules
	for ctx.Err() == nil {
		view, sub := n.state.Subscribe(planBuffer)
		n.fireFrom(ctx, &due, view, sub)
		sub.Close()
		sleep(ctx, scheduleRetry)
	}
	return nil
}

// fireFrom works on one subscription until it breaks or the log does not take something.
func (n *Node) fireFrom(ctx context.Context, due *scheduler.Schedules, view *state.View, sub *state.Subscription) {
	for {
		fire, next := due.Due(view, n.wall())
		for _, c := range fire {
			res, err := n.propose(ctx, c)
			switch job.KindOf(err) {
			case "":
				n.log.Info("a scheduled run is due", "job", c.Job, "service", c.Service, "due", c.Due, "begun", res.Value != nil)
			case job.Conflict, job.NotFound: // it changed meanwhile: look again
			default:
				return
			}
		}
		if len(fire) > 0 {
			view = n.state.View()
			if again, at := due.Due(view, n.wall()); len(again) == 0 {
				next = at
			} else {
				next = n.wall().Add(scheduleRetry)
			}
		}
		if !n.awaitSchedules(ctx, sub, next) {
			return
		}
		view = n.state.View()
	}
}

// awaitSchedules waits until jobs or schedules change, or next has come; false when there is nothing to wait for any more.
func (n *Node) awaitSchedules(ctx context.Context, sub *state.Subscription, next time.Time) bool {
	var wake <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(min(max(next.Sub(n.wall()), time.Millisecond), scheduleLook))
		defer t.Stop()
		wake = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-wake:
			return true
		case b, ok := <-sub.C:
			if !ok {
				return false
			}
			for _, c := range b.Changes {
				if c.Table == state.TableJobs || c.Table == state.TableSchedules {
					return true
				}
			}
		}
	}
}
