package e2e

import (
	"context"
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

// vmFault breaks a machine, and gives what mends it.
type vmFault struct {
	name string
	play func(n *machines.Net, m *machines.Machine, r *rand.Rand) (mend func() error, err error)
}

// vmFaults are those that take a kernel for each machine, and a few of all machines' for company.
var vmFaults = []vmFault{
	{"netem-delay", netem("delay 150ms 80ms")},
	{"netem-loss", netem("loss 10%")},
	{"netem-reorder", netem("delay 40ms reorder 30% 50%")},
	{"netem-duplicate", netem("duplicate 30%")},
	{"disk-errors", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (func() error, error) {
		// An agent whose log cannot be written ends, and the file system is of no use until it is mounted anew.
		return func() error {
			if err := m.PowerOff(); err != nil {
				return err
			}
			return onAgain(m)
		}, m.Disk(machines.DiskErrors)
	}},
	{"disk-slow", func(_ *machines.Net, m *machines.Machine, r *rand.Rand) (func() error, error) {
		return func() error { return m.Disk(machines.DiskWell) }, m.DiskDelay(time.Duration(200+r.IntN(800)) * time.Millisecond)
	}},
	{"clock-forward", clockStep(90 * time.Minute)},
	{"clock-back", clockStep(-90 * time.Minute)},
	{"panic", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (func() error, error) {
		return func() error { return onAgain(m) }, m.Panic()
	}},
	{"power-off", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (func() error, error) {
		return func() error { return onAgain(m) }, m.PowerOff()
	}},
	{"isolate", func(n *machines.Net, m *machines.Machine, _ *rand.Rand) (func() error, error) {
		return n.Heal, n.Isolate(m)
	}},
	{"kill-agent", func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (func() error, error) {
		return func() error {
			if _, err := m.AwaitEnd(patience); err != nil {
				return err
			}
			return m.Start()
		}, m.Signal(syscall.SIGKILL)
	}},
}

func netem(how string) func(*machines.Net, *machines.Machine, *rand.Rand) (func() error, error) {
	return func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (func() error, error) {
		return func() error {
			if seen, err := m.NetemSeen(); err != nil || seen == 0 {
				return fmt.Errorf("void: %d packets met %q: %v", seen, how, err)
			}
			return m.Netem("")
		}, m.Netem(how)
	}
}

func clockStep(by time.Duration) func(*machines.Net, *machines.Machine, *rand.Rand) (func() error, error) {
	return func(_ *machines.Net, m *machines.Machine, _ *rand.Rand) (func() error, error) {
		return func() error { return m.StepClock(-by) }, m.StepClock(by)
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
		mend, err := f.play(n, m, r)
		if err != nil {
			t.Fatalf("%s on %s: %v", f.name, m.Name, err)
		}
		time.Sleep(span)
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
