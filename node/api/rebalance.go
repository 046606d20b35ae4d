package api

import (
	"context"
	"net/http"
)

// RebalanceResult is what rebalancing moves, in its order.
type RebalanceResult struct {
	Moves []Move `json:"moves"`
	// More: there are more than could be listed.
	More bool `json:"more,omitempty"`
}

// Move is one task that had better be on another node.
type Move struct {
	Job     string `json:"job"`
	Service string `json:"service"`
	Slot    int    `json:"slot"`
	From    string `json:"from"` // names of nodes
	To      string `json:"to"`
}

// Rebalance asks which tasks had better be on other nodes, and has them moved unless dry.
func (c *Client) Rebalance(ctx context.Context, dry bool) (RebalanceResult, error) {
	if dry {
		return get[RebalanceResult](ctx, c, "/v1/rebalance", nil)
	}
	var v RebalanceResult
	err := c.do(ctx, "POST", "/v1/rebalance", nil, nil, &v, "")
	return v, err
}

func (s *Server) rebalanceShown(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Rebalance(r.Context(), true)
	answer(w, v, err)
}

func (s *Server) rebalance(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Rebalance(r.Context(), false)
	answer(w, v, err)
}
