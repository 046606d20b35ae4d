package job

import (
	"fmt"
	"net/netip"
	"time"
)

// Job is a submitted spec with its history's newest version. Users' pen.
type Job struct {
	Name    string    `json:"name"`
	Version uint64    `json:"version"` // counts submits and scales, from 1
	Spec    Spec      `json:"spec"`
	Stopped bool      `json:"stopped,omitempty"` // kept, but nothing of it is meant to run
	Created time.Time `json:"created"`           // wall clock of the proposer
	Updated time.Time `json:"updated"`
	// Index is the raft index of the last change to it.
	Index uint64 `json:"index"`
	// Cause says why there is this version, where it is no plain submit: "rolled back from version 2: web.2 failed: exit
	// code 1", "restarted".
	Cause string `json:"cause,omitempty"`
}

// Task is one replica's run on one node. One-shot: a retry elsewhere is a new task in the same slot. Leader's pen.
type Task struct {
	ID      TaskID  `json:"id"`
	Job     string  `json:"job"`
	Service string  `json:"service"`
	Digest  Digest  `json:"digest"` // of the service as it was when placed
	Slot    int     `json:"slot"`   // from 1; 0 for a global service, whose slots are nodes
	Node    NodeID  `json:"node"`
	Desired Desired `json:"desired"`
	// Index is the raft index at which it was placed: the fencing token.
	Index  uint64    `json:"index"`
	Placed time.Time `json:"placed"`          // wall clock of the leader
	Cause  string    `json:"cause,omitempty"` // why it was placed: "submitted", "scaled", "node b is down", …
	// Replaces is the task in whose place it comes. While that one is still meant to run this is a hand-over: the only way
	// in which a slot has two tasks that are meant to run.
	Replaces  TaskID `json:"replaces,omitempty"`
	Attempt   int    `json:"attempt,omitempty"`   // tasks in a row that failed in this slot before it
	StopCause string `json:"stopCause,omitempty"` // why it is meant to stop
	// Generic are the things of its node that it got for itself, sorted by kind.
	Generic []Generic `json:"generic,omitempty"`
	// Volumes are the named volumes that it mounts: their data is on its node from then on.
	Volumes []string `json:"volumes,omitempty"`
	// Run is the batch's run that it belongs to, 0 for what is no batch; Due is the run's, zero where no schedule began it.
	Run   uint64    `json:"run,omitempty"`
	Due   time.Time `json:"due,omitzero"`
	First int       `json:"first,omitempty"` // the run's: its slots begin after it

	// Move: it is to take over from the task that it replaces, with the same content, on another node.
	Move bool `json:"move,omitempty"`
	// Failover and Lease are the service's policy as it was when the task was placed; "" is fast.
	Failover FailoverMode  `json:"failover,omitempty"`
	Lease    time.Duration `json:"lease,omitempty"`
	// Released is the raft index at which a task of a lost node was set free to be placed anew: its lease has ended, or an
	// admin said so. Apply's pen; 0 again when the node returns.
	Released uint64 `json:"released,omitempty"`
	// Tuned is the raft index at which a later content was put in place of the one that it was placed with; 0: never. Its
	// Digest is of the later one. Watched is the same for the last change that must prove itself (Wary).
	Tuned   uint64 `json:"tuned,omitempty"`
	Watched uint64 `json:"watched,omitempty"`
	// Wait, unless empty: its node brings the image and makes the container, but starts nothing until the task that it
	// replaces has ended and the leader takes Wait away.
	Wait Wait `json:"wait,omitempty"`
	// Renew: somebody asked for this one task to be replaced.
	Renew bool `json:"renew,omitempty"`
}

// Wait is what a task waits for that is to start after the one that it replaces.
type Wait string

// Waits.
const (
	WaitNone Wait = ""
	WaitTurn Wait = "turn" // only for the other's end; what it asks for is kept free for it
	WaitRoom Wait = "room" // for the room that the other leaves on the same node: it counts for no capacity meanwhile
)

// Desired is what the leader wants of a task.
type Desired string

// Desired states, forward only.
const (
	DesiredRun  Desired = "run"
	DesiredStop Desired = "stop" // the node stops and removes it, then reports its end
	DesiredLost Desired = "lost" // its node is down and it was replaced; a node that returns stops it
)

// Name is what people call it: "web.2", or "agent@node" style "agent.<node prefix>" for global services.
func (t *Task) Name() string {
	if t.Slot > 0 {
		return fmt.Sprintf("%s.%d", t.Service, t.Slot)
	}
	return fmt.Sprintf("%s.%.6s", t.Service, string(t.Node))
}

// State of a task, forward only, in this order.
type State string

// Task states. Placed is implied by a task without a status.
const (
	Placed   State = "placed"
	Pulling  State = "pulling"
	Created  State = "created"
	Running  State = "running"
	Stopping State = "stopping"
	Complete State = "complete" // ended with exit code 0, or stopped as asked
	Failed   State = "failed"   // ended otherwise and will not be started again here
	Lost     State = "lost"     // its node died or no longer knows it
)

var stateOrder = map[State]int{Placed: 0, Pulling: 1, Created: 2, Running: 3, Stopping: 4, Complete: 5, Failed: 5, Lost: 5}

// Before tells whether s comes before t; terminal states are not before each other.
func (s State) Before(t State) bool { return stateOrder[s] < stateOrder[t] }

