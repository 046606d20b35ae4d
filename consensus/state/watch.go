package state

import (
	"errors"
	"sync"
)

// ErrSlow ends a subscription whose buffer ran over, or whose store was restored: subscribe anew and start from the view.
var ErrSlow = errors.New("subscriber too slow or state restored: subscribe again")

// ErrClosed ends a subscription that was closed by its owner.
var ErrClosed = errors.New("subscription closed")

// Batch is what one command changed. There is one for every command, also one that failed or changed nothing: so a
// subscriber can wait until it has seen the index of its own proposal.
type Batch struct {
	Index   uint64
	Changes []Change // each row at most once; may be empty; shared, do not change
}

// Change is one row's change. Before and After are pointers to the table's noun; Before is nil on insert and After on
// delete.
type Change struct {
	Table         Table
	Before, After any
}

// Subscription delivers changes in order, without gaps, from the index of the view that came with it.
type Subscription struct {
	// C is closed when the subscription ends; Err then says why.
	C <-chan Batch

	s  *Store
	mu sync.Mutex // after Store.mu
	c  chan Batch
	e  error // set once, with c closed
}

// Subscribe reads and watches in one operation: every change after the view's index is delivered. A reader that is
// more than buffer batches behind is ended with ErrSlow: Apply waits for nobody.
func (s *Store) Subscribe(buffer int) (*View, *Subscription) {
	c := make(chan Batch, max(buffer, 1))
	sub := &Subscription{C: c, c: c, s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs[sub] = struct{}{}
	return s.View(), sub
}

// Err is nil while the subscription lives; then ErrSlow or ErrClosed.
func (b *Subscription) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.e
}

// Close ends the subscription; it may be called more than once.
func (b *Subscription) Close() {
	b.s.mu.Lock()
	delete(b.s.subs, b)
	b.s.mu.Unlock()
	b.end(ErrClosed)
}

func (b *Subscription) end(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.e == nil {
		b.e = why
		close(b.c)
	}
}

// offer tells whether the batch was taken; a subscription that could not take it is ended.
func (b *Subscription) offer(batch Batch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.e != nil {
		return false
	}
	select {
	case b.c <- batch:
		return true
	default:
		b.e = ErrSlow
		close(b.c)
		return false
	}
}
