package state

import (
	"fmt"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"shoal/consensus/job"
)

// Command is one change of the state, as it lies in the log. All time, randomness and ids in it were chosen by the
// proposer: At is the proposer's wall clock, Key an idempotency key ("" for none) under which a repeated submit yields
// the first one's result.
//
// A released command is never edited; a new one with a new kind is added. New optional fields are allowed where their
// zero value means what was meant before.
type Command interface{ kind() byte }

// The kinds as they are in the log. Never renumber.
const (
	kindInitCluster   byte = 1
	kindPutNode       byte = 2
	kindSetNodeLabels byte = 3
	kindSetDrain      byte = 4
	kindNodeDown      byte = 5
	kindNodeUp        byte = 6
	kindNodeLeft      byte = 7
	kindRemoveNode    byte = 8
	kindPutToken      byte = 9
	kindUseToken      byte = 10
	kindRemoveToken   byte = 11
	kindSetGossipKeys byte = 12
	kindPutJob        byte = 13
	kindScaleJob      byte = 14
	kindStopJob       byte = 15
	kindRemoveJob     byte = 16
	kindPlan          byte = 17
	kindReport        byte = 18
	kindEvent         byte = 19
	kindPutImage      byte = 20
	kindRemoveImage   byte = 21
	kindStartJob      byte = 30
	kindSetCluster    byte = 70
	kindSetOvercommit byte = 71
	kindRaiseRules    byte = 72
	kindRestartJob    byte = 31
	kindStartRun      byte = 40
	kindStopRun       byte = 41
	kindFireSchedule  byte = 42
	kindPauseSchedule byte = 43
	kindAutoscale     byte = 44
	kindPromoteJob    byte = 50
	kindFailJob       byte = 51
	kindRestartTasks  byte = 52
	kindRelease       byte = 60
)

// InitCluster makes the cluster. Conflict if there is one with another ID; the same ID again changes nothing.
type InitCluster struct {
	Cluster job.Cluster `json:"cluster"`
	At      time.Time   `json:"at"`
}

// PutNode registers a node or brings what it says of itself up to date. Taken from Node on an update: Name, Addr, Voter,
// Capacity, Version, Rules, OS, Arch, Kernel, Attributes, Generic, KeyPin (once set it cannot change), Labels (laid over those there
// are) and Overcommit (if there is one). Subnet,
// State, Drained, Since, Joined are Apply's. A node that left becomes ready; one that is down stays so until NodeUp.
// Result.Value is *job.Node.
type PutNode struct {
	Node job.Node  `json:"node"`
	At   time.Time `json:"at"`
}

// SetNodeLabels sets labels and removes others.
type SetNodeLabels struct {
	Node   job.NodeID        `json:"node"`
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
	At     time.Time         `json:"at"`
}

// SetDrain closes a node for tasks, or opens it again. By is when tasks that could not be moved are stopped nevertheless;
// zero: never.
type SetDrain struct {
	Node    job.NodeID `json:"node"`
	Drained bool       `json:"drained"`
	By      time.Time  `json:"by,omitzero"`
	At      time.Time  `json:"at"`
}

// NodeDown is the leader's decision that a node is gone. SuspectAt and DeadAt (zero: unknown) become events of their own.
type NodeDown struct {
	Node      job.NodeID `json:"node"`
	Reason    string     `json:"reason,omitempty"`
	SuspectAt time.Time  `json:"suspectAt,omitzero"`
	DeadAt    time.Time  `json:"deadAt,omitzero"`
	At        time.Time  `json:"at"`
}

// NodeUp is the leader's decision that a node that was down is usable again. A node that left is not raised by it: it
// comes back with PutNode.
type NodeUp struct {
	Node job.NodeID `json:"node"`
	At   time.Time  `json:"at"`
}

// NodeLeft says that a node went on purpose.
type NodeLeft struct {
	Node   job.NodeID `json:"node"`
	Reason string     `json:"reason,omitempty"`
	At     time.Time  `json:"at"`
}

// RemoveNode forgets a node that is down or left and has no task that is meant to run. With Force its tasks are lost.
type RemoveNode struct {
	Node  job.NodeID `json:"node"`
	Force bool       `json:"force,omitempty"`
	At    time.Time  `json:"at"`
}

// PutToken adds a join token.
type PutToken struct {
	Token job.Token `json:"token"`
	At    time.Time `json:"at"`
}