// Terminal states never change.
func (s State) Terminal() bool { return s == Complete || s == Failed || s == Lost }

// Healthiness of a running task.
type Healthiness string

// Health values. Tasks without a health check stay HealthNone and count as healthy once running.
const (
	HealthNone     Healthiness = ""
	HealthStarting Healthiness = "starting"
	Healthy        Healthiness = "healthy"
	Unhealthy      Healthiness = "unhealthy"
)

// Status is what became of a task. Owning node's pen (the leader writes Lost for a node that is gone).
type Status struct {
	Task   TaskID      `json:"task"`
	Node   NodeID      `json:"node"`
	Seq    uint64      `json:"seq"` // grows with each report of the node for this task; an older one is ignored
	State  State       `json:"state"`
	Health Healthiness `json:"health,omitempty"`
	Paused bool        `json:"paused,omitempty"` // running, and frozen by somebody: it does not serve, and nothing replaces it

	Address  netip.Addr `json:"address,omitzero"`
	Ports    []Port     `json:"ports,omitempty"`    // as bound
	Image    string     `json:"image,omitempty"`    // digest that runs
	Restarts int        `json:"restarts,omitempty"` // local restarts
	ExitCode *int       `json:"exitCode,omitempty"` // of the last exit
	OOM      bool       `json:"oom,omitempty"`
	Message  string     `json:"message,omitempty"` // why it is not well: the last error or health output, at most 512 bytes
	// Tuned is the newest Task.Tuned that its container has taken over; Untuned is one that it could not, and Refusal says
	// why, in at most 512 bytes: the leader replaces the task.
	Tuned   uint64 `json:"tuned,omitempty"`
	Untuned uint64 `json:"untuned,omitempty"`
	Refusal string `json:"refusal,omitempty"`

	// At says when each state was first reached, by the node's wall clock; keys are states, and "healthy".
	At map[State]time.Time `json:"at,omitempty"`
}

// Ready tells whether a task can serve: running and not known to be unwell.
func (s *Status) Ready() bool {
	return s != nil && s.State == Running && !s.Paused && (s.Health == HealthNone || s.Health == Healthy)
}

// Tuning tells whether a change in place is on its way to the task's container.
func (t *Task) Tuning(st *Status) bool {
	return t.Tuned > 0 && (st == nil || t.Tuned > max(st.Tuned, st.Untuned))
}

// Untunable tells whether the last change in place was tried in vain.
func (t *Task) Untunable(st *Status) bool { return t.Tuned > 0 && st != nil && st.Untuned == t.Tuned }

// Event is one line of the cluster's history, kept in the log's state as a ring of bounded size.
type Event struct {
	Index   uint64    `json:"index"` // raft index
	Time    time.Time `json:"time"`  // wall clock of the proposer
	Kind    string    `json:"kind"`  // see the Event* constants
	Job     string    `json:"job,omitempty"`
	Service string    `json:"service,omitempty"`
	Task    TaskID    `json:"task,omitempty"`
	Node    NodeID    `json:"node,omitempty"`
	Message string    `json:"message,omitempty"`
}

// Event kinds.
const (
	EventJobSubmitted = "job-submitted"
	EventJobScaled    = "job-scaled"
	EventJobStopped   = "job-stopped"
	EventJobStarted   = "job-started"
	EventJobRestarted = "job-restarted"
	EventRun          = "run"          // of a batch: began, complete, failed, stopped
	EventSchedule     = "schedule"     // paused, resumed, or a due time was left out
	EventJobRollback  = "job-rollback" // Message: from and to which version, and why
	EventRollout      = "rollout"      // the update of a service ended, was paused or goes on
	EventJobRemoved   = "job-removed"
	EventTaskPlaced   = "task-placed"
	EventTaskState    = "task-state" // Message is the state
	EventTaskStop     = "task-stop"  // the leader wants it stopped
	EventTaskTuned    = "task-tuned" // it gets another content in place; Message is what differs
	EventTaskRenew    = "task-renew" // somebody wants it replaced
	EventJobPromoted  = "job-promoted"
	EventTaskBlocked  = "task-blocked"
	EventNodeJoined   = "node-joined"
	EventNodeSuspect  = "node-suspect"
	EventNodeDead     = "node-dead" // gossip's word
	EventNodeDown     = "node-down" // the leader's decision
	EventNodeUp       = "node-up"
	EventNodeDrained  = "node-drained"
	EventNodeActive   = "node-activated"
	EventNodeLeft     = "node-left"
	EventNodeRemoved  = "node-removed"
	EventRebalance    = "rebalance"     // an admin asked for it
	EventTaskReleased = "task-released" // of a lost node: it may be placed anew
	EventGameDay      = "game-day"      // something is broken on purpose, or is not any more
	EventVoters       = "voters"
	EventLeader       = "leader"
	EventRules        = "rules" // all nodes apply the log in a newer way from here on
)

// Blocked tells why slots of a service could not be placed. Leader's pen.
type Blocked struct {
	Job     string    `json:"job"`
	Service string    `json:"service"`
	Slots   int       `json:"slots"`  // how many
	Reason  string    `json:"reason"` // "no node fits: 2 lack memory (want 512 MiB), 1 is draining"
	Since   time.Time `json:"since"`
}
