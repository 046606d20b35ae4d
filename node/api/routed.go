package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Routed is how far a node's names and routes have come.
type Routed struct {
	Index uint64 `json:"index"` // raft index; everything up to it is in the node's names and routes
}

func (s *Server) routed(w http.ResponseWriter, r *http.Request) {
	index, err := number(r.URL.Query().Get("index"))
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Routed(r.Context(), index)
	answer(w, v, err)
}

// Routed waits until a node's names and routes are as the log is at index. The caller's context bounds the waiting.
func (c *Client) Routed(ctx context.Context, index uint64) (Routed, error) {
	return get[Routed](ctx, c, "/v1/routed", url.Values{"index": {strconv.FormatUint(index, 10)}})
}