// UseToken counts one use. Denied if the token is unknown, expired by At or used up. Key lets a join that saw a timeout
// try again without a second use. Result.Value is *job.Token.
type UseToken struct {
	ID   string     `json:"id"`
	Node job.NodeID `json:"node"`
	Key  string     `json:"key,omitempty"`
	At   time.Time  `json:"at"`
}

// RemoveToken removes a join token; NotFound if there is none.
type RemoveToken struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
}

// SetGossipKeys replaces the sealed gossip keys; the first is primary.
type SetGossipKeys struct {
	Keys [][]byte  `json:"keys"`
	At   time.Time `json:"at"`
}

// PutJob submits a job. The same services and volumes again make no new version (Result.Unchanged), but a stopped job is
// revived and a paused rollout goes on. A service whose content changes gets a rollout. IfVersion, when set, must be the job's current version (0: it must not exist), else Conflict.
// Result.Value is *job.Job.
type PutJob struct {
	Spec      job.Spec `json:"spec"`
	Key       string   `json:"key,omitempty"`
	IfVersion *uint64  `json:"ifVersion,omitempty"`
	// RollbackTo says that the spec is that of an earlier version; 0: it is not.
	RollbackTo uint64    `json:"rollbackTo,omitempty"`
	At         time.Time `json:"at"`
}

// ScaleJob sets the replicas of some services: a new version. Result.Value is *job.Job.
type ScaleJob struct {
	Job      string         `json:"job"`
	Replicas map[string]int `json:"replicas"`
	Key      string         `json:"key,omitempty"`
	At       time.Time      `json:"at"`
}

// StopJob keeps a job but wants none of its tasks. Result.Value is *job.Job.
type StopJob struct {
	Job string    `json:"job"`
	Key string    `json:"key,omitempty"`
	At  time.Time `json:"at"`
}

// StartJob wants the tasks of a stopped job again. Result.Value is *job.Job.
type StartJob struct {
	Job string    `json:"job"`
	Key string    `json:"key,omitempty"`
	At  time.Time `json:"at"`
}

// RestartJob has all tasks of services (none named: of all) replaced, as after a change of their content: a new version.
// Conflict if the job is stopped. Result.Value is *job.Job.
type RestartJob struct {
	Job      string    `json:"job"`
	Services []string  `json:"services,omitempty"`
	Key      string    `json:"key,omitempty"`
	At       time.Time `json:"at"`
}

// RemoveJob forgets a job with its versions; its tasks are stopped and forgotten once they ended.
type RemoveJob struct {
	Job string    `json:"job"`
	Key string    `json:"key,omitempty"`
	At  time.Time `json:"at"`
}

// ServiceRef names a service of a job.
type ServiceRef struct {
	Job     string `json:"job"`
	Service string `json:"service"`
}

// TaskStop moves a task's Desired forward to stop or lost.
type TaskStop struct {
	ID      job.TaskID  `json:"id"`
	Desired job.Desired `json:"desired"`
	Cause   string      `json:"cause,omitempty"`
	// For is the task that takes over: the stop is done only while that one is ready, or made and waiting.
	For job.TaskID `json:"for,omitempty"`
}

