// Package api is shoal's one protocol: the route table, the messages, the server and the Go client, so that they cannot
// drift apart. It knows how a request travels (and is forwarded to the leader or to a task's node); what a request
// means is its Backend's business, and it knows nothing of raft, gossip or containers.
//
// Messages are JSON; durations are nanoseconds, times RFC 3339. Streams are newline-delimited JSON, except exec, which
// upgrades its connection (see exec.go).
package api

import (
	"cmp"
	"net/netip"
	"time"

	"shoal/consensus/job"
)

// Status is how a node sees itself and its cluster.
type Status struct {
	Version   string     `json:"version"`
	Cluster   string     `json:"cluster"`
	Node      job.NodeID `json:"node"`
	Name      string     `json:"name"`
	Addr      string     `json:"addr"`
	Leader    job.NodeID `json:"leader,omitempty"` // empty: none known
	LogHolder bool       `json:"logHolder"`
	Index     uint64     `json:"index"` // raft index applied here
	Ready     bool       `json:"ready"` // a leader is known and the node is in the cluster's list
	Message   string     `json:"message,omitempty"`
}

// Meta rides on every reading answer.
type Meta struct {
	Index uint64 `json:"index"`
	// Stale is true when no leader could confirm the answer: it is what this node last knew.
	Stale bool `json:"stale,omitempty"`
}

// SubmitRequest asks for a job to be as Spec says.
type SubmitRequest struct {
	Spec job.Spec `json:"spec"`
	// IfVersion refuses the submit (job.Conflict) unless the job is at this version; 0 means that it must not exist.
	IfVersion *uint64 `json:"ifVersion,omitempty"`
	// DryRun changes nothing; the result's Job carries the spec as it would be submitted, with names of images resolved.
	DryRun bool `json:"dryRun,omitempty"`
	// RollbackTo says that the spec is that of this earlier version; 0: it is not.
	RollbackTo uint64 `json:"rollbackTo,omitempty"`
}

// SubmitResult tells what a submit or scale did.
type SubmitResult struct {
	Job       job.Job `json:"job"`
	Unchanged bool    `json:"unchanged,omitempty"`
	Index     uint64  `json:"index"`
}

// ScaleRequest sets replicas by service name.
type ScaleRequest struct {
	Replicas map[string]int `json:"replicas"`
}

// RestartRequest names what of a job is replaced: services, or single tasks ("web.2", or an id or its prefix), or, when it
// names nothing, all.
type RestartRequest struct {
	Services []string `json:"services,omitempty"`
	Tasks    []string `json:"tasks,omitempty"`
}

// JobList is all jobs, sorted by name.
type JobList struct {
	Meta
	Jobs []JobSummary `json:"jobs"`
}

// JobSummary is a job with its tallies.
type JobSummary struct {
	Name     string    `json:"name"`
	Version  uint64    `json:"version"`
	Stopped  bool      `json:"stopped,omitempty"`
	Services int       `json:"services"`
	Want     int       `json:"want"`  // tasks that are meant to run
	Ready    int       `json:"ready"` // of these, running and not unwell
	Updated  time.Time `json:"updated"`
	// Runs are the newest runs of its batches, by service; of a job that is made of batches alone they tell how it is.
	Runs    []job.Run `json:"runs,omitempty"`
	Batches int       `json:"batches,omitempty"` // services that are batches
}

// JobDetail is one job; Versions are its kept versions, oldest first, only when asked for.
type JobDetail struct {
	Meta
	Job      job.Job       `json:"job"`
	Versions []job.Job     `json:"versions,omitempty"`
	Blocked  []job.Blocked `json:"blocked,omitempty"`
	Rollouts []job.Rollout `json:"rollouts,omitempty"` // how its services come along to their present content
	Runs     []job.Run     `json:"runs,omitempty"`     // kept runs of its batches, by service and number
}

