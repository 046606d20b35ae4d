package job

import (
	"slices"
	"strings"
	"time"
)

// RunStatus is where a run stands.
type RunStatus string

// Statuses of a run. All but RunRunning are for good.
const (
	RunRunning  RunStatus = "running"
	RunComplete RunStatus = "complete"
	RunFailed   RunStatus = "failed"  // retries, failures or time were used up, or an exit code said so
	RunStopped  RunStatus = "stopped" // ended from outside: replaced, or what it ran was changed or removed
)

// Run is one time that a batch is carried out: from a submit, a schedule or a person's word to its end as a whole. It is
// where completions are counted, each once, also when the tasks that brought them are forgotten. Apply begins it and
// counts; that it is at its end the leader decides.
type Run struct {
	Job     string    `json:"job"`
	Service string    `json:"service"`
	Seq     uint64    `json:"seq"` // counts the service's runs, from 1
	Digest  Digest    `json:"digest"`
	Version uint64    `json:"version"` // of the job that began it
	Status  RunStatus `json:"status"`
	Cause   string    `json:"cause"` // "submitted", "scheduled for …", "started by hand"
	// Due is the time for which the schedule asked; zero when none did.
	Due time.Time `json:"due,omitzero"`

	// Slots is the completions that it takes, 0 for one on each node. Its slots are First+1 to First+Slots, which it shares
	// with no other run that is under way.
	Slots int `json:"slots,omitempty"`
	First int `json:"first,omitempty"`
	// Done has bit i set when slot First+1+i has completed; DoneNodes are the nodes that did, sorted.
	Done      []byte   `json:"done,omitempty"`
	DoneNodes []NodeID `json:"doneNodes,omitempty"`

	Completed int `json:"completed,omitempty"` // completions, each counted once
	Failed    int `json:"failed,omitempty"`    // failures, tried again or not
	Lost      int `json:"lost,omitempty"`      // tasks that went with their node, which count as no failure

	Created time.Time `json:"created"`        // leaders' wall clocks
	Began   time.Time `json:"began,omitzero"` // its first task was placed
	Ended   time.Time `json:"ended,omitzero"`
	Reason  string    `json:"reason,omitempty"` // why it failed or was stopped
	// Task is the one whose failure ended it, and ExitCode that one's; nil when none did, or it had none.
	Task     TaskID `json:"task,omitempty"`
	ExitCode *int   `json:"exitCode,omitempty"`
	// TimedOut: its deadline ended it.
	TimedOut bool `json:"timedOut,omitempty"`
	// Forgotten: its tasks, containers and logs are gone or go.
	Forgotten bool   `json:"forgotten,omitempty"`
	Index     uint64 `json:"index"` // raft index of its begin
}

// Active tells whether the run is under way.
func (r *Run) Active() bool { return r != nil && r.Status == RunRunning }

// Owns tells whether a slot number is one of the run's.
func (r *Run) Owns(slot int) bool { return slot > r.First && slot <= r.First+r.Slots }

// HasDone tells whether a slot has completed: a number, or a node for a run without numbered slots.
func (r *Run) HasDone(slot int, node NodeID) bool {
	if r.Slots == 0 {
		_, ok := slices.BinarySearchFunc(r.DoneNodes, node, compareNodes)
		return ok
	}
	i := slot - r.First - 1
	return i >= 0 && i/8 < len(r.Done) && r.Done[i/8]&(1<<(i%8)) != 0
}

// MarkDone notes that a slot has completed; false when it had already. It copies what it changes.
func (r *Run) MarkDone(slot int, node NodeID) bool {
	if r.HasDone(slot, node) || r.Slots > 0 && !r.Owns(slot) {
		return false
	}
	r.Completed++
	if r.Slots == 0 {
		at, _ := slices.BinarySearchFunc(r.DoneNodes, node, compareNodes)
		r.DoneNodes = slices.Insert(slices.Clone(r.DoneNodes), at, node)
		return true
	}
	i := slot - r.First - 1
	done := make([]byte, max(len(r.Done), i/8+1))
	copy(done, r.Done)
	done[i/8] |= 1 << (i % 8)
	r.Done = done
	return true
}

func compareNodes(a, b NodeID) int { return strings.Compare(string(a), string(b)) }

// Brief is the run without what only the planner asks.
func (r *Run) Brief() Run {
	b := *r
	b.Done, b.DoneNodes = nil, nil
	return b
}