// RolloutStep ends the rollout under way that Version began, with Status paused or complete; or notes that its canaries are
// well (canary); or it takes the service back to
// the content that the rollout came from (Rollback; then Status is not read), as a new version of the job. Refused when
// another rollout took its place. A rollback to a version that is no longer kept pauses instead.
type RolloutStep struct {
	Job      string            `json:"job"`
	Service  string            `json:"service"`
	Version  uint64            `json:"version"`
	Status   job.RolloutStatus `json:"status,omitempty"`
	Rollback bool              `json:"rollback,omitempty"`
	// Promote lets a rollout with canaries go on with the others; then Status is not read.
	Promote bool   `json:"promote,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// Plan is what the leader decided from the state at index Base. Each part is checked against the state as it is now and
// refused by itself when its premise changed; Result.Value is *PlanResult. At most MaxPlan entries in each list.
//
// A stop with Desired lost whose task is replaced by a task in Place (Replaces) is done only with that placement: so a
// task is not given up without its replacement. A task that is placed beside one in its slot that is still meant to run
// must name that one in Replaces and have another digest, or Move and another node, unless that one is to be renewed: a
// hand-over.
type Plan struct {
	Base    uint64        `json:"base"`
	Place   []job.Task    `json:"place,omitempty"` // Index is filled by Apply, Desired must be run
	Stop    []TaskStop    `json:"stop,omitempty"`
	Block   []job.Blocked `json:"block,omitempty"`
	Unblock []ServiceRef  `json:"unblock,omitempty"`
	// Tune gives running tasks the present content of their service in place.
	Tune []TaskTune `json:"tune,omitempty"`
	// Begin lets tasks start that waited until the ones that they replace had ended.
	Begin []job.TaskID `json:"begin,omitempty"`
	// Rollouts are done after all else.
	Rollouts []RolloutStep `json:"rollouts,omitempty"`
	Runs     []RunStep     `json:"runs,omitempty"`
	At       time.Time     `json:"at"`
}

// MaxPlan bounds each list of a Plan and the statuses of a Report.
const MaxPlan = 100_000

// Empty tells whether the plan would change nothing.
func (p *Plan) Empty() bool {
	return len(p.Place) == 0 && len(p.Stop) == 0 && len(p.Tune) == 0 && len(p.Begin) == 0 && len(p.Block) == 0 && len(p.Unblock) == 0 && len(p.Rollouts) == 0 && len(p.Runs) == 0
}

// Report is what a node says of its tasks. Result.Value is *ReportResult.
type Report struct {
	Node     job.NodeID   `json:"node"`
	Statuses []job.Status `json:"statuses"`
	At       time.Time    `json:"at"`
}

// Event adds a line to the history that no other command writes (suspects, voters, leaders). Event.Index is filled by
// Apply; a zero Event.Time becomes At.
type Event struct {
	Event job.Event `json:"event"`
	At    time.Time `json:"at"`
}

// PutImage says which images names mean from now on. At most KeepImages names are kept; the oldest go.
type PutImage struct {
	Images []job.ImageName `json:"images"`
	At     time.Time       `json:"at"`
}

// RemoveImage makes a name mean whatever its registry says again. A name that means nothing is no error.
type RemoveImage struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

func (InitCluster) kind() byte   { return kindInitCluster }
func (SetCluster) kind() byte    { return kindSetCluster }
func (RaiseRules) kind() byte    { return kindRaiseRules }
func (SetOvercommit) kind() byte { return kindSetOvercommit }
func (PutNode) kind() byte       { return kindPutNode }
func (SetNodeLabels) kind() byte { return kindSetNodeLabels }
func (SetDrain) kind() byte      { return kindSetDrain }
func (NodeDown) kind() byte      { return kindNodeDown }
func (NodeUp) kind() byte        { return kindNodeUp }
func (NodeLeft) kind() byte      { return kindNodeLeft }
func (RemoveNode) kind() byte    { return kindRemoveNode }
func (PutToken) kind() byte      { return kindPutToken }
func (UseToken) kind() byte      { return kindUseToken }
func (RemoveToken) kind() byte   { return kindRemoveToken }
func (SetGossipKeys) kind() byte { return kindSetGossipKeys }
func (PutJob) kind() byte        { return kindPutJob }
func (ScaleJob) kind() byte      { return kindScaleJob }
func (StopJob) kind() byte       { return kindStopJob }
func (RemoveJob) kind() byte     { return kindRemoveJob }
func (StartJob) kind() byte      { return kindStartJob }
func (RestartJob) kind() byte    { return kindRestartJob }
func (PromoteJob) kind() byte    { return kindPromoteJob }
func (FailJob) kind() byte       { return kindFailJob }
func (RestartTasks) kind() byte  { return kindRestartTasks }
func (Plan) kind() byte          { return kindPlan }
func (Report) kind() byte        { return kindReport }
func (Event) kind() byte         { return kindEvent }
func (PutImage) kind() byte      { return kindPutImage }
func (RemoveImage) kind() byte   { return kindRemoveImage }

// MaxCommandBytes bounds one encoded command.
const MaxCommandBytes = 64 << 20

// Encode writes a command as its kind byte and deterministic CBOR.
func Encode(c Command) ([]byte, error) {
	m, err := codecs()
	if err != nil {
		return nil, err
	}
	b, err := m.enc.Marshal(c)
	if err != nil {
		return nil, job.Errorf(job.Invalid, "encode command %T: %v", c, err)
	}
	if len(b) >= MaxCommandBytes {
		return nil, job.Errorf(job.Invalid, "encode command %T: %d bytes, at most %d allowed", c, len(b), MaxCommandBytes)
	}
	return append([]byte{c.kind()}, b...), nil
}

// Decode reads what Encode wrote; the command is a value, not a pointer. It never panics: bad CBOR is an
// error (Invalid), an unknown kind an *OutdatedError.
func Decode(raw []byte) (Command, error) {
	if len(raw) == 0 {
		return nil, job.Errorf(job.Invalid, "decode command: empty")
	}
	if len(raw) > MaxCommandBytes {
		return nil, job.Errorf(job.Invalid, "decode command: %d bytes, at most %d allowed", len(raw), MaxCommandBytes)
	}
	body := raw[1:]
	switch raw[0] {
	case 0:
		return nil, job.Errorf(job.Invalid, "decode command: no command is of kind 0")
	case kindInitCluster:
		return decodeAs[InitCluster](body)
	case kindPutNode:
		return decodeAs[PutNode](body)
	case kindSetNodeLabels:
		return decodeAs[SetNodeLabels](body)
	case kindSetDrain:
		return decodeAs[SetDrain](body)
	case kindNodeDown:
		return decodeAs[NodeDown](body)
	case kindNodeUp:
		return decodeAs[NodeUp](body)
	case kindNodeLeft:
		return decodeAs[NodeLeft](body)
	case kindRemoveNode:
		return decodeAs[RemoveNode](body)
	case kindPutToken:
		return decodeAs[PutToken](body)
	case kindUseToken:
		return decodeAs[UseToken](body)
	case kindRemoveToken:
		return decodeAs[RemoveToken](body)
	case kindSetGossipKeys:
		return decodeAs[SetGossipKeys](body)
	case kindPutJob:
		return decodeAs[PutJob](body)
	case kindScaleJob:
		return decodeAs[ScaleJob](body)
	case kindStopJob:
		return decodeAs[StopJob](body)
	case kindRemoveJob:
		return decodeAs[RemoveJob](body)
	case kindStartJob:
		return decodeAs[StartJob](body)
	case kindRestartJob:
		return decodeAs[RestartJob](body)
	case kindSetCluster:
		return decodeAs[SetCluster](body)
	case kindRaiseRules:
		return decodeAs[RaiseRules](body)
	case kindSetOvercommit:
		return decodeAs[SetOvercommit](body)
	case kindPromoteJob:
		return decodeAs[PromoteJob](body)
	case kindFailJob:
		return decodeAs[FailJob](body)
	case kindRestartTasks:
		return decodeAs[RestartTasks](body)
	case kindStartRun:
		return decodeAs[StartRun](body)
	case kindStopRun:
		return decodeAs[StopRun](body)
	case kindFireSchedule:
		return decodeAs[FireSchedule](body)
	case kindAutoscale:
		return decodeAs[Autoscale](body)
	case kindPauseSchedule:
		return decodeAs[PauseSchedule](body)
	case kindPlan:
		return decodeAs[Plan](body)
	case kindReport:
		return decodeAs[Report](body)
	case kindEvent:
		return decodeAs[Event](body)
	case kindPutImage:
		return decodeAs[PutImage](body)
	case kindRelease:
		return decodeAs[Release](body)
	case kindRemoveImage:
		return decodeAs[RemoveImage](body)
	}
	return nil, &OutdatedError{fmt.Sprintf("it knows no command of kind %d", raw[0])}
}

func decodeAs[T Command](body []byte) (Command, error) {
	var c T
	m, err := codecs()
	if err != nil {
		return nil, err
	}
	if err := m.dec.Unmarshal(body, &c); err != nil {
		return nil, job.Errorf(job.Invalid, "decode command %T: %v", c, err)
	}
	return c, nil
}

// codec is the pair of CBOR modes used for commands and for snapshots: deterministic, times in UTC with nanoseconds.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// codecs makes the modes on first use: package variables would cost every process that is only a container's first.
var codecs = sync.OnceValues(newCodec)

func newCodec() (codec, error) {
	eo := cbor.CoreDetEncOptions()
	eo.Time = cbor.TimeRFC3339NanoUTC
	enc, err := eo.EncMode()
	if err != nil {
		return codec{}, fmt.Errorf("cbor encoder: %w", err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  24,
		MaxArrayElements: 4 * MaxPlan,
		MaxMapPairs:      MaxPlan,
		IndefLength:      cbor.IndefLengthForbidden,
		// What containers print ends up in messages: it must never make a whole report undecodable.
		UTF8: cbor.UTF8DecodeInvalid,
	}.DecMode()
	if err != nil {
		return codec{}, fmt.Errorf("cbor decoder: %w", err)
	}
	return codec{enc, dec}, nil
}
