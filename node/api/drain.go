package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"shoal/consensus/job"
)

// Drain moves all tasks away from a node. Those that could not be moved within a time are stopped nevertheless; nil:
// never.
func (c *Client) Drain(ctx context.Context, node string, within *time.Duration) error {
	q := url.Values{}
	if within != nil {
		q.Set("within", within.String())
	}
	return c.do(ctx, "POST", "/v1/nodes/"+url.PathEscape(node)+"/drain", q, nil, nil, "")
}

// Activate lets a drained node take tasks again.
func (c *Client) Activate(ctx context.Context, node string) error {
	return c.do(ctx, "POST", "/v1/nodes/"+url.PathEscape(node)+"/activate", nil, nil, nil, "")
}

// maxDrain bounds the time of a drain; who wants more wants no bound.
const maxDrain = 30 * 24 * time.Hour

func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	var within *time.Duration
	if text := r.URL.Query().Get("within"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 || d > maxDrain {
			writeError(w, job.Errorf(job.Invalid, "drain within %.40q: it takes a time such as 10m, at most %v", text, maxDrain))
			return
		}
		within = &d
	}
	done(w, s.backend.Drain(r.Context(), r.PathValue("node"), within))
}

func (s *Server) activate(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.Activate(r.Context(), r.PathValue("node")))
}
