package consensus

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
)

// ErrTermEnded is the cause of a leader's context that ended because this node leads no more.
var ErrTermEnded = errors.New("this node's term as the leader ended")

// leadership is whether this node leads, as its own parts are told.
type leadership struct {
	publishing sync.Mutex // held while raft is asked and the answer published, so that answers do not overtake each other

	mu      sync.Mutex
	leading bool
	term    uint64
	changed chan struct{} // closed and replaced with every change
}

func newLeadership() *leadership { return &leadership{changed: make(chan struct{})} }

// set publishes a change and tells whether it was one.
func (s *leadership) set(leading bool, term uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leading == leading && (s.term == term || !leading) {
		return false
	}
	s.leading, s.term = leading, term
	s.wakeLocked()
	return true
}

// wake makes everyone who waits look again.
func (s *leadership) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeLocked()
}

func (s *leadership) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *leadership) get() (leading bool, term uint64, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leading, s.term, s.changed
}

func (s *leadership) changes() <-chan struct{} {
	_, _, changed := s.get()
	return changed
}

// watchLeader publishes what raft says. Raft may merge a loss and a new win into one notice: the term tells them apart.
func (l *Log) watchLeader(ctx context.Context) {
	for {
		l.publishLeader()
		select {
		case <-ctx.Done():
			return
		case <-l.raft.LeaderCh():
		}
	}
}

func (l *Log) publishLeader() {
	l.leading.publishing.Lock()
	defer l.leading.publishing.Unlock()
	term, leading := l.raft.CurrentTerm(), l.IsLeader()
	for now := l.raft.CurrentTerm(); now != term; now = l.raft.CurrentTerm() { // else a new leader leads in the term before for a moment
		term, leading = now, l.IsLeader()
	}
	if !l.leading.set(leading, term) {
		return
	}
	if leading {
		l.logger.Info("this node leads", "node", l.id, "term", term)
	} else {
		l.logger.Info("this node leads no more", "node", l.id, "term", term)
	}
}

// IsLeader tells whether this node leads, as far as it knows: VerifyLeader asks the others too.
func (l *Log) IsLeader() bool {
	return l.usable() == nil && l.raft.State() == raft.Leader
}

// Leader is who leads, as far as this node knows; "" while nobody does, and on a node that its disk keeps out.
func (l *Log) Leader() (job.NodeID, string) {
	if l.usable() != nil {
		return "", ""
	}
	addr, name := l.raft.LeaderWithID()
	id, _ := NodeOf(job.NodeID(name))
	return id, string(addr)
}

// Lead runs work whenever this node leads, after everything committed before is applied here: once a term, and again in
// the same term when the node's disk kept it out for a while and nobody else took over.
// work's ctx ends with the term (cause ErrTermEnded), and Lead waits for work to return before anything else; a work
// that returns early without an error is done for the term. Lead returns nil when ctx ends or the log closes, and
// work's error if it failed while the term lasted.
func (l *Log) Lead(ctx context.Context, work func(ctx context.Context, term uint64) error) error {
	for {
		leading, term, changed := l.leading.get()
		if !leading {
			select {
			case <-changed:
				continue
			case <-l.endCh:
				return nil
			case <-ctx.Done():
				return nil
			}
		}
		if err := l.leadTerm(ctx, term, work); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// leadTerm runs work in one term, and returns when the term is over.
func (l *Log) leadTerm(ctx context.Context, term uint64, work func(context.Context, uint64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		l.awaitTermEnd(ctx, term)
		cancel(ErrTermEnded)
	}()
	if l.catchUp(ctx, term) {
		err := work(ctx, term)
		if err != nil && ctx.Err() == nil {
			cancel(nil)
			<-watched
			return err
		}
	}
	<-watched
	return nil
}

// catchUpPause is between two tries of a leader to apply what was committed before it.
const catchUpPause = 200 * time.Millisecond

// catchUp applies what was committed before the term; false: the term is over. A disk that takes long over the term's first
// entry, or leadership that was to be handed over and was not, lets a try fail and leaves the term as it is.
func (l *Log) catchUp(ctx context.Context, term uint64) bool {
	err := l.Barrier(ctx)
	if err != nil && ctx.Err() == nil {
		l.logger.Warn("this node leads, and cannot yet begin its work: trying again", "node", l.id, "term", term, "error", err)
	}
	for err != nil {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(catchUpPause):
		}
		err = l.Barrier(ctx)
	}
	return true
}

// awaitTermEnd blocks while this node leads in term.
func (l *Log) awaitTermEnd(ctx context.Context, term uint64) {
	for {
		leading, now, changed := l.leading.get()
		if !leading || now != term {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
