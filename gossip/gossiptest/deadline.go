package gossiptest

import (
	"sync"
	"time"
)

// deadline is a point in time that can be waited for and moved, as in net.Pipe.
type deadline struct {
	mu    *sync.Mutex
	state *deadlineState
}

type deadlineState struct {
	timer *time.Timer
	ch    chan struct{} // closed when the deadline has passed
}

func newDeadline() deadline {
	return deadline{mu: &sync.Mutex{}, state: &deadlineState{ch: make(chan struct{})}}
}

// passed returns a channel that is closed when the deadline that is set now passes.
func (d deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.ch
}

// set moves the deadline; the zero time removes it.
func (d deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state
	if s.timer != nil && !s.timer.Stop() {
		<-s.ch // it fired: wait until its channel is closed
	}
	s.timer = nil
	closed := false
	select {
	case <-s.ch:
		closed = true
	default:
	}
	if t.IsZero() {
		if closed {
			s.ch = make(chan struct{})
		}
		return
	}
	if left := time.Until(t); left > 0 {
		if closed {
			s.ch = make(chan struct{})
		}
		ch := s.ch
		s.timer = time.AfterFunc(left, func() { close(ch) })
		return
	}
	if !closed {
		close(s.ch)
	}
}
