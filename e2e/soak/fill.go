package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"shoal/consensus/job"
	"shoal/node/api"
)

// What the cluster remembers has limits: 10,000 idempotency keys and events, up to 8,192 entries of the log and 4,096 behind a
// snapshot (consensus/state/table.go, consensus/config.go). People take days to reach them, and until then memory grows by
// design; so they are reached before the first sample.
const (
	fillOrders  = 13_000
	fillWorkers = 8
)

// fill scales a job that never runs up and down, each time with another key.
func (u *user) fill(ctx context.Context) error {
	c := u.net.Machines()[0].Client()
	defer c.Close()
	spec := job.Spec{Name: "filler", Services: []job.Service{{
		Name: "s", Image: image, Constraints: []job.Constraint{{Key: "node.labels.nowhere", Op: "==", Value: "true"}},
	}}}
	if _, err := c.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: spec}); err != nil {
		return err
	}
	var next, failed atomic.Int64
	var last error
	var mu sync.Mutex
	var all sync.WaitGroup
	for range fillWorkers {
		all.Go(func() {
			for n := next.Add(1); n <= fillOrders && ctx.Err() == nil; n = next.Add(1) {
				if _, err := c.Scale(ctx, api.NewKey(), "filler", map[string]int{"s": int(n % 2)}); err != nil {
					failed.Add(1)
					mu.Lock()
					last = err
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > fillOrders/10 {
		return fmt.Errorf("fill: %d of %d orders failed, the last: %w", n, fillOrders, last)
	}
	return c.RemoveJob(ctx, "filler")
}
