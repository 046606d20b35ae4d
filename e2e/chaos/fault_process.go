package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shoal/e2e/machines"
)

// processFaults hit single processes.
var processFaults = []Fault{
	{Name: "kill-agent", Weight: 6, Play: killAgent},
	{Name: "stop-agent", Weight: 5, Play: stopAgent},
	{Name: "kill-monitor", Weight: 2, Play: killMonitor},
	{Name: "stop-monitor", Weight: 2, Play: stopMonitor},
	{Name: "squeeze-agent", Weight: 2, Play: squeezeAgent},
}

// shortOutage is for how long a machine may be silent and certainly not be called down.
const shortOutage = 500 * time.Millisecond

// killAgent kills the agent at once, and starts it again after a while. Its containers live on.
func killAgent(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off := w.Hold(r, 0, 8*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if err := endAgent(m, syscall.SIGKILL); err != nil {
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

func endAgent(m *machines.Machine, s syscall.Signal) error {
	if err := m.Signal(s); err != nil {
		return err
	}
	_, err := m.AwaitEnd(30 * time.Second)
	return err
}

// stopAgent freezes the agent for 0.1 to 120 s, more often briefly.
func stopAgent(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	x := r.Float64()
	span := w.Hold(r, 100*time.Millisecond, 120*time.Second)
	if x < 0.5 { // the pauses that look most like a slow machine
		span = min(span, 3*time.Second)
	}
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if err := m.Signal(syscall.SIGSTOP); err != nil {
		return nil, err
	}
	b := &Broken{
		What: "the agent of " + m.Name + " is frozen", For: span, On: []*machines.Machine{m},
		Acted: func() error {
			if !machines.Stopped(m.AgentPID()) {
				return errors.New("the kernel does not show it stopped")
			}
			return nil
		},
		End: func(context.Context) error { return m.Signal(syscall.SIGCONT) },
	}
	if span > shortOutage {
		b.Allows.Moves = b.On
	}
	return b, nil
}

// monitor is one of a random machine.
func monitor(w *World, r *rand.Rand) (*machines.Machine, int, error) {
	k := r.IntN(1 << 16)
	m, err := w.Pick(r)
	if err != nil {
		return nil, 0, err
	}
	all := m.Monitors()
	if len(all) == 0 {
		return nil, 0, ErrNotNow
	}
	slices.Sort(all)
	return m, all[k%len(all)], nil
}

// killMonitor kills what looks after a container: the container may end with it, and comes again.
func killMonitor(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	m, pid, err := monitor(w, r)
	if err != nil {
		return nil, err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return nil, ErrNotNow // it ended by itself
	}
	on := []*machines.Machine{m}
	return &Broken{
		What: fmt.Sprintf("a monitor of %s is killed", m.Name), For: 100 * time.Millisecond, On: on,
		Acted: func() error {
			if !machines.Gone(pid) {
				return errors.New("it lives")
			}
			return nil
		},
		End:    func(context.Context) error { return nil },
		Allows: Allowance{Restarts: on, LogGaps: on},
	}, nil
}

// stopMonitor freezes what looks after a container.
func stopMonitor(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span := w.Hold(r, 100*time.Millisecond, 30*time.Second)
	m, pid, err := monitor(w, r)
	if err != nil {
		return nil, err
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return nil, ErrNotNow // it ended by itself
	}
	on := []*machines.Machine{m}
	var acted error
	stopped := func() bool { return machines.Stopped(pid) }
	for range 100 {
		if stopped() {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if !stopped() {
		acted = errors.New("the kernel does not show it stopped")
	}
	return &Broken{
		What: fmt.Sprintf("a monitor of %s is frozen", m.Name), For: span, On: on,
		Acted: func() error { return acted },
		End: func(context.Context) error {
			// A lease that ran out has killed it, stopped or not.
			if err := unix.Kill(pid, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			return nil
		},
		Allows: Allowance{Restarts: on, LogGaps: on},
	}, nil
}

// squeezeAgent lets the agent run out of memory in a cgroup of its own, and starts it again.
func squeezeAgent(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off := w.Hold(r, 0, 3*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	s, err := m.SqueezeAgent(256 << 10)
	if err != nil {
		return nil, err
	}
	for begun := time.Now(); m.Running() && time.Since(begun) < patience; {
		if err := Sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, errors.Join(err, s.End())
		}
	}
	kills, err := s.Kills()
	if err == nil && kills == 0 {
		err = errors.New("the kernel killed nobody")
	}
	on := []*machines.Machine{m}
	return &Broken{
		What: "the agent of " + m.Name + " runs out of memory", For: off, On: on,
		Acted: func() error { return err },
		End: func(context.Context) error {
			err := s.End()
			if m.Running() {
				err = errors.Join(err, endAgent(m, syscall.SIGKILL))
			}
			return errors.Join(err, m.Start())
		},
		Allows: Allowance{Moves: on},
	}, nil
}
