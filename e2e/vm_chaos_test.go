package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"shoal/e2e/machines"
)

// vmFault breaks a machine. seen gives an error as long as the fault was not seen to act, and is asked before mend ends it.
type vmFault struct {
	name string
	play func(n *machines.Net, m *machines.Machine, r *rand.Rand) (seen, mend func() error, err error)
}

// vmFaults are those that take a kernel for each machine, and a few of all machines' for company.
var vmFaults = []vmFault{
	{"netem-delay", netem("delay 150ms 80ms")},
	{"netem-loss", netem("loss 10%")},
	{"netem-reorder", netem("delay 40ms reorder 30% 50%")},
	{"netem-duplicate", netem("duplicate 30%")},
	{"disk-errors", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (seen, mend func() error, err error) {
		before, err := m.DiskWrites()
		if err != nil {
			return nil, nil, err
		}
		seen = func() error {
			w, err := m.DiskWrites()
			if w = w.Since(before); err == nil && w.Asked <= w.Below {
				err = fmt.Errorf("%d writes were asked for and %d reached the disk", w.Asked, w.Below)
			}
			return err
		}
		// An agent whose log cannot be written ends, and the file system is of no use until it is mounted anew.
		mend = func() error { return errors.Join(m.PowerOff(), onAgain(m)) }
		return seen, mend, m.Disk(machines.DiskErrors)
	}},
	{"disk-slow", func(_ *machines.Net, m *machines.Machine, r *rand.Rand) (seen, mend func() error, err error) {
		delay := time.Duration(200+r.IntN(800)) * time.Millisecond
		before, err := m.DiskWrites()
		if err != nil {
			return nil, nil, err
		}
		seen = func() error {
			w, err := m.DiskWrites()
			if w = w.Since(before); err == nil && w.Took < delay/2 { // one at least, of which the clock may have missed a part
				err = fmt.Errorf("%d writes took %v together", w.Asked, w.Took)
			}
			return err
		}
		return seen, func() error { return m.Disk(machines.DiskWell) }, m.DiskDelay(delay)
	}},
	{"clock-forward", clockStep(90 * time.Minute)},
	{"clock-back", clockStep(-90 * time.Minute)},
	{"panic", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (seen, mend func() error, err error) {
		return isOff(m), func() error { return onAgain(m) }, m.Panic()
	}},
	{"power-off", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (seen, mend func() error, err error) {
		return isOff(m), func() error { return onAgain(m) }, m.PowerOff()
	}},
	{"isolate", func(n *machines.Net, m *machines.Machine, _ *rand.Rand) (seen, mend func() error, err error) {
		others := slices.DeleteFunc(n.Machines(), func(o *machines.Machine) bool { return o == m })
		cut, err := n.Make(machines.Split("", []*machines.Machine{m}, others))
		seen = func() error {
			hits, err := cut.Hits()
			if err == nil && hits == 0 {
				err = errors.New("no packet met it")
			}
			return err
		}
		return seen, cut.End, err
	}},
	{"kill-agent", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (seen, mend func() error, err error) {
		seen = func() error {
			_, err := m.AwaitEnd(patience)
			return err
		}
		return seen, func() error { return m.Start() }, m.Signal(syscall.SIGKILL)
	}},
}

func netem(how string) func(*machines.Net, *machines.Machine, *rand.Rand) (seen, mend func() error, err error) {
	return func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (seen, mend func() error, err error) {
		seen = func() error {
			packets, err := m.NetemSeen()
			if err == nil && packets == 0 {
				err = fmt.Errorf("no packet met %q", how)
			}
			return err
		}
		return seen, func() error { return m.Netem("") }, m.Netem(how)
	}
}

func clockStep(by time.Duration) func(*machines.Net, *machines.Machine, *rand.Rand) (seen, mend func() error, err error) {
	return func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (seen, mend func() error, err error) {
		before, err := m.ClockAhead()
		if err != nil {
			return nil, nil, err
		}
		seen = func() error {
			now, err := m.ClockAhead()
			if moved := now - before; err == nil && (moved-by).Abs() > time.Minute {
				err = fmt.Errorf("its clock was moved by %v and is %v off", by, moved)
			}
			return err
		}
		return seen, func() error { return m.StepClock(-by) }, m.StepClock(by)
	}
}

func isOff(m *machines.Machine) func() error {
	return func() error {
		if m.On() {
			return fmt.Errorf("machine %s is on", m.Name)
		}
		return nil
	}
}

func onAgain(m *machines.Machine) error {
	if err := m.PowerOn(); err != nil {
		return err
	}
	return m.Start()
}

