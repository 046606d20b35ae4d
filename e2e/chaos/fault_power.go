package chaos

import (
	"context"
	"math/rand/v2"
	"time"

	"shoal/e2e/machines"
)

// powerFaults switch machines off.
var powerFaults = []Fault{
	{Name: "power-cut", Weight: 3, Play: powerCut},
}

// powerCut kills everything of a machine at once; its disk stays. After a while it is on again.
func powerCut(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off := w.Hold(r, 100*time.Millisecond, 15*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if err := m.PowerOff(); err != nil {
		return nil, err
	}
	on := []*machines.Machine{m}
	return &Broken{
		What: "the power of " + m.Name + " is cut", For: off, On: on,
		End: func(context.Context) error {
			if err := m.PowerOn(); err != nil {
				return err
			}
			return m.Start()
		},
		Allows: Allowance{Restarts: on, Moves: on, LogGaps: on},
	}, nil
}
