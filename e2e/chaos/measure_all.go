package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// measurePower: the power of all machines is cut and comes back.
func measurePower(ctx context.Context, w *World, n int) ([]Figure, error) {
	writes := Figure{Name: "writable, all machines power-cycled", Goal: 15 * time.Second}
	runs := Figure{Name: "all running, all machines power-cycled", Goal: 30 * time.Second}
	for range n {
		if _, err := w.awaitSettled(ctx, patience); err != nil {
			return []Figure{writes, runs}, err
		}
		all := w.Machines()
		each := func(f func(*machines.Machine) error) error {
			errs := make([]error, len(all))
			var wg sync.WaitGroup
			for i, m := range all {
				wg.Go(func() { errs[i] = f(m) })
			}
			wg.Wait()
			return errors.Join(errs...)
		}
		if err := each(func(m *machines.Machine) error { _, err := m.PowerCut(); return err }); err != nil {
			return []Figure{writes, runs}, err
		}
		begun := time.Now() // the power is back: what the machines themselves take to boot counts here, too
		if err := each(startMachine); err != nil {
			return []Figure{writes, runs}, err
		}
		p := w.startProbe(ctx)
		at, err := p.firstAfter(ctx, begun)
		p.cancel()
		if err != nil {
			return []Figure{writes, runs}, err
		}
		settled, err := w.awaitSettled(ctx, patience)
		if err != nil {
			return []Figure{writes, runs}, err
		}
		writes.Samples = append(writes.Samples, at.Sub(begun))
		runs.Samples = append(runs.Samples, settled.Sub(begun))
		w.Log("all machines power-cycled: writable after %v, all running after %v", at.Sub(begun).Round(time.Millisecond), settled.Sub(begun).Round(time.Millisecond))
	}
	return []Figure{writes, runs}, nil
}

// measureMerge: partitions of all kinds, held long enough for everybody to give the others up.
func measureMerge(ctx context.Context, w *World, n int) ([]Figure, error) {
	f := Figure{Name: "one cluster again after a partition", Goal: 45 * time.Second}
	a := w.Machines()
	cuts := []struct {
		name  string
		rules machines.Rules
	}{
		{"two and three", machines.Split("", a[:2], a[2:])},
		{"one alone", machines.Split("", a[:1], a[1:])},
		{"each alone", machines.Split("", a[:1], a[1:2], a[2:3], a[3:4], a[4:])},
		{"one way", machines.OneWay(a[1], a[0], "").And(machines.OneWay(a[2], a[0], "")).And(machines.OneWay(a[3], a[0], "")).And(machines.OneWay(a[4], a[0], ""))},
		{"UDP only", machines.Split(machines.OnlyUDP, a[:2], a[2:])},
		{"TCP only", machines.Split(machines.OnlyTCP, a[:2], a[2:])},
		{"a bridge", machines.Split("", a[:2], a[3:])},
	}
	for k := range n {
		if _, err := w.awaitSettled(ctx, patience); err != nil {
			return []Figure{f}, err
		}
		cut := cuts[k%len(cuts)]
		t, err := w.Net.Make(cut.rules)
		if err != nil {
			return []Figure{f}, err
		}
		err = Sleep(ctx, 20*time.Second)
		hits, herr := t.Hits()
		if err := errors.Join(err, herr, t.End()); err != nil {
			return []Figure{f}, err
		}
		if hits == 0 {
			return []Figure{f}, fmt.Errorf("the cut %s dropped nothing", cut.name)
		}
		begun := time.Now()
		if _, err := w.awaitSettled(ctx, recoveryPatience); err != nil {
			return []Figure{f}, err
		}
		if err := w.awaitAlive(ctx); err != nil {
			return []Figure{f}, err
		}
		f.Samples = append(f.Samples, time.Since(begun))
		w.Log("partition %s: one cluster again after %v", cut.name, time.Since(begun).Round(time.Millisecond))
	}
	return []Figure{f}, nil
}

// awaitAlive waits until every machine sees every other one alive in its gossip.
func (w *World) awaitAlive(ctx context.Context) error {
	var last error
	for end := time.Now().Add(recoveryPatience); time.Now().Before(end); {
		last = nil
		for _, m := range w.Machines() {
			c := m.Client()
			list, err := c.Members(ctx)
			c.Close()
			if err != nil {
				last = err
				continue
			}
			alive := 0
			for _, x := range list.Members {
				if x.State == "alive" {
					alive++
				}
			}
			if alive != len(w.Machines()) {
				last = fmt.Errorf("%s sees %d alive", m.Name, alive)
			}
		}
		if last == nil {
			return nil
		}
		if err := Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return last
}

const (
	restartContainers = 100
	jobHundred        = "hundred"
)

// measureRestarts: agents come and go, containers do not notice.
func measureRestarts(ctx context.Context, w *World, n int) ([]Figure, error) {
	f := Figure{Name: "an agent that was killed and started is ready"}
	stay := false
	spec := job.Spec{Name: jobHundred, Services: []job.Service{{
		Name: "s", Image: Image, Replicas: restartContainers, StopSignal: "SIGKILL", Drain: job.NoDrain, Rebalance: &stay,
		Command: []string{"sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 2; done"},
	}}}
	err := w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
		_, err := c.Submit(ctx, api.NewKey(), api.SubmitRequest{Spec: spec})
		return err
	})
	if err != nil {
		return nil, err
	}
	var before []container
	for end := time.Now().Add(patience); len(before) != restartContainers; before = census(w.Machines()) {
		if time.Now().After(end) {
			return nil, fmt.Errorf("%d containers run, want %d", len(before), restartContainers)
		}
		if err := Sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
	lines := newLineReader(w)
	lines.job = jobHundred
	all := w.Machines()
	for k := 0; len(f.Samples) < n; k++ {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var errs []error
		for i := range 1 + k%3 {
			m := all[(k+2*i)%len(all)]
			wg.Go(func() {
				took, err := restartAgent(m)
				mu.Lock()
				defer mu.Unlock()
				f.Samples, errs = append(f.Samples, took), append(errs, err)
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return []Figure{f}, err
		}
		if k%100 == 99 {
			w.Log("%d restarts", len(f.Samples))
		}
	}
	wrong := touched(before, census(all), nil, func(container) licence { return mayNothing })
	wrong = append(wrong, lines.read(ctx)...)
	f.Note = fmt.Sprintf("%d containers restarted, %d lines, none lost", len(wrong), lines.lines)
	if len(wrong) > 0 {
		return []Figure{f}, fmt.Errorf("%d of %d containers: %v", len(wrong), restartContainers, wrong[:min(5, len(wrong))])
	}
	if read := len(lines.tasks); read != restartContainers {
		return []Figure{f}, fmt.Errorf("the lines of %d tasks were read, want %d", read, restartContainers)
	}
	return []Figure{f}, nil
}

// restartAgent kills an agent and starts it again, and tells how long it was until it took part.
func restartAgent(m *machines.Machine) (time.Duration, error) {
	if err := m.Signal(syscall.SIGKILL); err != nil {
		return 0, err
	}
	if _, err := m.AwaitEnd(patience); err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := m.Start(); err != nil {
		return 0, err
	}
	err := m.AwaitReady(patience)
	return time.Since(begun), err
}
