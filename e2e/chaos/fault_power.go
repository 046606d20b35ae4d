package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"shoal/e2e/machines"
)

// powerFaults switch machines off as if their cables were pulled: what was not synced is lost.
var powerFaults = []Fault{
	{Name: "power-cut", Weight: 6, Play: powerCut},
	{Name: "all-off", Weight: 2, Alone: true, Play: allOff},
}

// powerCut cuts the power of one machine. After a while it is on again.
func powerCut(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off := w.Hold(r, 100*time.Millisecond, 25*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	return cutPower("the power of "+m.Name+" is cut", off, m)
}

// allOff cuts the power of all machines at once, and switches them on at different times.
func allOff(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off := w.Hold(r, 100*time.Millisecond, 15*time.Second)
	if !free(w, w.Machines()...) {
		return nil, ErrNotNow
	}
	b, err := cutPower("the power of all is cut", off, w.Machines()...)
	if err == nil {
		b.Allows.NoQuorum = true
	}
	return b, err
}

func cutPower(what string, off time.Duration, ms ...*machines.Machine) (*Broken, error) {
	cuts, errs := make([]machines.Cut, len(ms)), make([]error, len(ms))
	each(ms, func(i int, m *machines.Machine) { cuts[i], errs[i] = m.PowerCut() })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Broken{
		What: what, For: off, On: ms,
		Acted: func() error {
			for i, c := range cuts {
				if !c.Recovered {
					return fmt.Errorf("the disk of %s had nothing to lose: %s", ms[i].Name, c.Check)
				}
			}
			return nil
		},
		End: func(context.Context) error {
			each(ms, func(i int, m *machines.Machine) { errs[i] = switchOn(m) })
			return errors.Join(errs...)
		},
		Allows: Allowance{Restarts: ms, Moves: ms, LogGaps: ms},
	}, nil
}

func switchOn(m *machines.Machine) error {
	if err := m.PowerOn(); err != nil {
		return err
	}
	return m.Start()
}

// each does something with all at the same time.
func each(ms []*machines.Machine, f func(int, *machines.Machine)) {
	var wg sync.WaitGroup
	for i, m := range ms {
		wg.Go(func() { f(i, m) })
	}
	wg.Wait()
}
