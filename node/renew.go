package node

import (
	"context"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/reconciler"
)

// Renewal of leases, on the node's side.
const (
	// renewFraction of the shortest lease is the time between two renewals: several may be lost before one is missed.
	renewFraction = 5
	maxRenewal    = 2 * time.Second // between two renewals, so that a long lease does not make a long fail-over
	renewRetry    = 200 * time.Millisecond
	renewPatience = 2 * time.Second // of one request, at most
)

// renewLeases asks for the leader's word on fenced tasks, for as long as there are any. A grant counts from the moment
// at which it was asked for, on the boot clock.
func (n *Node) renewLeases(ctx context.Context) error {
	for ctx.Err() == nil {
		leased := n.rec.Leased()
		pause := maxRenewal
		if len(leased) > 0 {
			for _, l := range leased {
				pause = min(pause, l.Lease/renewFraction)
			}
			if err := n.renewOnce(ctx, leased); err != nil {
				n.log.Debug("no lease", "error", err)
				pause = renewRetry
			}
		}
		select {
		case <-time.After(pause):
		case <-n.rec.LeaseWanted():
		case <-ctx.Done():
		}
	}
	return nil
}

// patienceForRenewal is how long one request may take: so little of the shortest lease that after one which hangs, at a leader
// that was frozen or cut off, there is time for several at the next leader.
func patienceForRenewal(leased []reconciler.Leased) time.Duration {
	patience := renewPatience
	for _, l := range leased {
		patience = min(patience, l.Lease/renewFraction)
	}
	return patience
}

func (n *Node) renewOnce(ctx context.Context, leased []reconciler.Leased) error {
	r := api.LeaseRequest{}
	length := map[job.TaskID]time.Duration{}
	for _, l := range leased[:min(len(leased), api.MaxLeases)] {
		r.Tasks = append(r.Tasks, l.Task)
		length[l.Task] = l.Lease
	}
	ctx, cancel := context.WithTimeout(ctx, patienceForRenewal(leased))
	defer cancel()
	asked := n.machine.Runtime.Boot()
	res, err := atLeader(ctx, n, func(c *api.Client) (api.LeaseResponse, error) { return c.Lease(ctx, r) },
		func() (api.LeaseResponse, error) { return n.Lease(ctx, api.Caller{Node: n.id}, r) })
	if err != nil {
		return err
	}
	until := map[job.TaskID]time.Duration{}
	for _, id := range res.Granted {
		if d, wanted := length[id]; wanted {
			until[id] = asked + d
		}
	}
	n.rec.Granted(ctx, until)
	for id, why := range res.Refused {
		n.log.Debug("lease refused", "task", id, "reason", why)
	}
	return nil
}
