// Package step knows the named moments between two writes of this machine, at which a crash, an error or a stall must
// cost nothing that was acknowledged. It knows nothing of what is written there, and does nothing at all but in a test.
package step

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Name names a moment: "raft entries stored". Each package lists its own in a variable Steps, and its crash test fails
// for a name that no run reached.
type Name string

// Env arms a process: plans as Parse reads them. ReachedEnv names a file to which each name is appended as it is first
// reached, so that what a killed process had passed is known.
const (
	Env        = "SHOAL_TEST_STEPS"
	ReachedEnv = "SHOAL_TEST_STEPS_REACHED"
)

// Act is what happens at a step.
type Act int

// What may happen.
const (
	Kill  Act = iota // the process is killed, as by kill -9, and the step does not return
	Fail             // Reach returns Err
	Sleep            // Reach returns after For
	Call             // Do is called, and its error returned; in this process only
)

// Plan is what to do at one step.
type Plan struct {
	At   Name
	Nth  int // at which pass of it, from 1; 0: at each
	Act  Act
	Err  error
	For  time.Duration
	Do   func() error
	seen atomic.Int64
}

// armed is nil but in a test: that one look is all that a step costs.
var armed atomic.Pointer[armour]

type armour struct {
	plans   []*Plan
	file    *os.File // may be nil
	mu      sync.Mutex
	reached map[Name]int
}

// Reach passes a step. The error is a planned one: the caller takes it as if what comes next had failed with it.
func Reach(n Name) error {
	a := armed.Load()
	if a == nil {
		return nil
	}
	return a.reach(n)
}

func (a *armour) reach(n Name) error {
	a.mu.Lock()
	a.reached[n]++
	if a.reached[n] == 1 && a.file != nil {
		_, _ = a.file.WriteString(string(n) + "\n")
	}
	a.mu.Unlock()
	for _, p := range a.plans {
		if p.At != n {
			continue
		}
		if pass := p.seen.Add(1); p.Nth != 0 && pass != int64(p.Nth) {
			continue
		}
		if err := p.carryOut(); err != nil {
			return fmt.Errorf("at step %q: %w", n, err)
		}
	}
	return nil
}

func (p *Plan) carryOut() error {
	switch p.Act {
	case Kill:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case Fail:
		return p.Err
	case Sleep:
		time.Sleep(p.For)
	case Call:
		return p.Do()
	}
	return nil
}

// Arm makes the process follow plans, and record what it reaches, until the returned function is called. For tests
// alone; one at a time.
func Arm(plans ...*Plan) (disarm func()) {
	armed.Store(&armour{plans: plans, reached: map[Name]int{}})
	return func() { armed.Store(nil) }
}

// Reached tells how often each step was passed since Arm; nil when nothing is armed.
func Reached() map[Name]int {
	a := armed.Load()
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[Name]int, len(a.reached))
	for n, times := range a.reached {
		out[n] = times
	}
	return out
}

// FromEnv arms the process as its environment says. An agent calls it as it starts; without the variables it does
// nothing. What it cannot read is an error: a test that is armed with nothing proves nothing.
func FromEnv() error {
	spec, file := os.Getenv(Env), os.Getenv(ReachedEnv)
	if spec == "" && file == "" {
		return nil
	}
	plans, err := Parse(spec)
	if err != nil {
		return fmt.Errorf("%s: %w", Env, err)
	}
	a := &armour{plans: plans, reached: map[Name]int{}}
	if file != "" {
		if a.file, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return fmt.Errorf("%s: %w", ReachedEnv, err)
		}
	}
	armed.Store(a)
	return nil
}

// ParseReached reads what a process wrote to the file in ReachedEnv.
func ParseReached(file []byte) map[Name]int {
	out := map[Name]int{}
	for _, line := range strings.Split(string(file), "\n") {
		if line != "" {
			out[Name(line)]++
		}
	}
	return out
}

// Parse reads plans: "NAME=ACT[@N]", separated by ";". ACT is kill, eio, enospc, or a duration to sleep; N is the pass
// at which it happens, 1 unless said, 0 for each.
func Parse(spec string) ([]*Plan, error) {
	var out []*Plan
	for _, one := range strings.Split(spec, ";") {
		if strings.TrimSpace(one) == "" {
			continue
		}
		name, act, ok := strings.Cut(one, "=")
		if !ok {
			return nil, fmt.Errorf("%q: want NAME=ACT[@N]", one)
		}
		p := &Plan{At: Name(strings.TrimSpace(name)), Nth: 1}
		act, nth, counted := strings.Cut(strings.TrimSpace(act), "@")
		if counted {
			n, err := strconv.Atoi(nth)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%q: %q is no number of a pass", one, nth)
			}
			p.Nth = n
		}
		switch act {
		case "kill":
			p.Act = Kill
		case "eio":
			p.Act, p.Err = Fail, syscall.EIO
		case "enospc":
			p.Act, p.Err = Fail, syscall.ENOSPC
		default:
			d, err := time.ParseDuration(act)
			if err != nil {
				return nil, fmt.Errorf("%q: %q is neither kill, eio, enospc nor a duration", one, act)
			}
			p.Act, p.For = Sleep, d
		}
		out = append(out, p)
	}
	return out, nil
}
