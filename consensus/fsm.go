package consensus

import (
	"io"

	"github.com/hashicorp/raft"

	"shoal/consensus/state"
	"shoal/runtime/step"
)

// fsm lets raft drive the state. Raft calls it from one goroutine, except Persist, which runs beside Apply.
type fsm struct {
	store *state.Store
	// written is told the size of each snapshot that was written; nil: nobody is.
	written func(bytes int64)
	// outdated is called when the state takes nothing more because a newer build wrote the log; nil: nobody is told.
	outdated func()
}

var (
	_ raft.FSM                = fsm{}
	_ raft.ConfigurationStore = fsm{}
)

// Apply hands one committed command to the state. If that is too old for it, the log ends: to leave a command alone that the
// other replicas carry out is to have another state than they.
func (f fsm) Apply(entry *raft.Log) any {
	if entry.Type != raft.LogCommand {
		return nil
	}
	_ = step.Reach(StepApply)
	result := f.store.Apply(entry.Index, entry.Data)
	_ = step.Reach(StepApplied)
	if f.outdated != nil && f.store.Outdated() != nil {
		f.outdated()
	}
	return result
}

// StoreConfiguration keeps nothing. It exists because raft counts configuration entries as applied only for a state
// machine that has it, and refuses a snapshot of a log whose newest entry is one.
func (fsm) StoreConfiguration(uint64, raft.Configuration) {}

// Snapshot takes a view; views never change. Raft believes that an outdated state has gone on.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	view := f.store.View()
	if err := f.store.Outdated(); err != nil {
		return nil, err
	}
	return fsmSnapshot{view, f.written}, nil
}

// Restore replaces the state.
func (f fsm) Restore(r io.ReadCloser) error {
	if err := step.Reach(StepSnapRestore); err != nil {
		return err
	}
	if err := f.store.Restore(r); err != nil {
		if f.outdated != nil && f.store.Outdated() != nil {
			f.outdated()
		}
		return err
	}
	return step.Reach(StepSnapRestored)
}

type fsmSnapshot struct {
	view    *state.View
	written func(bytes int64)
}

// Persist writes the view; a snapshot exists only once Close succeeded.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	out := counted{out: sink}
	if err := s.view.Persist(&out); err != nil {
		_ = sink.Cancel()
		return err
	}
	if err := sink.Close(); err != nil {
		return err
	}
	if s.written != nil {
		s.written(out.n)
	}
	return nil
}

// counted counts what is written to out.
type counted struct {
	out io.Writer
	n   int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	c.n += int64(n)
	return n, err
}

// Release has nothing to release.
func (fsmSnapshot) Release() {}
