package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Drain closes a node for tasks and has those that are there moved. Those that could not be moved within a time are
// stopped nevertheless; nil: never.
func (n *Node) Drain(ctx context.Context, ref string, within *time.Duration) error {
	node, err := findNode(n.state.View(), ref)
	if err != nil {
		return err
	}
	cmd := state.SetDrain{Node: node.ID, Drained: true, At: n.wall()}
	if within != nil {
		cmd.By = cmd.At.Add(*within)
	}
	_, err = n.propose(ctx, cmd)
	return err
}

// Activate opens a node for tasks again.
func (n *Node) Activate(ctx context.Context, ref string) error {
	node, err := findNode(n.state.View(), ref)
	if err != nil {
		return err
	}
	_, err = n.propose(ctx, state.SetDrain{Node: node.ID, At: n.wall()})
	return err
}

const (
	// drainMark says that this node drained itself when it ended, so its next start activates it; its text is the drain's end
	// (job.Node.DrainBy), by which it knows its own drain from one that somebody ordered since. Empty: it had not heard yet.
	drainMark  = "drained"
	drainLook  = 200 * time.Millisecond
	drainRetry = 300 * time.Millisecond
	// drainEnd is how long after the drain's time tasks may still take to stop.
	drainEnd = 30 * time.Second
)

var errNotFed = errors.New("the cluster has not told how this node stands")

// drainBeforeEnd gives the parts a context that ends later than ctx, if the node is to be drained first.
func (n *Node) drainBeforeEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	if n.cfg.DrainOnStop <= 0 {
		return context.WithCancel(ctx)
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-inner.Done():
			return
		case <-ctx.Done():
		}
		n.drainSelf(inner)
		cancel()
	}()
	return inner, func() { cancel(); <-done }
}

// drainSelf moves this node's tasks away, for as long as it may take.
func (n *Node) drainSelf(ctx context.Context) {
	own := false
	if f := n.fed.Load(); f != nil && f.full.Self.Drained {
		n.log.Info("this node is drained already, and stays so")
	} else {
		own = true
		if err := os.WriteFile(n.path(drainMark), nil, 0o600); err != nil {
			n.log.Warn("cannot note that this node drains itself: activate it after its next start", "error", err)
		}
		n.log.Info("draining this node before it stops", "within", n.cfg.DrainOnStop)
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainOnStop+drainEnd)
	defer cancel()
	end := time.Now().Add(n.cfg.DrainOnStop)
	for asked := false; ctx.Err() == nil; {
		if !asked {
			left := max(time.Until(end), 0)
			_, err := atLeader(ctx, n, func(c *api.Client) (struct{}, error) { return struct{}{}, c.Drain(ctx, string(n.id), &left) },
				func() (struct{}, error) { return struct{}{}, n.Drain(ctx, string(n.id), &left) })
			if asked = err == nil; !asked && left == 0 {
				n.log.Warn("this node could not be drained; its containers run on", "error", err)
				return
			}
			sleep(ctx, drainRetry)
			continue
		}
		f := n.fed.Load()
		drained := f != nil && f.full.Self.Drained
		if drained && own {
			own = false // noted
			n.noteDrain(f.full.Self.DrainBy)
		}
		if drained && len(n.rec.Local()) == 0 {
			n.log.Info("this node is drained")
			return
		}
		sleep(ctx, drainLook)
	}
	if ctx.Err() != nil {
		n.log.Warn("this node stops before it is empty; its containers run on", "tasks", len(n.rec.Local()))
	}
}

func (n *Node) noteDrain(by time.Time) {
	text, err := by.MarshalText()
	if err == nil {
		err = os.WriteFile(n.path(drainMark), text, 0o600)
	}
	if err != nil {
		n.log.Warn("cannot note which drain is this node's own: its next start undoes any", "error", err)
	}
}

// anothersDrain tells whether the node's drain is not the one that it noted. known: the cluster has told how it stands.
func (n *Node) anothersDrain(mark []byte) (another, known bool) {
	var by time.Time
	if len(mark) == 0 || by.UnmarshalText(mark) != nil {
		return false, true
	}
	f := n.fed.Load()
	if f == nil || f.index == 0 {
		return false, false
	}
	return f.full.Self.Drained && !f.full.Self.DrainBy.Equal(by), true
}

// returnFromDrain activates a node that drained itself when it ended.
func (n *Node) returnFromDrain(ctx context.Context) error {
	for {
		mark, err := os.ReadFile(n.path(drainMark))
		if errors.Is(err, fs.ErrNotExist) {
			return waitFor(ctx)
		}
		another, known := n.anothersDrain(mark)
		switch {
		case err == nil && another:
			n.log.Info("this node had drained itself, and somebody has ordered a drain since: it stays drained")
			if err := os.Remove(n.path(drainMark)); err != nil {
				n.log.Warn("cannot remove the note of a drain that is over", "error", err)
			}
			return waitFor(ctx)
		case !known:
			err = errNotFed
		case err == nil:
			_, err = atLeader(ctx, n, func(c *api.Client) (struct{}, error) { return struct{}{}, c.Activate(ctx, string(n.id)) },
				func() (struct{}, error) { return struct{}{}, n.Activate(ctx, string(n.id)) })
		}
		if err == nil || job.KindOf(err) == job.NotFound {
			n.log.Info("this node had drained itself, and takes tasks again")
			if err := os.Remove(n.path(drainMark)); err != nil {
				n.log.Warn("this node is activated with each start until this file can be removed", "file", n.path(drainMark), "error", err)
			}
			return waitFor(ctx)
		}
		if !sleep(ctx, drainRetry) {
			return nil
		}
	}
}