// TestVMChaos plays faults one after the other on machines with kernels of their own, and looks after each whether what
// was acknowledged is there and what was asked for runs. SHOAL_CHAOS_FAULTS is a number of them or their names,
// SHOAL_SEED repeats a run.
func TestVMChaos(t *testing.T) {
	n := vmNetwork(t)
	seed := uint64(time.Now().UnixNano()) % 1_000_000
	if s := os.Getenv("SHOAL_SEED"); s != "" && s != "0" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("SHOAL_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 5))
	must(t, n.Form(3, machines.MachineOptions{}))
	all := n.Machines()
	loadBusybox(t, all[0])
	sleepers(t, all[0], "web", 3)
	settled(t, n, all[0], "web", 3)
	l := startLabels(n)
	defer l.stop()
	for _, f := range chosenFaults(t, r) {
		m := all[r.IntN(len(all))]
		span := time.Duration(1+r.IntN(20)) * time.Second
		began, before := time.Now(), l.count()
		seen, mend, err := f.play(n, m, r)
		if err != nil {
			t.Fatalf("%s on %s: %v", f.name, m.Name, err)
		}
		time.Sleep(span)
		eventually(t, f.name+" to be seen on "+m.Name+" (else the run is void)", seen)
		if err := mend(); err != nil {
			t.Fatalf("mend %s on %s: %v", f.name, m.Name, err)
		}
		mended := time.Now()
		if !m.Running() { // a disk that fails, or a clock that jumps, must not end an agent but for the reason that it is told
			t.Fatalf("after %s the agent of %s does not run:\n%s", f.name, m.Name, tail(m.LogPath(), 20))
		}
		for _, m := range all {
			must(t, m.AwaitReady(patience))
		}
		settled(t, n, all[0], "web", 3)
		eventually(t, "a change to be taken after "+f.name, func() error {
			if l.count() == before {
				return fmt.Errorf("none since %v", time.Since(began))
			}
			return nil
		})
		l.check(t, n)
		fmt.Printf("%-16s on %s for %-4v all is well %5.1f s after its end, %d changes acknowledged\n", f.name, m.Name, span, time.Since(mended).Seconds(), l.count())
	}
}

// chosenFaults are so many in a random order in which each comes before one comes again, or those that were named.
func chosenFaults(t *testing.T, r *rand.Rand) []vmFault {
	t.Helper()
	var out []vmFault
	want := os.Getenv("SHOAL_CHAOS_FAULTS")
	if want == "" {
		want = strconv.Itoa(len(vmFaults))
	}
	count, err := strconv.Atoi(want)
	for err == nil && len(out) < count {
		for _, i := range r.Perm(len(vmFaults)) {
			out = append(out, vmFaults[i])
		}
	}
	if err == nil {
		return out[:count]
	}
	for _, name := range strings.Split(want, ",") {
		i := slices.IndexFunc(vmFaults, func(f vmFault) bool { return f.name == name })
		if i < 0 {
			t.Fatalf("there is no fault %q", name)
		}
		out = append(out, vmFaults[i])
	}
	return out
}

// labels is a load: one label after the other, of one node, by whichever machine answers.
type labels struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	taken  []string // keys that were acknowledged
}

func startLabels(n *machines.Net) *labels {
	ctx, cancel := context.WithCancel(context.Background())
	l := &labels{cancel: cancel}
	l.wg.Go(func() {
		all := n.Machines()
		for k := 0; ctx.Err() == nil; k++ {
			key := fmt.Sprintf("chaos-%d", k)
			c := all[k%len(all)].Client()
			one, done := context.WithTimeout(ctx, patience)
			if err := c.SetLabels(one, all[0].Name, map[string]string{key: "y"}); err == nil {
				l.mu.Lock()
				l.taken = append(l.taken, key)
				l.mu.Unlock()
			}
			done()
			c.Close()
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return l
}

func (l *labels) stop() { l.cancel(); l.wg.Wait() }

func (l *labels) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.taken)
}

// check: whatever was acknowledged is known to all.
func (l *labels) check(t *testing.T, n *machines.Net) {
	t.Helper()
	l.mu.Lock()
	taken := slices.Clone(l.taken)
	l.mu.Unlock()
	for _, m := range n.Machines() {
		eventually(t, "an answer of "+m.Name, func() error {
			list, err := nodes(m)
			if err != nil {
				return err
			}
			for _, node := range list.Nodes {
				if node.Name != n.Machines()[0].Name {
					continue
				}
				for _, key := range taken {
					if node.Labels[key] != "y" {
						return fmt.Errorf("%s does not know of %s, which was acknowledged", m.Name, key)
					}
				}
			}
			return nil
		})
	}
}
