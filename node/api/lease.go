package api

import (
	"context"
	"net/http"
	"net/url"

	"shoal/consensus/job"
)

// LeaseRequest asks the leader for its word that the node may go on running fenced tasks. Its moment is when the node
// began to ask.
type LeaseRequest struct {
	Tasks []job.TaskID `json:"tasks"` // at most MaxLeases
}

// MaxLeases bounds the fenced tasks of one node.
const MaxLeases = 10_000

// LeaseResponse lists the tasks that may run, in the request's order; for the others Refused says why.
type LeaseResponse struct {
	Granted []job.TaskID          `json:"granted,omitempty"`
	Refused map[job.TaskID]string `json:"refused,omitempty"`
}

// FailoverRequest has held tasks of lost nodes placed anew.
type FailoverRequest struct {
	Service string `json:"service,omitempty"` // "": all of the job
	// Force also takes fenced tasks whose lease may still run: the admin answers for the machine being off.
	Force bool `json:"force,omitempty"`
}

// FailoverResult lists what was released, and what was not with the reason.
type FailoverResult struct {
	Released []HeldTask `json:"released"`
	Kept     []HeldTask `json:"kept,omitempty"`
}

// HeldTask is a task of a node that is not there.
type HeldTask struct {
	Task   job.TaskID `json:"task"`
	Name   string     `json:"name"`
	Node   string     `json:"node"`
	Reason string     `json:"reason,omitempty"` // why it was kept
}

// Lease asks for leases; only the leader answers.
func (c *Client) Lease(ctx context.Context, r LeaseRequest) (LeaseResponse, error) {
	var v LeaseResponse
	err := c.do(ctx, "POST", "/v1/lease", nil, r, &v, "")
	return v, err
}

// Failover releases the held tasks of a job.
func (c *Client) Failover(ctx context.Context, name string, r FailoverRequest) (FailoverResult, error) {
	var v FailoverResult
	err := c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(name)+"/failover", nil, r, &v, "")
	return v, err
}

func (s *Server) lease(w http.ResponseWriter, r *http.Request) {
	var req LeaseRequest
	if err := decode(r, maxJobBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Lease(r.Context(), callerOf(r), req)
	answer(w, v, err)
}

func (s *Server) failover(w http.ResponseWriter, r *http.Request) {
	var req FailoverRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Failover(r.Context(), r.PathValue("job"), req)
	answer(w, v, err)
}
