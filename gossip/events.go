package gossip

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// EventKind says what happened to a member.
type EventKind uint8

// The kinds of events.
const (
	// Joined: a member is new, or came back after it was dead or had left.
	Joined EventKind = iota + 1
	// Updated: its metadata or address changed.
	Updated
	// Suspected: somebody could not reach it.
	Suspected
	// Revived: it refuted the suspicion and is alive again.
	Revived
	// Died: it did not refute in time.
	Died
	// Departed: it left on purpose.
	Departed
)

// String returns the kind in lower case, as people read it.
func (k EventKind) String() string {
	switch k {
	case Joined:
		return "joined"
	case Updated:
		return "updated"
	case Suspected:
		return "suspected"
	case Revived:
		return "revived"
	case Died:
		return "died"
	case Departed:
		return "departed"
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// MarshalText writes the kind as String does.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Event is a change of one member. Member is its state after the change.
type Event struct {
	Kind   EventKind `json:"kind"`
	Member Member    `json:"member"`
	// At is when this node noticed, by its own wall clock.
	At time.Time `json:"at"`
}

// watcherBacklog is how many events wait for a reader one by one. Beyond it, only the latest event of each member is
// kept, so that the memory for a stuck reader is bounded by the number of members and the final state is never lost.
const watcherBacklog = 256

// watcher is the queue of one reader.
type watcher struct {
	wake chan struct{} // holds one token when there is something to read

	mu      sync.Mutex
	pending []Event
}

func newWatcher() *watcher { return &watcher{wake: make(chan struct{}, 1)} }

// put enqueues e and never blocks.
func (w *watcher) put(e Event) {
	w.mu.Lock()
	if len(w.pending) >= watcherBacklog {
		w.pending = latestOfEach(w.pending, e.Member.ID)
	}
	w.pending = append(w.pending, e)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// latestOfEach keeps the last event of each member in place and drops all of member gone, whose newer event follows.
// It is only worth its cost when the queue is long, and it shortens the queue to the number of members.
func latestOfEach(events []Event, gone string) []Event {
	last := make(map[string]int, len(events))
	for i, e := range events {
		last[e.Member.ID] = i
	}
	kept := events[:0]
	for i, e := range events {
		if last[e.Member.ID] == i && e.Member.ID != gone {
			kept = append(kept, e)
		}
	}
	return kept
}

// next removes and returns the oldest event.
func (w *watcher) next() (Event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		return Event{}, false
	}
	e := w.pending[0]
	w.pending = w.pending[1:]
	return e, true
}

// Watch returns the members as they are now, sorted by ID, and every change after that, without a gap. The channel is
// closed when ctx ends or the pool stops. A reader that is slow finds some events merged: of each member it then sees
// at least the latest, but perhaps not each step (a Died without its Suspected). It never slows the pool down.
func (p *Pool) Watch(ctx context.Context) ([]Member, <-chan Event) {
	w := newWatcher()
	p.mu.Lock()
	members := p.membersLocked()
	p.watchers[w] = struct{}{}
	p.mu.Unlock()

	out := make(chan Event)
	go func() {
		defer close(out)
		defer func() {
			p.mu.Lock()
			delete(p.watchers, w)
			p.mu.Unlock()
		}()
		for {
			// A queue is taken event by event, so that the merging applies to all that the reader has not yet seen.
			e, ok := w.next()
			if !ok {
				select {
				case <-w.wake:
					continue
				case <-ctx.Done():
					return
				case <-p.done:
					return
				}
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			case <-p.done:
				return
			}
		}
	}()
	return members, out
}
