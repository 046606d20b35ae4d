package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"shoal/e2e/machines"
)

// diskFaults hit what an agent writes.
var diskFaults = []Fault{
	{Name: "freeze-disk", Weight: 3, Play: freezeDisk},
	{Name: "slow-sync", Weight: 2, Play: slowSync},
	{Name: "write-error", Weight: 4, Play: writeError},
	{Name: "disk-full", Weight: 3, Play: diskFull},
}

// stalledDisk is how soon there is a new leader after a leader's disk stalled.
const stalledDisk = 10 * time.Second

// raftFile is what every acknowledged change must be in.
func raftFile(m *machines.Machine) string { return filepath.Join(m.DataDir(), "raft", "raft.db") }

// freezeDisk makes all writes of a machine wait. When it leads, another machine must lead within 10 s.
func freezeDisk(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span := w.Hold(r, 500*time.Millisecond, 30*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	leads := w.Leader() == m
	if err := m.FreezeDisk(); err != nil {
		return nil, err
	}
	frozen, busy := time.Now(), measureBusy(ctx)
	on := []*machines.Machine{m}
	b := &Broken{
		What: "the disk of " + m.Name + " takes no writes", For: span, On: on,
		End:    func(context.Context) error { return m.ThawDisk() },
		Allows: Allowance{Moves: on},
	}
	if leads {
		b.What += ", and it led"
		b.For = max(span, stalledDisk)
	}
	b.Acted = func() error {
		held, factor := time.Since(frozen), busy()
		if leads && held >= stalledDisk && w.Leader() == m {
			said := fmt.Sprintf("%s still leads %v after its disk stalled, on a host on which everything takes %.1f times as long as on an idle one", m.Name, held.Round(time.Millisecond), factor)
			if float64(held) < float64(stalledDisk)*factor {
				return errors.New(said)
			}
			return notKept{"a leader whose disk takes no writes is followed by another one within 10 s", said}
		}
		if free, err := m.DiskFree(); err != nil || free == 0 {
			return fmt.Errorf("its disk is not there or full: %d bytes free, %v", free, err)
		}
		return m.Frozen()
	}
	return b, nil
}

// spoilt makes the Broken of calls that fail or wait.
func spoilt(in *machines.Injection, what string, span time.Duration, m *machines.Machine) *Broken {
	on := []*machines.Machine{m}
	return &Broken{
		What: what, For: span, On: on,
		Acted: func() error {
			hits, err := in.Hits()
			if err == nil && hits == 0 {
				err = errors.New("strace spoilt no call")
			}
			return err
		},
		End: func(context.Context) error {
			err := in.End()
			if !m.Running() {
				err = errors.Join(err, m.Start())
			}
			return err
		},
		Allows: Allowance{Moves: on},
	}
}

// slowSync delays every sync of the log.
func slowSync(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span, delay := w.Hold(r, 2*time.Second, 20*time.Second), time.Duration(20<<r.IntN(8))*time.Millisecond
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	in, err := m.SpoilAgent("fdatasync", fmt.Sprintf("delay_enter=%d", delay.Microseconds()), raftFile(m))
	if err != nil {
		return nil, err
	}
	return spoilt(in, fmt.Sprintf("every sync of the log of %s takes %v", m.Name, delay), max(span, 2*delay), m), nil
}

// writeError makes a write or a sync of the log fail. The agent must end by itself: it may acknowledge nothing any more.
func writeError(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off, which := w.Hold(r, 0, 5*time.Second), r.IntN(3)
	calls := []string{"fdatasync", "pwrite64", "fdatasync,fsync,pwrite64"}[which]
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if view, err := w.NodeView(ctx, m); err != nil || view.Role != "voter" {
		return nil, ErrNotNow // it writes no log
	}
	in, err := m.SpoilAgent(calls, "error=EIO", raftFile(m))
	if err != nil {
		return nil, err
	}
	b := spoilt(in, fmt.Sprintf("%s of the log of %s fails with EIO", calls, m.Name), off, m)
	for begun := time.Now(); m.Running() && time.Since(begun) < patience && ctx.Err() == nil; {
		_ = Sleep(ctx, 20*time.Millisecond)
	}
	hits := b.Acted
	b.Acted = func() error {
		if err := hits(); err != nil {
			return err
		}
		if m.Running() {
			return notKept{"an agent that cannot write its log ends", "it goes on"}
		}
		return nil
	}
	return b, nil
}

// diskFull leaves a machine's disk no space, for as long as it holds.
func diskFull(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span := w.Hold(r, time.Second, 20*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if err := m.FillDisk(0); err != nil {
		return nil, errors.Join(err, m.EmptyDisk())
	}
	full := make(chan struct{})
	hctx, stop := context.WithCancel(ctx)
	go func() { // the log gives up what it keeps for such a time: take that too
		defer close(full)
		for Sleep(hctx, 200*time.Millisecond) == nil {
			_ = m.FillDisk(0)
		}
	}()
	on := []*machines.Machine{m}
	return &Broken{
		What: "the disk of " + m.Name + " is full", For: span, On: on,
		Acted: func() error {
			free, err := m.DiskFree()
			if err == nil && free > 1<<20 {
				err = fmt.Errorf("%d bytes are free", free)
			}
			return err
		},
		End: func(context.Context) error {
			stop()
			<-full
			return m.EmptyDisk()
		},
		Allows: Allowance{Moves: on, LogGaps: on},
	}, nil
}
