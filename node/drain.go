package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
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
	// (job.Node.DrainBy), by which it knows its own drain from one that somebody ordered since, and the index of the log at
	// which that was seen. Empty: it had not heard yet, or does not know which of its requests counted.
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
	select {
	case <-n.returned: // what undoes the last drain must not undo this one
	case <-ctx.Done():
		return
	}
	own := false
	var last job.Node // as it stands before
	if f := n.fed.Load(); f != nil {
		last = f.full.Self
	}
	if last.Drained && !n.drainedItself() {
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
			err := n.tellLeader(ctx, func(ctx context.Context, c *api.Client) error { return c.Drain(ctx, string(n.id), &left) },
				func(ctx context.Context) error { return n.Drain(ctx, string(n.id), &left) })
			if asked = err == nil; !asked {
				own = false // a request that failed may have been carried out, and not be the one that counts: the note stays empty
			}
			if !asked && left == 0 {
				n.log.Warn("this node could not be drained; its containers run on", "error", err)
				return
			}
			sleep(ctx, drainRetry)
			continue
		}
		f := n.fed.Load()
		drained := f != nil && f.full.Self.Drained
		if drained && own && !(last.Drained && f.full.Self.DrainBy.Equal(last.DrainBy)) {
			own = false // noted
			n.noteDrain(f.full.Self.DrainBy, f.index)
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

func (n *Node) noteDrain(by time.Time, index uint64) {
	text, err := by.MarshalText()
	if err == nil {
		err = os.WriteFile(n.path(drainMark), fmt.Appendf(text, " %d", index), 0o600)
	}
	if err != nil {
		n.log.Warn("cannot note which drain is this node's own: its next start undoes any", "error", err)
	}
}

// anothersDrain tells whether the node's drain is not the one that it noted. known: the cluster has told how it stands, no
// earlier than when the note was made: a copy of the log that is catching up may still have another drain, which is over.
func (n *Node) anothersDrain(mark []byte) (another, known bool) {
	text, seen, _ := strings.Cut(string(mark), " ")
	var by time.Time
	if by.UnmarshalText([]byte(text)) != nil {
		return false, true
	}
	index, _ := strconv.ParseUint(seen, 10, 64) // 0: it was not noted
	f := n.fed.Load()
	if f == nil || f.index == 0 || f.index < index {
		return false, false
	}
	return f.full.Self.Drained && !f.full.Self.DrainBy.Equal(by), true
}

// drainedItself tells whether the node's drain is its own, of an end after which it has not returned yet.
func (n *Node) drainedItself() bool {
	mark, err := os.ReadFile(n.path(drainMark))
	if err != nil {
		return false
	}
	another, _ := n.anothersDrain(mark)
	return !another
}

// returnFromDrain activates a node that drained itself when it ended, unless it is to end again: ending.
func (n *Node) returnFromDrain(ctx, ending context.Context) error {
	undoing, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ending, cancel)
	n.undoDrain(undoing)
	stop()
	cancel()
	close(n.returned)
	return waitFor(ctx)
}

func (n *Node) undoDrain(ctx context.Context) {
	for ctx.Err() == nil {
		mark, err := os.ReadFile(n.path(drainMark))
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		another, known := n.anothersDrain(mark)
		switch {
		case err == nil && another:
			n.log.Info("this node had drained itself, and somebody has ordered a drain since: it stays drained")
			if err := os.Remove(n.path(drainMark)); err != nil {
				n.log.Warn("cannot remove the note of a drain that is over", "error", err)
			}
			return
		case !known:
			err = errNotFed
		case err == nil:
			err = n.tellLeader(ctx, func(ctx context.Context, c *api.Client) error { return c.Activate(ctx, string(n.id)) },
				func(ctx context.Context) error { return n.Activate(ctx, string(n.id)) })
		}
		if err == nil || job.KindOf(err) == job.NotFound {
			n.log.Info("this node had drained itself, and takes tasks again")
			if err := os.Remove(n.path(drainMark)); err != nil {
				n.log.Warn("this node is activated with each start until this file can be removed", "file", n.path(drainMark), "error", err)
			}
			return
		}
		sleep(ctx, drainRetry)
	}
}
