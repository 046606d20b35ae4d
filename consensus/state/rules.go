package state

import (
	"fmt"
	"slices"
	"time"

	"shoal/consensus/job"
)

// What Apply makes of a command must be the same on all log-holders, also while some of them run another build. So what
// changes an answer that Apply gave before has a level, from 1 on; the cluster is at one of them (job.Cluster.Rules), and
// goes to a higher one by a command, once every node has said that its build knows it. A build meets no level above its own
// but when it came after newer ones: then it stops (OutdatedError).
const (
	rulesWaiting = 1 // a task that waits to begin is no reason against another one of its slot (refuseBeside)
	// What was due while a job was stopped is not made up for, also when a change starts it again (syncSchedule). A batch
	// that loses its schedule keeps what runs (syncRuns). A task that is older than a run is none of it (isOf).
	rulesBatches = 2
)

// Rules is the highest level that this build knows.
const Rules = rulesBatches

// RaiseRules takes the cluster to a level. Conflict names a node that does not know it; a level that the cluster has changes
// nothing. Result.Value is *job.Cluster.
type RaiseRules struct {
	To int       `json:"to"`
	At time.Time `json:"at"`
}

// OutdatedError says that what lies in the log or in a snapshot was written by a newer build than this one, which cannot know
// what it means. It is of kind job.Conflict.
type OutdatedError struct {
	What string
}

func (e *OutdatedError) Error() string {
	return fmt.Sprintf("this node's shoal is too old for its cluster: %s; install the version that the other nodes have, then start again", e.What)
}

// Unwrap gives the kind.
func (e *OutdatedError) Unwrap() error { return job.Conflict }

// beyond is nil if a build that knows the rules up to known can go by those of a level.
func beyond(level, known int) error {
	if level <= known {
		return nil
	}
	return &OutdatedError{fmt.Sprintf("it applies the log by rules of level %d, and the cluster is at %d", known, level)}
}

// Known is the highest level that the build knows whose store this is.
func (s *Store) Known() int { return s.known }

// Outdated is the *OutdatedError after which the store takes nothing more; nil while all is well.
func (s *Store) Outdated() error {
	if o := s.outdated.Load(); o != nil {
		return o
	}
	return nil
}

// Rules is the level that the cluster is at.
func (v *View) Rules() int {
	if c := v.Cluster(); c != nil {
		return c.Rules
	}
	return 0
}

// Behind is the names of the nodes that do not know a level of rules, sorted. One that left on purpose does not count: it
// registers before it gets anything again.
func (v *View) Behind(level int) (names []string) {
	for _, n := range v.Nodes() {
		if n.Rules < level && n.State != job.NodeLeft {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (t *tx) raiseRules(c RaiseRules) Result {
	old := t.base.Cluster()
	if old == nil {
		return fail(job.NotFound, "raise the rules: there is no cluster yet")
	}
	if c.To <= old.Rules {
		return Result{Value: old, Unchanged: true}
	}
	if behind := t.base.Behind(c.To); len(behind) > 0 {
		return fail(job.Conflict, "raise the rules to level %d: node %s knows no more than %d", c.To, behind[0], t.base.NodeByName(behind[0]).Rules)
	}
	if err := beyond(c.To, t.s.known); err != nil {
		return Result{Err: err}
	}
	up := *old
	up.Rules = c.To
	t.insert(TableCluster, &up)
	t.event(job.Event{Kind: job.EventRules, Message: fmt.Sprintf("all nodes know the rules of level %d: they hold from here on", c.To)})
	return Result{Value: &up}
}

// CheckRules refuses a node whose build does not know the cluster's rules: Conflict.
func (v *View) CheckRules(n job.Node) error {
	if n.Rules >= v.Rules() {
		return nil
	}
	return job.Errorf(job.Conflict, "node %q: its shoal %s applies the log by rules of level %d, and the cluster is at %d: install the version that the other nodes have",
		n.Name, n.Version, n.Rules, v.Rules())
}
