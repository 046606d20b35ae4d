package main

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// The soak: does bad weather alone ever make the cluster declare a machine dead?
const (
	soakLoss  = 10                     // percent of all frames
	soakLook  = 200 * time.Millisecond // between two looks at a machine's members
	soakDrain = 15 * time.Second       // at least without loss before the end is read
)

var soakGroup = group{
	name: "soak",
	how: fmt.Sprintf("five machines with ten tasks; the switch drops %d %% of all frames, and one process for each CPU computes all the time. Each machine is "+
		"asked every %v whom its gossip suspects; what counts is how many machines were declared down although all were well, and how many tasks were moved.", soakLoss, soakLook),
	enabled: func(b *bench) bool { return b.soak > 0 },
	run: func(b *bench) error {
		return b.withCluster(failoverMachines, func(c *cluster) error { return c.soakFor(b.soak) })
	},
}

// weather is what a soak saw.
type weather struct {
	mu                          sync.Mutex
	suspicions, deaths, silence int // of one machine by another; looks that were not answered
}

func (c *cluster) soakFor(d time.Duration) error {
	if err := c.loadImage(); err != nil {
		return err
	}
	lead := c.net.Leader()
	if lead == nil {
		return errors.New("no machine leads")
	}
	if _, err := c.start(lead, sleepers("soak", 2*failoverMachines)); err != nil {
		return err
	}
	first, _, err := c.history(0)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(c.ctx)
	var all sync.WaitGroup
	for range goruntime.NumCPU() {
		all.Go(func() { compute(ctx) })
	}
	w := &weather{}
	for i := range c.net.Machines() {
		all.Go(func() { c.observe(ctx, i, w) })
	}
	err = c.net.Loss(soakLoss)
	for end := time.Now().Add(d); err == nil && time.Now().Before(end); {
		err = c.pause(min(time.Until(end), time.Minute))
		w.mu.Lock()
		c.progress("soak: %v left, %d suspicions, %d deaths by gossip", time.Until(end).Round(time.Second), w.suspicions, w.deaths)
		w.mu.Unlock()
	}
	stop()
	all.Wait()
	if err = errors.Join(err, c.net.Heal(), c.pause(soakDrain)); err != nil {
		return err
	}
	_, seen, err := c.history(first)
	if err != nil {
		return err
	}
	for _, e := range seen {
		if e.Kind == job.EventNodeDown || e.Kind == job.EventNodeUp || e.Kind == job.EventLeader || e.Kind == job.EventTaskPlaced {
			c.progress("soak: %s %s node %.6s %s%s: %s", e.Time.Format(time.TimeOnly), e.Kind, e.Node, e.Job, e.Task, e.Message)
		}
	}
	count := func(kind string) (n int) {
		for _, e := range seen {
			if e.Kind == kind {
				n++
			}
		}
		return n
	}
	minutes := d.Minutes()
	for name, n := range map[string]int{
		"soak: machines declared down": count(job.EventNodeDown), "soak: tasks moved": count(job.EventTaskPlaced),
		"soak: new leaders": count(job.EventLeader), "soak: suspicions": w.suspicions, "soak: deaths by gossip": w.deaths, "soak: unanswered looks": w.silence,
	} {
		c.progress("%s: %d in %.0f minutes", name, n, minutes)
	}
	if n := count(job.EventNodeDown); n > 0 {
		return fmt.Errorf("%d times a machine was declared down although all were well", n)
	}
	return nil
}

// compute keeps one CPU busy.
func compute(ctx context.Context) {
	for x := uint64(1); ; x++ {
		if x%(1<<22) == 0 && ctx.Err() != nil {
			return
		}
	}
}

// observe counts whom one machine's gossip comes to suspect or to call dead.
func (c *cluster) observe(ctx context.Context, i int, w *weather) {
	cl := c.net.Machines()[i].Client()
	defer cl.Close()
	was := map[job.NodeID]string{}
	for {
		select {
		case <-time.After(soakLook):
		case <-ctx.Done():
			return
		}
		look, cancel := context.WithTimeout(ctx, 5*time.Second)
		list, err := cl.Members(look)
		cancel()
		w.mu.Lock()
		if err != nil && ctx.Err() == nil {
			w.silence++
		}
		for _, m := range list.Members {
			if m.State != was[m.ID] {
				switch m.State {
				case "suspect":
					w.suspicions++
				case "dead":
					w.deaths++
				}
			}
			was[m.ID] = m.State
		}
		w.mu.Unlock()
	}
}

// history gives the index of the newest event and those after an index.
func (c *cluster) history(after uint64) (last uint64, events []job.Event, err error) {
	lead := c.net.Leader()
	if lead == nil {
		return 0, nil, errors.New("no machine leads")
	}
	cl := lead.Client()
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	err = cl.Events(ctx, api.EventQuery{After: after}, func(e job.Event) error {
		last = max(last, e.Index)
		events = append(events, e)
		return nil
	})
	return last, events, err
}
