package node

import (
	"context"
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/scheduler"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Rebalance tells which tasks had better be on other nodes, and has the planner begin to move them unless dry.
func (n *Node) Rebalance(ctx context.Context, dry bool) (api.RebalanceResult, error) {
	if dry {
		if err := n.confirmed(ctx, "rebalance"); err != nil {
			return api.RebalanceResult{}, err
		}
	}
	v := n.state.View()
	res := api.RebalanceResult{Moves: []api.Move{}}
	for _, m := range scheduler.Rebalance(v, time.Now()) {
		res.Moves = append(res.Moves, api.Move{Job: m.Job, Service: m.Service, Slot: m.Slot, From: nodeName(v, m.From), To: nodeName(v, m.To)})
	}
	res.More = len(res.Moves) >= scheduler.MaxBalanceShown
	if dry || len(res.Moves) == 0 {
		return res, nil
	}
	n.rebalance.Store(true) // before the event, which wakes the planner
	now := n.wall()
	_, err := n.propose(ctx, state.Event{At: now, Event: job.Event{Time: now, Kind: job.EventRebalance, Message: fmt.Sprintf("asked for: %d tasks had better be elsewhere", len(res.Moves))}})
	return res, err
}