// Task is a task, its status, and names for people.
type Task struct {
	job.Task
	Name     string      `json:"name"` // "web.2"
	NodeName string      `json:"nodeName"`
	Status   *job.Status `json:"status,omitempty"` // nil: nothing reported yet
	Ready    bool        `json:"ready"`
	// NodeState is the node's state: what a task on a node that is down shows is what was last known.
	NodeState job.NodeState `json:"nodeState,omitempty"`
}

// State is the state to show: the status', or what the leader decided when the node has not said.
func (t *Task) State() job.State {
	switch {
	case t.Status != nil:
		return t.Status.State
	case t.Desired == job.DesiredLost:
		return job.Lost
	}
	return job.Placed
}

// TaskList is tasks sorted by job, service, slot, then the newest first.
type TaskList struct {
	Meta
	Tasks    []Task        `json:"tasks"`
	Blocked  []job.Blocked `json:"blocked,omitempty"`
	Rollouts []job.Rollout `json:"rollouts,omitempty"` // of the jobs asked for
	Runs     []job.Run     `json:"runs,omitempty"`     // of their batches: those under way and the last ones
	// Autoscales are the last changes of their services that scale by themselves.
	Autoscales []job.AutoscaleState `json:"autoscales,omitempty"`
	// Want and Ready tally the jobs asked for: tasks meant to run, and those that serve.
	Want  int `json:"want"`
	Ready int `json:"ready"`
}

// TaskQuery selects tasks. The zero value: all tasks that are meant to run or still do.
type TaskQuery struct {
	Job     string
	Service string
	Node    job.NodeID
	All     bool // also ended ones that are still known
	// After waits until the state's index is above it, at most Wait.
	After uint64
	Wait  time.Duration
}

// Why is the causal timeline of one task.
type Why struct {
	Meta
	Task  Task   `json:"task"`
	Steps []Step `json:"steps"` // in causal order
	// Blocked is set instead of Task.ID when a service has slots without a task.
	Blocked []job.Blocked `json:"blocked,omitempty"`
}

// Step is one thing that happened. Since is the time after the step before, by the clocks of the machines that saw
// them; it is never negative.
type Step struct {
	At    time.Time     `json:"at"`
	Since time.Duration `json:"since"`
	What  string        `json:"what"` // "suspect", "dead", "node down", "placed", "pulling", "created", "running", "healthy", …
	Index uint64        `json:"index,omitempty"`
	Node  string        `json:"node,omitempty"`
	Text  string        `json:"text,omitempty"`
}

// NodeView is a node with what the cluster knows of it at the moment.
type NodeView struct {
	job.Node
	Leader bool          `json:"leader,omitempty"`
	Role   string        `json:"role"`             // "voter", "standby" or "worker"
	Gossip string        `json:"gossip,omitempty"` // alive, suspect, dead, left, unknown
	Tasks  int           `json:"tasks"`            // meant to run there
	Used   job.Resources `json:"used"`             // demanded by these
	// Flapping says why it gets no new tasks for a while although it is ready, "" if it does.
	Flapping string `json:"flapping,omitempty"`
}

// NodeList is all nodes sorted by name.
type NodeList struct {
	Meta
	Nodes []NodeView `json:"nodes"`
	// Warning says plainly what the cluster cannot survive, such as having a single voter.
	Warning string `json:"warning,omitempty"`
}

// LabelsRequest sets labels; an empty value removes the label.
type LabelsRequest struct {
	Labels map[string]string `json:"labels"`
}

// Member is a node as gossip on the asked node sees it.
type Member struct {
	ID    job.NodeID     `json:"id"`
	Name  string         `json:"name"`
	Addr  netip.AddrPort `json:"addr"`
	State string         `json:"state"` // alive, suspect, dead, left
	Since time.Time      `json:"since"`
}

// MemberList is sorted by id.
type MemberList struct {
	Node    job.NodeID `json:"node"` // whose view it is
	Members []Member   `json:"members"`
}

