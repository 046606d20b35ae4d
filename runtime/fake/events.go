package fake

import (
	"context"
	"time"

	"shoal/runtime"
)

// maxEvents is how many events wait for a slow reader until they are lost.
const maxEvents = 256

// subscriber is one reader of events; its queue is guarded by the machine's mutex.
type subscriber struct {
	queue []runtime.Event
	wake  chan struct{}
}

// Events delivers from now on.
func (m *machine) Events(ctx context.Context) <-chan runtime.Event {
	s := &subscriber{wake: make(chan struct{}, 1)}
	m.mu.Lock()
	m.subs[s] = struct{}{}
	m.mu.Unlock()
	ch := make(chan runtime.Event)
	go func() {
		defer close(ch)
		defer func() {
			m.mu.Lock()
			delete(m.subs, s)
			m.mu.Unlock()
		}()
		for {
			m.mu.Lock()
			batch := s.queue
			s.queue = nil
			m.mu.Unlock()
			for _, e := range batch {
				select {
				case ch <- e:
				case <-ctx.Done():
					return
				}
			}
			if len(batch) > 0 {
				continue
			}
			select {
			case <-s.wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch
}

func (m *machine) emitLocked(e runtime.Event) {
	for s := range m.subs {
		if len(s.queue) >= maxEvents {
			s.queue = append(s.queue[:0], runtime.Event{Kind: runtime.EventLost, At: time.Now()})
		} else {
			s.queue = append(s.queue, e)
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// LoseEvents makes every reader miss what it has not read yet, and tells it so.
func (m *machine) LoseEvents() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subs {
		s.queue = []runtime.Event{{Kind: runtime.EventLost, At: time.Now()}}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}
