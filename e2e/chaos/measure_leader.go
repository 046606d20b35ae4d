package chaos

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"shoal/e2e/machines"
)

// leaderAway are the ways in which a leader goes.
var leaderAway = []struct {
	name string
	// play takes the leader away and gives the way back.
	play func(w *World, m *machines.Machine) (back func() error, err error)
}{
	{"killed", func(_ *World, m *machines.Machine) (func() error, error) {
		if err := m.Signal(syscall.SIGKILL); err != nil {
			return nil, err
		}
		return func() error {
			if _, err := m.AwaitEnd(patience); err != nil {
				return err
			}
			return m.Start()
		}, nil
	}},
	{"without power", func(_ *World, m *machines.Machine) (func() error, error) {
		if _, err := m.PowerCut(); err != nil {
			return nil, err
		}
		return func() error { return startMachine(m) }, nil
	}},
	{"cut off", func(w *World, m *machines.Machine) (func() error, error) {
		t, err := w.Net.Make(machines.Split("", []*machines.Machine{m}, without(w.Machines(), m)))
		if err != nil {
			return nil, err
		}
		return t.End, nil
	}},
}

func startMachine(m *machines.Machine) error {
	if err := m.PowerOn(); err != nil {
		return err
	}
	return m.Start()
}

func without(all []*machines.Machine, m *machines.Machine) []*machines.Machine {
	var out []*machines.Machine
	for _, x := range all {
		if x != m {
			out = append(out, x)
		}
	}
	return out
}

// measureFailover: how long no write is acknowledged when the leader goes.
func measureFailover(ctx context.Context, w *World, n int) ([]Figure, error) {
	figures := make([]Figure, len(leaderAway))
	for i, way := range leaderAway {
		figures[i] = Figure{Name: "no writes, leader " + way.name, Goal: time.Second}
	}
	all := Figure{Name: "no writes, leader lost in any way", Goal: time.Second}
	p := w.startProbe(ctx)
	defer p.cancel()
	for k := range n {
		i := k % len(leaderAway)
		if _, err := w.awaitSettled(ctx, patience); err != nil {
			return figures, err
		}
		m := w.Leader()
		if m == nil {
			return figures, fmt.Errorf("no leader")
		}
		b := &Broken{On: []*machines.Machine{m}}
		w.take(b, "failover")
		begun := time.Now()
		back, err := leaderAway[i].play(w, m)
		if err != nil {
			return figures, err
		}
		// A write that was begun before may have reached the one that goes. To take it away takes time too, and by then
		// another one may lead: so not the first acknowledgement counts, but the longest time without one.
		silence, err := p.silence(ctx, begun, time.Now())
		if err != nil {
			return figures, err
		}
		figures[i].Samples = append(figures[i].Samples, silence)
		all.Samples = append(all.Samples, silence)
		w.Log("leader %s %s: no writes for %v", m.Name, leaderAway[i].name, silence.Round(time.Millisecond))
		if err := Sleep(ctx, time.Second); err != nil {
			return figures, err
		}
		if err := back(); err != nil {
			return figures, err
		}
		w.release(b)
	}
	return append(figures, all), nil
}

// measureStall: how long it takes until another one leads when the leader's disk takes no writes.
func measureStall(ctx context.Context, w *World, n int) ([]Figure, error) {
	f := Figure{Name: "no writes, disk of the leader stalled", Goal: 10 * time.Second}
	p := w.startProbe(ctx)
	defer p.cancel()
	for range n {
		if _, err := w.awaitSettled(ctx, patience); err != nil {
			return []Figure{f}, err
		}
		m := w.Leader()
		if m == nil {
			return []Figure{f}, fmt.Errorf("no leader")
		}
		b := &Broken{On: []*machines.Machine{m}}
		w.take(b, "stall")
		begun := time.Now()
		if err := m.FreezeDisk(); err != nil {
			return []Figure{f}, err
		}
		at, err := p.firstAfter(ctx, begun.Add(50*time.Millisecond)) // what was in a page already is acknowledged
		thaw := m.ThawDisk()
		if err != nil || thaw != nil {
			return []Figure{f}, fmt.Errorf("%v, %v", err, thaw)
		}
		w.release(b)
		f.Samples = append(f.Samples, at.Sub(begun))
		w.Log("disk of leader %s stalled: writes after %v", m.Name, at.Sub(begun).Round(time.Millisecond))
		if !m.Running() { // its watchdog may have ended it
			if err := m.Start(); err != nil {
				return []Figure{f}, err
			}
		}
	}
	return []Figure{f}, nil
}