// EventQuery selects events; the zero value is all that is kept, then the end.
type EventQuery struct {
	Job    string
	Task   job.TaskID
	After  uint64 // events of a raft index above it
	Follow bool
}

// LogRecord is one log line of a task. Error ends a task's stream early and says why.
type LogRecord struct {
	Task    job.TaskID `json:"task,omitempty"`
	Time    time.Time  `json:"time,omitzero"`
	Stream  string     `json:"stream,omitempty"` // stdout, stderr
	Text    string     `json:"text"`             // without its newline; bytes that are not UTF-8 come as base64 in Raw
	Raw     []byte     `json:"raw,omitempty"`
	Partial bool       `json:"partial,omitempty"` // the line goes on in the next record
	Error   string     `json:"error,omitempty"`
	Kind    job.Kind   `json:"kind,omitempty"` // of Error
}

// Err is the error that a record carries, nil if it is a line. Nodes of older versions tell no kind: that it may pass is
// the careful guess.
func (r *LogRecord) Err() error {
	if r.Error == "" {
		return nil
	}
	return &job.Error{Kind: cmp.Or(r.Kind, job.Unavailable), Message: r.Error}
}

// LogQuery selects lines of one task.
type LogQuery struct {
	Tail   int // 0 all, -1 none
	Since  time.Time
	Follow bool
}

// TaskStats are live figures of one task.
type TaskStats struct {
	Task        job.TaskID    `json:"task"`
	CPU         time.Duration `json:"cpu"` // total used
	MemoryBytes int64         `json:"memoryBytes"`
	MemoryLimit int64         `json:"memoryLimit,omitempty"`
	PIDs        int64         `json:"pids"`

	// Bytes since its container was started.
	NetReceived  int64 `json:"netReceived"`
	NetSent      int64 `json:"netSent"`
	BlockRead    int64 `json:"blockRead"`
	BlockWritten int64 `json:"blockWritten"`
}

// TokenRequest asks for a join token. Zero TTL: 1 hour. MaxUses 0: no limit, 1: one-time.
type TokenRequest struct {
	TTL     time.Duration `json:"ttl"`
	MaxUses int           `json:"maxUses"`
}

// TokenCreated carries the secret once; afterwards only its hash is known.
type TokenCreated struct {
	job.Token
	Secret string `json:"secret"` // what --token takes
	Join   string `json:"join"`   // the complete command for the next machine
}

// Image is an image on the asked node.
type Image struct {
	ID        string    `json:"id"`
	Names     []string  `json:"names"`
	Digest    string    `json:"digest"`
	SizeBytes int64     `json:"sizeBytes"`
	Layers    int       `json:"layers"`
	Created   time.Time `json:"created,omitzero"`
	// Copies is how many nodes had it, the asked one too, when a load ended; 0 in other answers.
	Copies int `json:"copies,omitempty"`
}

