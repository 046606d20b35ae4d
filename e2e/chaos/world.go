package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"shoal/e2e/machines"
	"shoal/node/api"
)

// Image is the busybox that all services run; every machine has it.
const Image = "chaos/busybox:1"

// NextVersion is what World.Next calls itself.
const NextVersion = "chaos-next"

// World is what faults and checks see of the cluster. Its methods are safe for concurrent use.
type World struct {
	Net *machines.Net
	// Scratch is a directory outside of the machines, gone after the run.
	Scratch string
	// Short says that the run is to be brief: faults hold for less.
	Short bool
	// Next is another build of the binary, to restart the agents on; "": there is none.
	Next string

	logf    func(format string, args ...any)
	missing missed // what the last awaitSettled waited for

	mu    sync.Mutex
	busy  map[*machines.Machine]string // by which fault
	moved map[*machines.Machine]int    // how often its socket became another
}

// Moved tells the load that a machine's socket is another one now: connections to the former one would stay.
func (w *World) Moved(m *machines.Machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moved == nil {
		w.moved = map[*machines.Machine]int{}
	}
	w.moved[m]++
}

// Moves is how often that was.
func (w *World) Moves(m *machines.Machine) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved[m]
}

// Log tells a person what a fault does.
func (w *World) Log(format string, args ...any) { w.logf(format, args...) }

// Machines are all machines of the cluster, in order.
func (w *World) Machines() []*machines.Machine { return w.Net.Machines() }

// Free are the machines under no fault.
func (w *World) Free() []*machines.Machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(w.Net.Machines(), func(m *machines.Machine) bool { return w.busy[m] != "" })
}

// Pick is a machine under no fault: the leader in one of three cases, so that leaders get their share.
func (w *World) Pick(r *rand.Rand) (*machines.Machine, error) {
	lead, k := r.IntN(3) == 0, r.IntN(1<<16) // always as many draws
	free := w.Free()
	if l := w.Leader(); lead && l != nil && slices.Contains(free, l) {
		return l, nil
	}
	if len(free) == 0 {
		return nil, ErrNotNow
	}
	return free[k%len(free)], nil
}

// PickTwo are two different machines under no fault.
func (w *World) PickTwo(r *rand.Rand) (a, b *machines.Machine, err error) {
	i, k := r.IntN(1<<16), r.IntN(1<<16)
	free := w.Free()
	if len(free) < 2 {
		return nil, nil, ErrNotNow
	}
	a = free[i%len(free)]
	free = slices.DeleteFunc(free, func(m *machines.Machine) bool { return m == a })
	return a, free[k%len(free)], nil
}

// Leader is the machine that most of the others call the leader, nil if none is known. It asks the public API.
func (w *World) Leader() *machines.Machine {
	says := map[string]int{}
	names := map[string]*machines.Machine{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range w.Net.Machines() {
		if !m.Running() {
			continue
		}
		wg.Go(func() {
			s, err := w.status(m)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			names[string(s.Node)] = m
			if s.Leader != "" {
				says[string(s.Leader)]++
			}
		})
	}
	wg.Wait()
	var best string
	for id, n := range says {
		if names[id] != nil && (best == "" || n > says[best]) {
			best = id
		}
	}
	return names[best]
}

// Followers are the free machines but for the leader.
func (w *World) Followers() []*machines.Machine {
	l := w.Leader()
	return slices.DeleteFunc(w.Free(), func(m *machines.Machine) bool { return m == l })
}

func (w *World) status(m *machines.Machine) (api.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c := m.Client()
	defer c.Close()
	return c.Status(ctx)
}

// Ask calls f with a client of a running machine under no fault, of one after the other until it succeeds.
func (w *World) Ask(ctx context.Context, f func(context.Context, *api.Client) error) error {
	last := fmt.Errorf("no machine to ask")
	for _, m := range w.Free() {
		if !m.Running() {
			continue
		}
		c := m.Client()
		err := f(ctx, c)
		c.Close()
		if err == nil {
			return nil
		}
		last = fmt.Errorf("%s: %w", m.Name, err)
	}
	return last
}

// NodeView is the cluster's view of a machine's node.
func (w *World) NodeView(ctx context.Context, m *machines.Machine) (api.NodeView, error) {
	var view api.NodeView
	err := w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
		list, err := c.Nodes(ctx)
		if err != nil {
			return err
		}
		for _, n := range list.Nodes {
			if n.Name == m.Name {
				view = n
				return nil
			}
		}
		return fmt.Errorf("no node is named %s", m.Name)
	})
	return view, err
}

// Hold draws how long a fault holds: between lo and hi, more often short than long. A short run holds for a second at most.
func (w *World) Hold(r *rand.Rand, lo, hi time.Duration) time.Duration {
	x := r.Float64()
	d := lo + time.Duration(x*x*x*float64(hi-lo))
	if w.Short {
		return min(d, max(lo, time.Second))
	}
	return d
}

// Sleep waits, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (w *World) take(b *Broken, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range b.On {
		w.busy[m] = name
	}
}

func (w *World) release(b *Broken) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range b.On {
		delete(w.busy, m)
	}
}
