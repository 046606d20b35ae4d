// Package state is what the cluster agreed on: tables of jobs, tasks, statuses and nodes, changed only by typed commands
// that every replica applies in the same order with the same result. It can be viewed, watched, saved and restored. It
// knows nothing of raft, of the network or of clocks: order, time, randomness and ids come with the commands.
package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"

	"shoal/consensus/job"
)

// Store holds the state. Make it with New. All methods are safe for concurrent use; commands are applied one at a time.
type Store struct {
	view atomic.Pointer[View] // what readers see; replaced as a whole under mu

	mu       sync.Mutex // one command, one subscribe or one restore at a time
	db       *memdb.MemDB
	derived  *derived
	subs     map[*Subscription]struct{}
	applied  chan struct{} // closed and replaced when view changes
	looks    map[*look]struct{}
	known    int // the highest level of rules that this build knows
	outdated atomic.Pointer[OutdatedError]
}

// New makes an empty store at index 0.
func New() *Store { return NewKnowing(Rules) }

// NewKnowing is New as a build would have it that knows no rules above a level.
func NewKnowing(rules int) *Store {
	db, err := memdb.NewMemDB(schema())
	if err != nil {
		panic("state: the schema is wrong: " + err.Error())
	}
	s := &Store{db: db, derived: newDerived(), subs: map[*Subscription]struct{}{}, applied: make(chan struct{}), looks: map[*look]struct{}{}, known: rules}
	s.view.Store(&View{txn: db.Txn(false)})
	return s
}

// View is the state as it is now.
func (s *Store) View() *View { return s.view.Load() }

// Result is what a command gave.
type Result struct {
	Index uint64 // at which it was applied
	Err   error  // of a job.Kind; then nothing was changed
	// Value is the thing that was changed, as each command says; nil otherwise.
	Value any
	// Unchanged says that all was so already.
	Unchanged bool
}

// Apply carries out one encoded command as raft entry index. It is deterministic: the same commands in the same order
// give the same state and results everywhere. Bad input is a Result.Err, never a panic; the index advances all the same. What a
// newer build wrote is an *OutdatedError: the store stays where it is, and says so to all that follows.
func (s *Store) Apply(index uint64, raw []byte) Result {
	c, err := Decode(raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.outdated.Load(); o != nil {
		return Result{Index: s.View().index, Err: o}
	}
	if index <= s.View().index {
		return Result{Index: index, Err: job.Errorf(job.Internal, "apply index %d: already at %d", index, s.View().index)}
	}
	if err != nil {
		return s.refuseLocked(index, err)
	}
	tx := s.begin(index)
	r := tx.apply(c)
	r.Index = index
	if r.Err != nil {
		tx.abort()
		return s.refuseLocked(index, r.Err)
	}
	s.publishLocked(index, tx.commit())
	return r
}

// refuseLocked goes past a command that changes nothing, which is the same everywhere, and stops at one whose meaning only a
// newer build knows.
func (s *Store) refuseLocked(index uint64, err error) Result {
	if o := (*OutdatedError)(nil); errors.As(err, &o) {
		s.outdated.Store(o)
		return Result{Index: s.View().index, Err: err}
	}
	s.publishLocked(index, nil)
	return Result{Index: index, Err: err}
}

// publishLocked makes the new view visible and tells waiters and subscribers.
func (s *Store) publishLocked(index uint64, changes []Change) {
	s.showLocked(index, s.View())
	b := Batch{Index: index, Changes: changes}
	for sub := range s.subs {
		if !sub.offer(b) {
			delete(s.subs, sub)
		}
	}
}

// showLocked makes the database as it is now what readers see, and wakes those who wait for it. before is the view up to
// the index, nil if there was none here.
func (s *Store) showLocked(index uint64, before *View) {
	s.view.Store(&View{txn: s.db.Txn(false), index: index})
	s.answerLooksLocked(before)
	close(s.applied)
	s.applied = make(chan struct{})
}

// WaitIndex returns once a command of this index or a later one was applied, or with ctx's error. Entries of the log
// that are no commands do not count: wait for indexes that a Result gave.
func (s *Store) WaitIndex(ctx context.Context, index uint64) error {
	for {
		s.mu.Lock()
		at, ch := s.View().index, s.applied
		s.mu.Unlock()
		if at >= index {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return fmt.Errorf("wait for index %d, at %d: %w", index, at, ctx.Err())
		}
	}
}
