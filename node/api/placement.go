package api

import (
	"context"
	"net/http"
	"net/url"

	"shoal/consensus/job"
)

// ClusterSettings are what admins decide about the whole cluster, by name, with defaults filled in.
type ClusterSettings struct {
	Meta
	Settings map[string]string `json:"settings"`
}

// SettingsRequest sets some; an empty value puts one back to its default.
type SettingsRequest struct {
	Settings map[string]string `json:"settings"`
}

// OvercommitRequest says how much more than its capacity a node gives away; nil: not more.
type OvercommitRequest struct {
	Overcommit *job.Overcommit `json:"overcommit,omitempty"`
}

// RehearseRequest asks what submitting a spec would come to.
type RehearseRequest struct {
	Spec job.Spec `json:"spec"`
}

// placements is the part of a Backend that has to do with where tasks go.
type placements interface {
	Settings(ctx context.Context) (ClusterSettings, error)
	SetSettings(ctx context.Context, r SettingsRequest) error
	SetOvercommit(ctx context.Context, node string, r OvercommitRequest) error
	// Rehearse changes nothing.
	Rehearse(ctx context.Context, r RehearseRequest) (job.Rehearsal, error)
}

func (s *Server) settings(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Settings(r.Context())
	v.Stale = stale(r)
	answer(w, v, err)
}

func (s *Server) setSettings(w http.ResponseWriter, r *http.Request) {
	var req SettingsRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	done(w, s.backend.SetSettings(r.Context(), req))
}

func (s *Server) overcommit(w http.ResponseWriter, r *http.Request) {
	var req OvercommitRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	done(w, s.backend.SetOvercommit(r.Context(), r.PathValue("node"), req))
}

func (s *Server) rehearse(w http.ResponseWriter, r *http.Request) {
	var req RehearseRequest
	if err := decode(r, maxJobBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	if req.Spec.Name != r.PathValue("job") {
		writeError(w, job.Errorf(job.Invalid, "plan: the path names job %q and the spec %q", r.PathValue("job"), req.Spec.Name))
		return
	}
	v, err := s.backend.Rehearse(r.Context(), req)
	answer(w, v, err)
}

// Settings tells what admins decided about the cluster.
func (c *Client) Settings(ctx context.Context) (ClusterSettings, error) {
	return get[ClusterSettings](ctx, c, "/v1/settings", nil)
}

// SetSettings changes some of them.
func (c *Client) SetSettings(ctx context.Context, set map[string]string) error {
	return c.do(ctx, "POST", "/v1/settings", nil, SettingsRequest{Settings: set}, nil, "")
}

// SetOvercommit says how much more than its capacity a node gives away; nil: not more.
func (c *Client) SetOvercommit(ctx context.Context, node string, o *job.Overcommit) error {
	return c.do(ctx, "POST", "/v1/nodes/"+url.PathEscape(node)+"/overcommit", nil, OvercommitRequest{Overcommit: o}, nil, "")
}

// Rehearse asks what submitting a spec would come to.
func (c *Client) Rehearse(ctx context.Context, spec job.Spec) (job.Rehearsal, error) {
	var v job.Rehearsal
	err := c.do(ctx, "POST", "/v1/jobs/"+url.PathEscape(spec.Name)+"/rehearse", nil, RehearseRequest{Spec: spec}, &v, "")
	return v, err
}
