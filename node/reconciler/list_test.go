package reconciler

import (
	"cmp"
	"context"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// slowList is a runtime whose List takes a while after it has read what there is, and whose news can get lost.
type slowList struct {
	runtime.Runtime
	mu     sync.Mutex
	takes  time.Duration // 0: 200 ms
	lists  int
	during func() // called when a list has read what there is; nil: nothing is
	loses  bool   // all that Events tells, but that something was lost
	fails  int    // so many of the next Inspects fail
	ends   bool   // Events ends with the next one, which it does not tell
}

func (s *slowList) List(ctx context.Context) ([]runtime.Info, error) {
	infos, err := s.Runtime.List(ctx)
	s.mu.Lock()
	if s.during != nil {
		s.during()
		s.during = nil
	}
	s.lists++
	s.mu.Unlock()
	time.Sleep(cmp.Or(s.takes, 200*time.Millisecond))
	return infos, err
}

func (s *slowList) Inspect(ctx context.Context, id runtime.ID) (runtime.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails > 0 {
		s.fails--
		return runtime.Info{}, runtime.ErrBusy
	}
	return s.Runtime.Inspect(ctx, id)
}

func (s *slowList) Events(ctx context.Context) <-chan runtime.Event {
	from, to := s.Runtime.Events(ctx), make(chan runtime.Event)
	go func() {
		defer close(to)
		for ev := range from {
			s.mu.Lock()
			loses, ends := s.loses, s.ends
			s.ends = false
			s.mu.Unlock()
			if ends {
				return
			}
			if loses {
				ev = runtime.Event{Kind: runtime.EventLost, At: ev.At}
			}
			select {
			case to <- ev:
			case <-ctx.Done():
			}
		}
	}()
	return to
}

// through starts the agent again, with slow between it and the runtime.
func (g *rig) through(slow *slowList) {
	g.Helper()
	g.stop()
	g.wrap = func(rt runtime.Runtime) runtime.Runtime { slow.Runtime = rt; return slow }
	g.start()
}

// What happens while a list is made is not in it, and must not wait for the next one, half a minute later.
func TestWhatHappensDuringAListIsSeenAtOnce(t *testing.T) {
	cases := map[string]struct {
		loses bool
		fails int
	}{
		"the event arrives":                     {},
		"the event is lost":                     {loses: true},
		"the look that follows the event fails": {fails: 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(g *rig) {
				slow := &slowList{}
				g.through(slow)
				g.set(web("t1"))
				g.pass(5 * time.Second)
				g.wantContainer("t1", runtime.Running, 1)
				exited := make(chan bool, 1)
				slow.mu.Lock()
				slow.during = func() { slow.loses, slow.fails = c.loses, c.fails; exited <- g.rt.Exit("t1", 1) }
				slow.mu.Unlock()
				if !<-exited {
					t.Fatal("t1 does not run")
				}
				g.pass(3 * time.Second)
				g.wantState("t1", job.Running)
				g.wantContainer("t1", runtime.Running, 2)
			})
		})
	}
}

// A list that takes longer than the time between two is not followed by the next one at once.
func TestSlowListsLeaveTimeBetweenThem(t *testing.T) {
	inBubble(t, func(g *rig) {
		slow := &slowList{takes: 2 * resyncEvery}
		g.through(slow)
		g.pass(9*resyncEvery + time.Second)
		slow.mu.Lock()
		defer slow.mu.Unlock()
		if slow.lists != 4 { // at the begin, and three times resyncEvery after the end of one
			t.Errorf("%d lists, want 4", slow.lists)
		}
	})
}

// A runtime that gives its events up is asked for all containers at once, and for its events again.
func TestEventsThatEndAreAskedForAgain(t *testing.T) {
	inBubble(t, func(g *rig) {
		slow := &slowList{}
		g.through(slow)
		g.set(web("t1"))
		g.pass(5 * time.Second)
		for starts := 2; starts < 4; starts++ {
			slow.mu.Lock()
			slow.ends = starts == 2
			slow.mu.Unlock()
			if !g.rt.Exit("t1", 1) {
				t.Fatal("t1 does not run")
			}
			g.pass(3 * time.Second)
			g.wantContainer("t1", runtime.Running, starts)
		}
	})
}

// An agent that lost its files learns from the list alone which containers there are: what it hears of one before that is kept.
func TestAnEventOfAContainerThatIsNotKnownYetIsKept(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"))
		g.pass(5 * time.Second)
		g.wantContainer("t1", runtime.Running, 1)
		g.stop()
		g.dir, g.torn = t.TempDir(), true
		g.wrap = func(rt runtime.Runtime) runtime.Runtime {
			return &slowList{Runtime: rt, during: func() { g.rt.Exit("t1", 1) }}
		}
		g.start()
		g.pass(time.Second)
		g.set(web("t1"))
		g.pass(2 * time.Second)
		g.wantContainer("t1", runtime.Running, 2)
	})
}
