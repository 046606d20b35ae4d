package api

import (
	"context"
	"net/http"
	"net/url"
)

// PromoteRequest names the services whose canaries are good; none: all of the job.
type PromoteRequest struct {
	Services []string `json:"services,omitempty"`
}

// FailRequest names the services whose update is given up; none: all of the job. Reason is for the history; "" is "given up
// by hand".
type FailRequest struct {
	Services []string `json:"services,omitempty"`
	Reason   string   `json:"reason,omitempty"`
}

// keyed decodes a small request with an idempotency key and answers what do makes of it.
func keyed[T any](w http.ResponseWriter, r *http.Request, do func(key string, req T) (SubmitResult, error)) {
	var req T
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	key, err := keyOf(r)
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := do(key, req)
	answer(w, v, err)
}

func (s *Server) promote(w http.ResponseWriter, r *http.Request) {
	keyed(w, r, func(key string, req PromoteRequest) (SubmitResult, error) {
		return s.backend.Promote(r.Context(), key, r.PathValue("job"), req)
	})
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request) {
	keyed(w, r, func(key string, req FailRequest) (SubmitResult, error) {
		return s.backend.Fail(r.Context(), key, r.PathValue("job"), req)
	})
}

func (s *Server) restartJob(w http.ResponseWriter, r *http.Request) {
	keyed(w, r, func(key string, req RestartRequest) (SubmitResult, error) {
		return s.backend.RestartJob(r.Context(), key, r.PathValue("job"), req)
	})
}

// Promote lets updates go on whose canaries wait. Conflict if none does.
func (c *Client) Promote(ctx context.Context, key, name string, r PromoteRequest) (SubmitResult, error) {
	var v SubmitResult
	err := c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(name)+"/promote", nil, r, &v, key)
	return v, err
}

// Fail gives updates up that are under way, and goes back to what they came from. Conflict if there is none.
func (c *Client) Fail(ctx context.Context, key, name string, r FailRequest) (SubmitResult, error) {
	var v SubmitResult
	err := c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(name)+"/fail", nil, r, &v, key)
	return v, err
}

// RestartJob has all tasks of a job, or of some of its services, or single ones, replaced as by an update.
func (c *Client) RestartJob(ctx context.Context, key, name string, r RestartRequest) (SubmitResult, error) {
	var v SubmitResult
	err := c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(name)+"/restart", nil, r, &v, key)
	return v, err
}
