package node

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
	"shoal/node/gameday"
)

// ChaosConfig says what an admin may break on this node on purpose. The zero value: nothing.
type ChaosConfig struct {
	Policy gameday.Policy
	// Helper is the command that holds a fault; see gameday.Config.
	Helper []string
}

// keepGames undoes what a game day has left on this node, whether or not new ones are allowed.
func (n *Node) keepGames(ctx context.Context) error {
	if len(n.cfg.Chaos.Helper) == 0 {
		return waitFor(ctx)
	}
	return n.games().Run(ctx)
}

func (n *Node) games() *gameday.Keeper {
	policy := n.cfg.Chaos.Policy
	if len(n.cfg.Chaos.Helper) == 0 {
		policy = gameday.Never
	}
	return gameday.New(gameday.Config{DataDir: n.cfg.DataDir, Policy: policy, Helper: n.cfg.Chaos.Helper, Logger: n.log.With("part", "game days")})
}

// gameKinds maps gameday's errors to those that travel.
var gameKinds = []struct {
	err  error
	kind job.Kind
}{
	{gameday.ErrForbidden, job.Denied},
	{gameday.ErrBusy, job.Conflict},
	{gameday.ErrNoGame, job.NotFound},
	{gameday.ErrInvalid, job.Invalid},
}

func (n *Node) gameError(err error) error {
	if err == nil || job.KindOf(err) != job.Internal {
		return err
	}
	for _, k := range gameKinds {
		if errors.Is(err, k.err) {
			return job.Errorf(k.kind, "node %s: %w", n.cfg.Name, err)
		}
	}
	return job.Errorf(job.Internal, "node %s: %w", n.cfg.Name, err)
}

// Chaos tells this node's part in game days.
func (n *Node) Chaos(context.Context) (api.ChaosStatus, error) {
	st, err := n.games().Status()
	if err != nil {
		return api.ChaosStatus{}, n.gameError(err)
	}
	out := api.ChaosStatus{Node: n.id, Policy: string(st.Policy), Now: time.Now()}
	if st.Game != nil {
		g := api.ChaosGame(*st.Game)
		out.Game = &g
	}
	if st.Fault != nil {
		f := faultView(*st.Fault)
		out.Fault = &f
	}
	for _, o := range st.Outcomes {
		out.Outcomes = append(out.Outcomes, api.ChaosOutcome(o))
	}
	return out, nil
}

func faultView(r gameday.Record) api.ChaosFault {
	return api.ChaosFault{ID: r.ID, Game: r.Game, Fault: r.Fault, Task: r.Target.Task, Began: r.Began, Deadline: r.Deadline}
}

// JoinGame makes this node take part in a game.
func (n *Node) JoinGame(_ context.Context, g api.ChaosGame) error {
	if g.ID == "" {
		return job.Errorf(job.Invalid, "a game has an id")
	}
	return n.gameError(n.games().Begin(gameday.Game(g)))
}

// StopGame undoes what is under way and ends this node's part.
func (n *Node) StopGame(_ context.Context, game string) (*api.ChaosOutcome, error) {
	o, err := n.games().Stop(game)
	if o == nil || err != nil {
		return nil, n.gameError(err)
	}
	v := api.ChaosOutcome(*o)
	return &v, nil
}

// Inject breaks something on this node.
func (n *Node) Inject(ctx context.Context, r api.ChaosRequest) (api.ChaosFault, error) {
	kind, err := gameday.Find(r.Fault)
	if err != nil {
		return api.ChaosFault{}, job.Errorf(job.Invalid, "%w", err)
	}
	q := gameday.Request{ID: r.ID, Game: r.Game, Fault: r.Fault, Hold: r.Hold, SizeBytes: r.SizeBytes, Percent: r.Percent}
	switch kind.Scope {
	case gameday.Task:
		q.Target, err = n.taskTarget(ctx, r.Task)
	case gameday.Network:
		q.Target, err = n.networkTarget(r.Peer)
	}
	if err != nil {
		return api.ChaosFault{}, err
	}
	rec, err := n.games().Start(ctx, q)
	if err != nil {
		return api.ChaosFault{}, n.gameError(err)
	}
	return faultView(rec), nil
}

func (n *Node) taskTarget(ctx context.Context, ref string) (gameday.Target, error) {
	if ref == "" {
		return gameday.Target{}, job.Errorf(job.Invalid, "which task is not said")
	}
	id, c, err := n.container(ctx, ref)
	if err != nil {
		return gameday.Target{}, err
	}
	info, err := n.machine.Runtime.Inspect(ctx, c)
	if err != nil {
		return gameday.Target{}, kindly(err)
	}
	if info.PID == 0 {
		return gameday.Target{}, job.Errorf(job.Conflict, "task %s does not run: it is %s", ref, info.State)
	}
	return gameday.Target{Task: string(id), PID: info.PID}, nil
}

// networkTarget names the other nodes as the cluster last named them; one of them only, if peer is given.
func (n *Node) networkTarget(peer job.NodeID) (gameday.Target, error) {
	f := n.fed.Load()
	if f == nil {
		return gameday.Target{}, job.Errorf(job.Unavailable, "node %s has not heard from the cluster yet", n.cfg.Name)
	}
	t := gameday.Target{Self: n.cfg.Advertise, Subnet: f.full.Self.Subnet, Pool: f.full.Pool}
	for _, p := range f.full.Nodes {
		if p.State != job.NodeLeft && (peer == "" || peer == p.ID) {
			t.Peers = append(t.Peers, netip.AddrPortFrom(p.Addr.Addr().Unmap(), p.Addr.Port()))
		}
	}
	if peer != "" && len(t.Peers) == 0 {
		return t, job.Errorf(job.NotFound, "node %s knows of no node %s", n.cfg.Name, peer)
	}
	return t, nil
}

// maxGameNote bounds a line in the history.
const maxGameNote = 300

// NoteGame writes into the cluster's history, so that nobody hunts a ghost.
func (n *Node) NoteGame(ctx context.Context, note api.ChaosNote) error {
	if note.Text == "" || len(note.Text) > maxGameNote {
		return job.Errorf(job.Invalid, "a note has 1 to %d bytes, not %d", maxGameNote, len(note.Text))
	}
	now := time.Now()
	_, err := n.propose(ctx, state.Event{At: now, Event: job.Event{Time: now, Kind: job.EventGameDay, Node: note.Node, Message: note.Text}})
	return err
}
