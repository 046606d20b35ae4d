package container

import (
	"context"
	"sync"
	"time"

	"shoal/runtime"
)

// eventQueue is how many events a slow reader may be behind before it gets EventLost instead.
const eventQueue = 256

// broker hands each event to all who listen.
type broker struct {
	mu   sync.Mutex
	subs map[*subscriber]struct{}
}

type subscriber struct {
	ch   chan runtime.Event
	lost bool // the queue was full: the next one that fits is EventLost
}

// publish never blocks.
func (b *broker) publish(e runtime.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.offer(e)
	}
}

func (s *subscriber) offer(e runtime.Event) {
	// The last place is kept for EventLost, so that the news of a loss always fits.
	if len(s.ch) < cap(s.ch)-1 {
		s.lost = false
		s.ch <- e
		return
	}
	if !s.lost {
		s.lost = true
		s.ch <- runtime.Event{Kind: runtime.EventLost, At: time.Now()}
	}
}

// Events delivers from now until ctx ends, then closes the channel.
func (r *Runtime) Events(ctx context.Context) <-chan runtime.Event {
	return r.events.subscribe(ctx)
}

func (b *broker) subscribe(ctx context.Context) <-chan runtime.Event {
	s := &subscriber{ch: make(chan runtime.Event, eventQueue)}
	b.mu.Lock()
	if b.subs == nil {
		b.subs = map[*subscriber]struct{}{}
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, s)
		close(s.ch)
	})
	return s.ch
}
