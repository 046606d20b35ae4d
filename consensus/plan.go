package consensus

import (
	"time"

	"shoal/consensus/job"
)

// DeadVoterGrace is how long a log-holder must be dead before it is replaced.
const DeadVoterGrace = 10 * time.Second

// Candidate is a node that might hold the log.
type Candidate struct {
	ID        job.NodeID
	Addr      string
	Zone      string
	Voter     job.VoterPolicy
	Alive     bool
	DownSince time.Time
	Left      bool
}

// ChangeKind is what a Change does.
type ChangeKind string

// Kinds of changes; each names the method of Log that carries it out.
const (
	ChangeAddStandby ChangeKind = "add-standby"
	ChangePromote    ChangeKind = "promote"
	ChangeDemote     ChangeKind = "demote"
	ChangeRemove     ChangeKind = "remove"
	ChangeTransfer   ChangeKind = "transfer-leadership"
)

// Change is one step towards the right log-holders.
type Change struct {
	Kind   ChangeKind
	ID     job.NodeID
	Addr   string
	Reason string
}

// PlanHolders says what to change about who holds the log.
func PlanHolders(nodes []Candidate, current []Holder, now time.Time) []Change { return nil }