// PullProgress is a line of a pull's stream; the last has Image or Error.
type PullProgress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
	// Layers are on their way, lowest first; nil when the source does not tell.
	Layers []LayerProgress `json:"layers,omitempty"`
	Image  *Image          `json:"image,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// LayerProgress is one layer on its way, in bytes.
type LayerProgress struct {
	Digest string `json:"digest"`
	Done   int64  `json:"done"`
	Total  int64  `json:"total"`
	Here   bool   `json:"here,omitempty"` // it was on the node before
}

// JoinRequest comes from a machine without a certificate; the token is its proof.
type JoinRequest struct {
	TokenID string   `json:"tokenID"`
	Secret  []byte   `json:"secret"`
	CSR     []byte   `json:"csr"` // PEM
	Node    job.Node `json:"node"`
}

// JoinResponse makes it a member.
type JoinResponse struct {
	Cluster    string       `json:"cluster"`
	CA         []byte       `json:"ca"`   // PEM
	Cert       []byte       `json:"cert"` // PEM
	GossipKeys [][]byte     `json:"gossipKeys"`
	SealKey    []byte       `json:"sealKey"`
	Peers      []string     `json:"peers"` // addresses of all nodes
	Pool       netip.Prefix `json:"pool"`  // of all containers' addresses
	Index      uint64       `json:"index"`
}

// Membership tells whether a node is one of the cluster, as agreed on at a raft index.
type Membership struct {
	Node   job.NodeID `json:"node"` // as asked
	Member bool       `json:"member"`
	Index  uint64     `json:"index"`
}

// RenewRequest asks for a new certificate for the node that the connection's certificate names. That one may have
// expired: the cluster knows the node by its pinned key.
type RenewRequest struct {
	CSR []byte `json:"csr"` // PEM, of the pinned key
}

// RenewResponse is the new certificate.
type RenewResponse struct {
	Cert []byte `json:"cert"`
}

// ReportRequest carries a node's statuses to the leader.
type ReportRequest struct {
	Node     job.NodeID   `json:"node"`
	Statuses []job.Status `json:"statuses"`
}

// ImageNamesRequest says what names of images mean from now on, because a node loaded them.
type ImageNamesRequest struct {
	Images []job.ImageName `json:"images"`
}

// RegisterRequest tells the cluster what a node is now (address, capacity, version), each time that its agent starts.
type RegisterRequest struct {
	Node job.Node `json:"node"`
}

// ProbeResult says whether the asked node reached an address by TCP.
type ProbeResult struct {
	OK bool `json:"ok"`
	// Refused: the machine answered that nothing listens there, so it is up though its agent is not.
	Refused bool   `json:"refused,omitempty"`
	Error   string `json:"error,omitempty"`
}

// FeedFrame is one line of a node's feed: the whole of what it needs to know, sent again when any of it changes. A
// frame without Full is a heartbeat. Leader is empty when the sender knows of none.
type FeedFrame struct {
	Index      uint64     `json:"index"`
	Leader     job.NodeID `json:"leader,omitempty"`
	LeaderAddr string     `json:"leaderAddr,omitempty"`
	Full       *FeedFull  `json:"full,omitempty"`
}

// FeedFull is what one node needs to know.
type FeedFull struct {
	Pool        netip.Prefix     `json:"pool"`
	Self        job.Node         `json:"self"`
	Assignments []FeedAssignment `json:"assignments"` // all tasks of the node
	Nodes       []FeedNode       `json:"nodes"`       // all other nodes: routes, and whom to join
	Holders     []string         `json:"holders"`     // addresses of the log-holders
	Services    []FeedService    `json:"services"`    // endpoints of the jobs that have tasks here
}

// FeedAssignment is a task and what it runs.
type FeedAssignment struct {
	Task    job.Task    `json:"task"`
	Service job.Service `json:"service"`
	// Routers are the other nodes that may send somebody to the task, sorted; only of a task that serves and is to end.
	Routers []job.NodeID `json:"routers,omitempty"`
	// Status is what the log has of it: a node that reports from memory need not report this again.
	Status *job.Status `json:"status,omitempty"`
}

// FeedNode is another node.
type FeedNode struct {
	ID     job.NodeID     `json:"id"`
	Name   string         `json:"name"`
	Addr   netip.AddrPort `json:"addr"`
	Subnet netip.Prefix   `json:"subnet"`
	State  job.NodeState  `json:"state"`
	KeyPin string         `json:"keyPin,omitempty"`
}

// FeedService is the endpoints of a service.
type FeedService struct {
	Job       string         `json:"job"`
	Name      string         `json:"name"`
	Endpoints []FeedEndpoint `json:"endpoints"` // of tasks that are ready
}

// FeedEndpoint is one ready task.
type FeedEndpoint struct {
	Task string     `json:"task"` // "web.2"
	Node job.NodeID `json:"node"`
	Addr netip.Addr `json:"addr"`
}
