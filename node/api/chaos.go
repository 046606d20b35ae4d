package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"shoal/consensus/job"
)

// Games are game days: faults on purpose, on nodes that take part in a game. Errors: Denied where the node's agent was
// told so, Conflict while another game is on.
type Games interface {
	// This node.
	Chaos(ctx context.Context) (ChaosStatus, error)
	JoinGame(ctx context.Context, g ChaosGame) error
	Inject(ctx context.Context, r ChaosRequest) (ChaosFault, error)
	// StopGame undoes what is under way and ends this node's part; "" is any game. nil: nothing was under way.
	StopGame(ctx context.Context, game string) (*ChaosOutcome, error)

	// NoteGame writes into the cluster's history, at the leader.
	NoteGame(ctx context.Context, n ChaosNote) error
}

// ChaosGame is a game that a node takes part in: in no other meanwhile.
type ChaosGame struct {
	ID    string    `json:"id"`
	By    string    `json:"by"`
	Began time.Time `json:"began"`
	Until time.Time `json:"until"`
}

// ChaosRequest asks a node for a fault on itself.
type ChaosRequest struct {
	ID    string        `json:"id"`
	Game  string        `json:"game"`
	Fault string        `json:"fault"`
	Hold  time.Duration `json:"hold"`
	// Task is the id of the one that is hit, of faults that hit one.
	Task string `json:"task,omitempty"`
	// Peer is the id of the one other node, of faults that cut a pair.
	Peer      job.NodeID `json:"peer,omitempty"`
	SizeBytes int64      `json:"sizeBytes,omitempty"`
	Percent   int        `json:"percent,omitempty"`
}

// ChaosFault is a fault under way.
type ChaosFault struct {
	ID       string    `json:"id"`
	Game     string    `json:"game"`
	Fault    string    `json:"fault"`
	Task     string    `json:"task,omitempty"`
	Began    time.Time `json:"began"`
	Deadline time.Time `json:"deadline"` // by the node's clock
}

// ChaosOutcome tells how a fault ended.
type ChaosOutcome struct {
	ID     string    `json:"id"`
	Game   string    `json:"game"`
	Fault  string    `json:"fault"`
	Task   string    `json:"task,omitempty"`
	Began  time.Time `json:"began"`
	Undone time.Time `json:"undone"`
	By     string    `json:"by"`              // helper, backup, agent or stop
	Proof  string    `json:"proof,omitempty"` // what could be seen of it
	Error  string    `json:"error,omitempty"`
}

// ChaosStatus is a node's part in game days.
type ChaosStatus struct {
	Node     job.NodeID     `json:"node"`
	Policy   string         `json:"policy"` // allow, safe or never
	Now      time.Time      `json:"now"`    // by the node's clock
	Game     *ChaosGame     `json:"game,omitempty"`
	Fault    *ChaosFault    `json:"fault,omitempty"`
	Outcomes []ChaosOutcome `json:"outcomes,omitempty"` // of the game, oldest first, at most 64
}

// ChaosNote is a line for the cluster's history.
type ChaosNote struct {
	Node job.NodeID `json:"node,omitempty"`
	Text string     `json:"text"`
}

func onNode(node job.NodeID) url.Values {
	if node == "" {
		return nil
	}
	return url.Values{"node": {string(node)}}
}

// Chaos asks a node for its part in game days.
func (c *Client) Chaos(ctx context.Context, node job.NodeID) (ChaosStatus, error) {
	return get[ChaosStatus](ctx, c, "/v1/chaos", onNode(node))
}

// JoinGame makes a node take part in a game.
func (c *Client) JoinGame(ctx context.Context, node job.NodeID, g ChaosGame) error {
	return c.do(ctx, "POST", "/v1/chaos/game", onNode(node), g, nil, "")
}

// Inject asks a node for a fault on itself; it is carried out a moment after the answer.
func (c *Client) Inject(ctx context.Context, node job.NodeID, r ChaosRequest) (ChaosFault, error) {
	var f ChaosFault
	err := c.do(ctx, "POST", "/v1/chaos/faults", onNode(node), r, &f, "")
	return f, err
}

// StopGame undoes what is under way on a node and ends its part in a game; "" is any.
func (c *Client) StopGame(ctx context.Context, node job.NodeID, game string) (*ChaosOutcome, error) {
	q := url.Values{"game": {game}}
	if node != "" {
		q.Set("node", string(node))
	}
	var o *ChaosOutcome
	err := c.do(ctx, "DELETE", "/v1/chaos/game", q, nil, &o, "")
	return o, err
}

// NoteGame writes into the cluster's history.
func (c *Client) NoteGame(ctx context.Context, n ChaosNote) error {
	return c.do(ctx, "POST", "/v1/chaos/notes", nil, n, nil, "")
}

func (s *Server) chaos(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Chaos(r.Context())
	answer(w, v, err)
}

func (s *Server) joinGame(w http.ResponseWriter, r *http.Request) {
	var g ChaosGame
	err := decode(r, maxSmallBytes, &g)
	if err == nil {
		err = s.backend.JoinGame(r.Context(), g)
	}
	done(w, err)
}

func (s *Server) inject(w http.ResponseWriter, r *http.Request) {
	var q ChaosRequest
	if err := decode(r, maxSmallBytes, &q); err != nil {
		writeError(w, err)
		return
	}
	f, err := s.backend.Inject(r.Context(), q)
	answer(w, f, err)
}

func (s *Server) stopGame(w http.ResponseWriter, r *http.Request) {
	o, err := s.backend.StopGame(r.Context(), r.URL.Query().Get("game"))
	answer(w, o, err)
}

func (s *Server) noteGame(w http.ResponseWriter, r *http.Request) {
	var n ChaosNote
	err := decode(r, maxSmallBytes, &n)
	if err == nil {
		err = s.backend.NoteGame(r.Context(), n)
	}
	done(w, err)
}
