package api

import (
	"context"
	"io"
	"net/http"
	"time"

	"shoal/consensus/job"
)

// Caller is who made a request. Node is set for nodes; for people it is empty.
type Caller struct {
	Access Access // the widest that the caller may use
	Node   job.NodeID
	Name   string // for the record
}

// Placement tells where requests go; a Backend is one.
type Placement interface {
	// Leader tells the leader's id and address; ok is false when none is known. self: it is this node.
	Leader() (addr string, id job.NodeID, self, ok bool)
	// Owner finds the node of a task (id or unique prefix, or job/service.slot). Errors: NotFound, Conflict for an
	// ambiguous prefix. It asks the leader when this node does not hold the log.
	Owner(ctx context.Context, task string) (addr string, id job.NodeID, self bool, err error)
	// HasState tells whether this node holds the log, so that it can answer (stale) reads by itself.
	HasState() bool
	// Holder is the address of some node that holds the log, "" if none is known.
	Holder() string
	// Confirm makes sure that this node, which believes to lead, still does; it blocks for at most a round trip to a
	// quorum. Not called for routes that are answered Here.
	Confirm(ctx context.Context) error
	// Transport reaches other nodes with this node's certificate.
	Transport() http.RoundTripper
}

// Backend answers requests on one node. The server calls a method only on the node that the route's Where names. All
// methods are safe for concurrent use. Errors have a job.Kind; errors without one are answered as Internal.
type Backend interface {
	Placement
	ImageKeeper
	placements
	Batches
	Hands
	Games

	Status(ctx context.Context) (Status, error)

	// Reads, from this node's copy of the state. stale is put into the answer's Meta.
	Jobs(ctx context.Context) (JobList, error)
	Job(ctx context.Context, name string, versions bool) (JobDetail, error)
	Tasks(ctx context.Context, q TaskQuery) (TaskList, error)
	Task(ctx context.Context, id string) (Task, error)
	Why(ctx context.Context, id string) (Why, error)
	Nodes(ctx context.Context) (NodeList, error)
	Tokens(ctx context.Context) ([]job.Token, error)
	// Events calls emit for each, oldest first; with Follow until ctx ends or emit fails.
	Events(ctx context.Context, q EventQuery, emit func(job.Event) error) error

	// Changes, at the leader. key is the caller's idempotency key, never empty: the same key has one effect.
	Submit(ctx context.Context, key string, r SubmitRequest) (SubmitResult, error)
	Scale(ctx context.Context, key, name string, r ScaleRequest) (SubmitResult, error)
	StopJob(ctx context.Context, name string) error
	StartJob(ctx context.Context, key, name string) (SubmitResult, error)
	RestartJob(ctx context.Context, key, name string, r RestartRequest) (SubmitResult, error)
	Promote(ctx context.Context, key, name string, r PromoteRequest) (SubmitResult, error)
	Fail(ctx context.Context, key, name string, r FailRequest) (SubmitResult, error)
	RemoveJob(ctx context.Context, name string) error
	Failover(ctx context.Context, name string, r FailoverRequest) (FailoverResult, error)
	// Rebalance tells which tasks had better be on other nodes, and begins to move them unless dry.
	Rebalance(ctx context.Context, dry bool) (RebalanceResult, error)
	// Drain closes a node for tasks; those that could not be moved within a time are stopped nevertheless (nil: never).
	Drain(ctx context.Context, node string, within *time.Duration) error
	Activate(ctx context.Context, node string) error
	SetLabels(ctx context.Context, node string, r LabelsRequest) error
	RemoveNode(ctx context.Context, node string, force bool) error
	CreateToken(ctx context.Context, r TokenRequest) (TokenCreated, error)
	RemoveToken(ctx context.Context, id string) error

	// This node.
	Members(ctx context.Context) (MemberList, error)
	Logs(ctx context.Context, task string, q LogQuery, emit func(LogRecord) error) error
	Exec(ctx context.Context, task string, s *ExecSession) (exitCode int, err error)
	Stats(ctx context.Context, task string) (TaskStats, error)
	Images(ctx context.Context) ([]Image, error)
	LoadImage(ctx context.Context, r io.Reader) ([]Image, error)
	PullImage(ctx context.Context, ref, platform string, progress func(PullProgress)) (Image, error)
	RemoveImage(ctx context.Context, ref string) error
	Debug(ctx context.Context) (any, error)
	// StateHash waits at most so long for the index. Unavailable when this node does not hold the log.
	StateHash(ctx context.Context, index uint64, wait time.Duration) (StateHash, error)

	// Between nodes.
	Join(ctx context.Context, r JoinRequest) (JoinResponse, error)
	// Membership is Unavailable unless this node certainly leads: a node stops its containers when it is no member.
	Membership(ctx context.Context, node job.NodeID) (Membership, error)
	Renew(ctx context.Context, c Caller, r RenewRequest) (RenewResponse, error)
	Register(ctx context.Context, c Caller, r RegisterRequest) error
	// Lease is answered only once a quorum confirmed, after the request came, that this node leads.
	Lease(ctx context.Context, c Caller, r LeaseRequest) (LeaseResponse, error)
	Report(ctx context.Context, c Caller, r ReportRequest) error
	NameImages(ctx context.Context, r ImageNamesRequest) error
	UnnameImage(ctx context.Context, name string) error
	// Feed calls emit with frames until ctx ends or emit fails. Unavailable when this node does not hold the log.
	Feed(ctx context.Context, node job.NodeID, emit func(FeedFrame) error) error
	Probe(ctx context.Context, addr string) (ProbeResult, error)
	// Routed waits until the node's names and routes are as the log is at index. Unavailable if that takes too long.
	Routed(ctx context.Context, index uint64) (Routed, error)
}
