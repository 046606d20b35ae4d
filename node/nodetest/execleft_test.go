package nodetest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"shoal/node/api"
	"shoal/runtime"
)

// What was begun with exec -d, or left, goes on when the agent ends; what somebody waits for does not.
func TestTheAgentsEndLeavesFreeExecsAlone(t *testing.T) {
	for name, free := range map[string]bool{"free": true, "waited for": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster(t, 1)
				c.submit(serving(1, "web:1"))
				c.awaitRunning(10*time.Second, 1)
				var id runtime.ID
				for one := range c.ids() {
					id = one
				}
				m := c.Machines[0]
				ctx, end := context.WithCancel(context.Background())
				done := make(chan error, 1)
				s := &api.ExecSession{ExecRequest: api.ExecRequest{Args: []string{"sleep", "1000"}}}
				s.Free = func() bool { return free }
				sizes := make(chan api.Size)
				close(sizes)
				s.Resize = sizes
				go func() {
					_, err := m.node.Exec(ctx, string(id), s)
					done <- err
				}()
				synctest.Wait()
				end() // as the server does
				if err := <-done; err == nil {
					t.Error("it ended by itself")
				}
				synctest.Wait()
				want := 1
				if free {
					want = 2
				}
				if all, err := m.Runtime.Processes(context.Background(), id); err != nil || len(all) != want {
					t.Errorf("%d processes, %v, want %d", len(all), err, want)
				}
			})
		})
	}
}
