package state

import (
	"context"
	"crypto/sha256"
	"fmt"

	"shoal/consensus/job"
)

// maxLooks bounds how many may wait at a time for the state at an index.
const maxLooks = 16

// look waits for the state at an index.
type look struct {
	index uint64
	ch    chan *View // of one; nil: that state was never here
}

// ViewAt waits for the state as it is at an index: all commands up to it applied and none after it, so that replicas can be
// compared. When ctx ends before a command of that index or a later one came, the present state is the answer; its
// Index tells. Conflict: the index has passed already, or a restored snapshot skipped it. Unavailable: too many wait.
func (s *Store) ViewAt(ctx context.Context, index uint64) (*View, error) {
	s.mu.Lock()
	at := s.View().index
	switch {
	case at == index:
		defer s.mu.Unlock()
		return s.View(), nil
	case at > index:
		s.mu.Unlock()
		return nil, job.Errorf(job.Conflict, "state at index %d: it is at %d already; ask for a later one", index, at)
	case len(s.looks) >= maxLooks:
		s.mu.Unlock()
		return nil, job.Errorf(job.Unavailable, "state at index %d: %d others wait for theirs; try again", index, maxLooks)
	}
	l := &look{index, make(chan *View, 1)}
	s.looks[l] = struct{}{}
	s.mu.Unlock()
	select {
	case v := <-l.ch:
		return v.or(index)
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.looks, l)
	select {
	case v := <-l.ch: // it came just now
		return v.or(index)
	default:
		return s.View(), nil
	}
}

func (v *View) or(index uint64) (*View, error) {
	if v == nil {
		return nil, job.Errorf(job.Conflict, "state at index %d: a restored snapshot skipped it; ask for a later one", index)
	}
	return v, nil
}

// answerLooksLocked answers those who waited for an index up to the new view's. before is the view before it, nil if that
// was not the state up to the new index: a snapshot came between.
func (s *Store) answerLooksLocked(before *View) {
	now := s.View()
	for l := range s.looks {
		switch {
		case now.index == l.index:
			l.ch <- now
		case now.index > l.index:
			l.ch <- before
		default:
			continue
		}
		delete(s.looks, l)
	}
}

// TableHashes is Hash table by table: where two replicas differ, it tells in what.
func (v *View) TableHashes() map[Table][32]byte {
	out := make(map[Table][32]byte, len(snapshotTables))
	for i, st := range snapshotTables {
		h := sha256.New()
		if _, err := v.writeTable(h, i); err != nil {
			panic(fmt.Sprintf("state: hash %s: %v", st.table, err)) // see Hash
		}
		out[st.table] = [32]byte(h.Sum(nil))
	}
	return out
}
