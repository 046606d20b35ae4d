package node

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/consensus/scheduler"
	"shoal/consensus/state"
	"shoal/gossip"
)

// lead is what a node does while it leads; ctx dies with the term. It returns the first fault of a duty.
func (n *Node) lead(ctx context.Context, term uint64) error {
	n.log.Info("leading", "term", term)
	defer n.log.Info("no longer leading", "term", term)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := newGranter()
	n.granter.Store(g)
	defer n.granter.CompareAndSwap(g, nil)
	var wg sync.WaitGroup
	for name, duty := range map[string]func(context.Context) error{
		"record the term": func(ctx context.Context) error { return n.recordTerm(ctx, term) },
		"plan tasks":      n.planTasks,
		"keep scale":      n.keepScale,
		"keep schedules":  n.keepSchedules,
		"judge nodes":     n.judgeNodes,
		"keep holders":    n.keepHolders,
		"raise the rules": n.raiseRules,
		"fence":           func(ctx context.Context) error { return n.fence(ctx, g) },
	} {
		wg.Go(func() {
			if err := duty(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil && ctx.Err() != nil && err != ctx.Err() {
		return err
	}
	return nil
}

// patiently begins a leader's work again when the log did not take something for the moment. Most often the term is just
// ending and nobody has said so yet; a fault of the work itself is what is left.
func (n *Node) patiently(work func(context.Context, uint64) error) func(context.Context, uint64) error {
	return func(ctx context.Context, term uint64) error {
		for {
			err := work(ctx, term)
			if err == nil || ctx.Err() != nil || job.KindOf(err) != job.Unavailable {
				return err
			}
			n.log.Warn("leading was interrupted", "term", term, "error", err)
			if !sleep(ctx, planRetry) {
				return nil
			}
		}
	}
}

func (n *Node) recordTerm(ctx context.Context, term uint64) error {
	now := n.wall()
	_, err := n.propose(ctx, state.Event{At: now, Event: job.Event{
		Time: now, Kind: job.EventLeader, Node: n.id, Message: fmt.Sprintf("%s leads in term %d", n.cfg.Name, term),
	}})
	return err
}

// Bounds of planning.
const (
	planLimit        = 5_000 // placements in one command
	planBuffer       = 4_096 // batches that the planner may lag behind before it starts over
	planRetry        = 500 * time.Millisecond
	planProposeLimit = 10 * time.Second
)

// planTasks turns what users want and what happened into tasks, for as long as this node leads.
func (n *Node) planTasks(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := survive(func() error { return n.planFromView(ctx) }, n.cfg.OnBug); err != nil && ctx.Err() == nil {
			n.log.Warn("planning starts over", "error", err)
			sleep(ctx, planRetry)
		}
	}
	return nil
}

// survive makes a panic of work an error. The planner decides over what all users ever asked for, and would fall over the same
// on the next leader, and the next; without it the cluster still answers, keeps its leases and runs what runs.
func survive(work func() error, onBug func(any)) (err error) {
	defer func() {
		switch p := recover(); {
		case p == nil:
		case onBug != nil:
			onBug(p)
		default:
			err = fmt.Errorf("the planner fell over, please report this: %v\n%s", p, debug.Stack())
		}
	}()
	return work()
}

// planFromView plans on one subscription until it breaks.
func (n *Node) planFromView(ctx context.Context) error {
	view, sub := n.state.Subscribe(planBuffer)
	defer sub.Close()
	planner := scheduler.New(view)
	planner.Wall = n.wall
	seen := view.Index()
	for {
		if n.rebalance.Swap(false) {
			planner.BalanceNow()
		}
		plan, next := planner.Plan(time.Now(), planLimit)
		if !plan.Empty() {
			at, err := n.proposePlan(ctx, plan)
			if err != nil {
				return err
			}
			// What was decided must be seen before the next decision, or it would be decided again.
			for seen < at {
				if seen, err = take(ctx, sub, planner, nil); err != nil {
					return err
				}
			}
			continue
		}
		index, err := takeBy(ctx, sub, planner, next)
		if err != nil {
			return err
		}
		seen = max(seen, index)
	}
}

func (n *Node) proposePlan(ctx context.Context, plan state.Plan) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, planProposeLimit)
	defer cancel()
	plan.At = n.wall()
	res, err := n.propose(ctx, plan)
	if err != nil {
		return 0, err
	}
	if pr, ok := res.Value.(*state.PlanResult); ok {
		for _, r := range pr.Refused {
			n.log.Info("placement refused because its premise changed", "task", r.Task, "reason", r.Reason)
		}
	}
	return res.Index, nil
}

// takeBy waits for changes, at most until the planner wants to plan again by itself.
func takeBy(ctx context.Context, sub *state.Subscription, p *scheduler.Planner, next scheduler.Next) (uint64, error) {
	if next.At.IsZero() {
		return take(ctx, sub, p, nil)
	}
	t := time.NewTimer(max(time.Until(next.At), time.Millisecond))
	defer t.Stop()
	return take(ctx, sub, p, t.C)
}

// take waits for changes or for wake and gives all that is there to the planner; 0 when woken.
func take(ctx context.Context, sub *state.Subscription, p *scheduler.Planner, wake <-chan time.Time) (uint64, error) {
	var index uint64
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-wake:
		return 0, nil
	case b, ok := <-sub.C:
		if !ok {
			return 0, sub.Err()
		}
		p.Update(b)
		index = b.Index
	}
	for {
		select {
		case b, ok := <-sub.C:
			if !ok {
				return 0, sub.Err()
			}
			p.Update(b)
			index = b.Index
		default:
			return index, nil
		}
	}
}

