package reconciler

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
	"shoal/runtime/fake"
)

func TestDiskThatCannotBeWrittenStopsNothing(t *testing.T) {
	inBubble(t, func(g *rig) {
		blocks := []string{filepath.Join(g.dir, assignmentsFile+".tmp"), filepath.Join(g.dir, statusesFile+".tmp")}
		for _, b := range blocks {
			if err := os.MkdirAll(filepath.Join(b, "in the way"), 0o700); err != nil {
				g.Fatal(err)
			}
		}
		g.set(web("t1"))
		g.pass(3 * time.Second)
		g.wantState("t1", job.Running)
		for _, b := range blocks {
			if err := os.RemoveAll(b); err != nil {
				g.Fatal(err)
			}
		}
		g.pass(maxRetry) // written by now, without a further change
		for _, f := range []string{assignmentsFile, statusesFile} {
			if b, err := os.ReadFile(filepath.Join(g.dir, f)); err != nil || !strings.Contains(string(b), "t1") {
				g.Errorf("%s holds %q, %v", f, b, err)
			}
		}
	})
}

func TestPullFailures(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		after time.Duration
		state job.State
	}{
		{"busy is tried for ever", runtime.ErrBusy, time.Hour, job.Pulling},
		{"full disk is tried for ever", runtime.ErrNoSpace, time.Hour, job.Pulling},
		{"not found is tried a few times", runtime.ErrNotFound, 10 * time.Second, job.Pulling},
		{"not found fails in the end", runtime.ErrNotFound, 3 * time.Minute, job.Failed},
		{"denied fails in the end", runtime.ErrDenied, 3 * time.Minute, job.Failed},
		{"invalid fails at once", runtime.ErrInvalid, time.Second, job.Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(g *rig) {
				g.rt.FailNext(fake.CallPull, "web", -1, fmt.Errorf("registry: %w", c.err))
				g.set(web("t1"))
				g.pass(c.after)
				if s := g.status("t1"); s.State != c.state || !strings.Contains(s.Message, c.err.Error()) {
					g.Errorf("%s", describe(s))
				}
				if c.state != job.Pulling {
					return
				}
				if n, most := g.calls(fake.CallPull, "web"), 10+int(c.after/maxRetry); n > most {
					g.Errorf("pulled %d times in %v", n, c.after)
				}
				g.rt.Heal()
				g.pass(time.Minute)
				if s := g.status("t1"); s.State != job.Running || s.Message != "" {
					g.Errorf("healed, but %s", describe(s))
				}
			})
		})
	}
}

func TestCreateAndStartAreTriedAgain(t *testing.T) {
	for _, call := range []fake.Call{fake.CallCreate, fake.CallStart} {
		t.Run(string(call), func(t *testing.T) {
			inBubble(t, func(g *rig) {
				g.rt.FailNext(call, "t1", 3, fmt.Errorf("write layer: %w", runtime.ErrNoSpace))
				g.set(web("t1"))
				g.pass(1500 * time.Millisecond)
				if s := g.status("t1"); !strings.Contains(s.Message, "no space left") {
					g.Errorf("meanwhile: %s", describe(s))
				}
				g.pass(10 * time.Second)
				if s := g.status("t1"); s.State != job.Running || s.Message != "" || s.Restarts != 0 {
					g.Errorf("in the end: %s", describe(s))
				}
			})
		})
	}
}

func TestImageThatWentIsPulledAgain(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.rt.FailNext(fake.CallCreate, "t1", 1, fmt.Errorf("image web: %w", runtime.ErrNotFound))
		g.set(web("t1"))
		g.pass(10 * time.Second)
		g.wantState("t1", job.Running)
		if n := g.calls(fake.CallPull, "web"); n != 2 {
			g.Errorf("pulled %d times", n)
		}
	})
}

func TestStopThatFailsIsTriedAgain(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"))
		g.pass(3 * time.Second)
		g.rt.FailNext(fake.CallStop, "t1", 2, runtime.ErrBusy)
		g.rt.FailNext(fake.CallRemove, "t1", 2, runtime.ErrBusy)
		g.setAt(2, true)
		g.pass(time.Minute)
		g.wantNoContainer("t1")
		g.wantState("t1", job.Complete)
		if ss := g.r.Statuses(); len(ss) != 0 {
			g.Errorf("still known: %v", ss)
		}
	})
}

func TestPortThatAnotherHasFailsInTheEnd(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1", port(8080)))
		g.pass(3 * time.Second)
		g.setAt(2, false, web("t2", port(8080))) // the leader should not do this; a foreign program would look the same
		g.pass(3 * time.Second)
		if s := g.status("t2"); s.State != job.Created || !strings.Contains(s.Message, "port 8080/tcp is taken") {
			g.Errorf("meanwhile: %s", describe(s))
		}
		g.pass(5 * time.Minute)
		g.wantState("t2", job.Failed)
		g.wantContainer("t1", runtime.Running, 1)
	})
}

func TestLostEventsAndForeignHands(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"), web("t2"))
		g.pass(3 * time.Second)
		g.rt.Exit("t1", 1)
		g.rt.LoseEvents()
		if err := g.rt.Remove(context.Background(), "t2"); err != nil {
			g.Fatal(err)
		}
		g.pass(40 * time.Second)
		g.wantContainer("t1", runtime.Running, 2)
		g.wantContainer("t2", runtime.Running, 1)
		if s := g.status("t2"); s.Restarts != 1 || !s.Ready() {
			g.Errorf("made again: %s", describe(s))
		}
	})
}

// Workers that an agent's end cuts short come back as it ends: that is not what their tasks failed by.
func TestTheEndOfTheAgentIsNoFailure(t *testing.T) {
	for range 20 { // which of the two is seen first is anybody's guess
		inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {Absent: true, PullDelay: time.Hour}}}, func(g *rig) {
			var ends atomic.Bool
			g.mu.Lock()
			g.within = func() {
				if ends.CompareAndSwap(true, false) {
					g.cancel()
					time.Sleep(time.Millisecond) // the workers come back before the pass is over
				}
			}
			g.mu.Unlock()
			g.set(web("t1"), web("t2"))
			g.pass(time.Second)
			g.wantState("t2", job.Pulling)
			ends.Store(true)
			g.set(web("t1"), web("t2"), web("t3"))
			g.stop()
			b, err := os.ReadFile(filepath.Join(g.dir, statusesFile))
			if err != nil || ends.Load() || strings.Contains(string(b), "cancel") {
				g.Errorf("kept for the next start: %s, %v", b, err)
			}
			g.start()
		})
	}
}
