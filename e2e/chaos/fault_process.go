package chaos

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"

	"shoal/e2e/machines"
)

// processFaults hit the agent's process.
var processFaults = []Fault{
	{Name: "kill-agent", Weight: 6, Play: killAgent},
}

// killAgent kills the agent at once, and starts it again after a while. Its containers live on.
func killAgent(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off := w.Hold(r, 0, 8*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if err := m.Signal(syscall.SIGKILL); err != nil {
		return nil, err
	}
	if _, err := m.AwaitEnd(10 * time.Second); err != nil {
		return nil, err
	}
	b := &Broken{
		What: "the agent of " + m.Name + " is killed", For: off, On: []*machines.Machine{m},
		End: func(context.Context) error { return m.Start() },
	}
	if off > shortOutage {
		b.Allows.Moves = b.On
	}
	return b, nil
}

// shortOutage is for how long a machine may be silent and certainly not be called down.
const shortOutage = 500 * time.Millisecond