// holdersInterval is how often the leader looks at who should hold the log.
const holdersInterval = 500 * time.Millisecond

// keepHolders brings the raft configuration to what the cluster's size asks for, one change at a time.
func (n *Node) keepHolders(ctx context.Context) error {
	downs := anchored[job.NodeID]{n: n}
	for changed := false; changed || sleep(ctx, holdersInterval); {
		changed = false
		current, err := n.raft.Holders()
		if err != nil {
			return err
		}
		for _, c := range consensus.PlanHolders(n.candidates(&downs), current, time.Now()) {
			if err := n.changeHolders(ctx, c); err != nil {
				if ctx.Err() == nil {
					n.log.Warn("cannot change who holds the log", "change", c.Kind, "node", c.ID, "error", err)
				}
				sleep(ctx, time.Second)
				break
			}
			changed = true
			n.log.Info("changed who holds the log", "change", c.Kind, "node", c.ID, "reason", c.Reason)
			now := n.wall()
			_, _ = n.propose(ctx, state.Event{At: now, Event: job.Event{Time: now, Kind: job.EventVoters, Node: c.ID, Message: string(c.Kind) + ": " + c.Reason}}) // for people only
		}
	}
	return nil
}

func (n *Node) changeHolders(ctx context.Context, c consensus.Change) error {
	switch c.Kind {
	case consensus.ChangeAddStandby:
		return n.raft.AddStandby(ctx, c.Holder(), c.Addr)
	case consensus.ChangePromote:
		return n.raft.Promote(ctx, c.Holder())
	case consensus.ChangeDemote:
		return n.raft.Demote(ctx, c.Holder())
	case consensus.ChangeRemove:
		return n.raft.Remove(ctx, c.Holder())
	case consensus.ChangeTransfer:
		return n.raft.TransferLeadership(ctx, c.Holder())
	}
	return fmt.Errorf("unknown change %q", c.Kind)
}

// candidates are the nodes as the log and gossip know them.
func (n *Node) candidates(downs *anchored[job.NodeID]) []consensus.Candidate {
	nodes := n.state.View().Nodes()
	out := make([]consensus.Candidate, 0, len(nodes))
	for _, node := range nodes {
		m, known := n.pool.Member(string(node.ID))
		c := consensus.Candidate{
			ID: node.ID, Life: node.LogLife, Addr: node.Addr.String(), Zone: node.Labels["zone"], Voter: node.Voter,
			Alive: node.ID == n.id || node.State == job.NodeReady && known && m.State != gossip.Dead && m.State != gossip.Left,
			Left:  node.State == job.NodeLeft,
		}
		if node.State == job.NodeDown {
			c.DownSince = downs.past(node.ID, node.Since)
		}
		out = append(out, c)
	}
	return out
}
