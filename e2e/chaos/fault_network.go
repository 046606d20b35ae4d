package chaos

import (
	"context"
	"math/rand/v2"
	"time"

	"shoal/e2e/machines"
)

// networkFaults hit what passes the switch.
var networkFaults = []Fault{
	{Name: "isolate", Weight: 4, Class: "net", Play: isolate},
}

// isolate cuts one machine off from all others.
func isolate(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span := w.Hold(r, 300*time.Millisecond, 20*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if err := w.Net.Isolate(m); err != nil {
		return nil, err
	}
	return &Broken{
		What: m.Name + " is cut off from all", For: span, On: []*machines.Machine{m},
		End:    func(context.Context) error { return w.Net.Heal() },
		Allows: Allowance{Moves: []*machines.Machine{m}},
	}, nil
}
