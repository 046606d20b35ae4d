package nodetest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// Reads that only the leader answers are refused by one that cannot tell any more whether it leads.
func TestALeaderThatIsCutOffAnswersNoReadOfTheLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(2, "web:1"))
		c.awaitRunning(10*time.Second, 2) // and three vote
		leader := c.Leader()
		n := leader.node
		reads := map[string]func() error{
			"rehearse": func() error {
				_, err := n.Rehearse(context.Background(), api.RehearseRequest{Spec: web(3, "web:1")})
				return err
			},
			"dry run": func() error {
				_, err := n.Submit(context.Background(), "", api.SubmitRequest{Spec: web(3, "web:1"), DryRun: true})
				return err
			},
			"rebalance":     func() error { _, err := n.Rebalance(context.Background(), true); return err },
			"images needed": func() error { _, err := n.ImagesNeeded(context.Background()); return err },
		}
		for name, read := range reads {
			if err := read(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, m := range c.Machines {
			if m != leader {
				c.cutPair(leader, m)
			}
		}
		time.Sleep(100 * time.Millisecond) // what is under way arrives
		failed := make(chan error, len(reads))
		for name, read := range reads { // all at once, before it steps down
			go func() {
				err := read()
				if !errors.Is(err, job.Unavailable) {
					t.Errorf("%s of a leader that was cut off: %v", name, err)
				}
				failed <- err
			}()
		}
		for range reads {
			<-failed
		}
	})
}
