package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Leases of fenced tasks, on the leader's side: grants, and the judgement that all of a task have ended. DESIGN.md,
// "Leases", says why two containers can never run in one fenced slot.
const (
	// fenceInterval is how often the leader looks whether leases on lost nodes have ended.
	fenceInterval = 100 * time.Millisecond
	// fenceSlack is what the leader waits beyond a lease: for the kernel to kill (measured: 6 ms; 322 ms before the project
	// began, on a loaded machine), and for clocks that do not run equally fast (a twentieth is a hundred times what
	// crystals differ by).
	fenceSlack = time.Second
)

// fencedFor is how long after the last grant a task's container may still live.
func fencedFor(lease time.Duration) time.Duration { return lease + lease/20 + fenceSlack }

// granter remembers the grants of one term. Times are this machine's monotonic clock. A leader that was suspended thinks
// that less time has passed, and waits too long, never too short.
type granter struct {
	start time.Time // nothing that another leader granted began later than this

	mu   sync.Mutex
	last map[job.TaskID]time.Time // when the last request that was granted came in, or later
}

func newGranter() *granter { return &granter{start: time.Now(), last: map[job.TaskID]time.Time{}} }

// note puts down that tasks are about to be granted a lease. It comes before the last look at the state, so that whoever
// sees a node down in the state sees every grant that was made while it was ready.
func (g *granter) note(tasks []job.TaskID) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range tasks {
		g.last[id] = now
	}
}

// ended tells when every lease of a task that may have been granted has surely ended.
func (g *granter) ended(t *job.Task) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.start
	if last, ok := g.last[t.ID]; ok && last.After(at) {
		at = last
	}
	return at.Add(fencedFor(t.Lease))
}

// forget drops grants of tasks that are no more. It looks when nothing can be noted any more: what is noted is in the state
// before, so a task that is not there then has ended, and is not one that was placed since an older look.
func (g *granter) forget(view func() *state.View) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := view()
	for id := range g.last {
		if st := v.Status(id); v.Task(id) == nil || st != nil && st.State.Terminal() {
			delete(g.last, id)
		}
	}
}

// Lease grants leases to the tasks of the node that asks. It answers only after a quorum has confirmed that this node still
// leads.
func (n *Node) Lease(ctx context.Context, c api.Caller, r api.LeaseRequest) (api.LeaseResponse, error) {
	g := n.granter.Load()
	switch {
	case g == nil:
		return api.LeaseResponse{}, job.Errorf(job.Unavailable, "lease: this node does not lead")
	case len(r.Tasks) > api.MaxLeases:
		return api.LeaseResponse{}, job.Errorf(job.Invalid, "lease: %d tasks, at most %d of one node can be fenced", len(r.Tasks), api.MaxLeases)
	}
	if before := judgeLeases(n.state.View(), c.Node, r.Tasks); len(before.Granted) == 0 {
		return before, nil
	} else {
		g.note(before.Granted)
		r.Tasks = before.Granted
	}
	if err := n.raft.VerifyLeader(ctx); err != nil {
		return api.LeaseResponse{}, err
	}
	if n.granter.Load() != g {
		return api.LeaseResponse{}, job.Errorf(job.Unavailable, "lease: another term began meanwhile")
	}
	return judgeLeases(n.state.View(), c.Node, r.Tasks), nil
}

// judgeLeases tells which tasks of a node may run.
func judgeLeases(v *state.View, id job.NodeID, tasks []job.TaskID) (r api.LeaseResponse) {
	r.Refused = map[job.TaskID]string{}
	node := v.Node(id)
	for _, t := range tasks {
		if why := refuseLease(node, v.Task(t), v.Status(t)); why != "" {
			r.Refused[t] = why
			continue
		}
		r.Granted = append(r.Granted, t)
	}
	return r
}

func refuseLease(node *job.Node, t *job.Task, st *job.Status) string {
	switch {
	case node == nil:
		return "the node is not a member"
	case node.State != job.NodeReady:
		return fmt.Sprintf("node %s is %s", node.Name, node.State)
	case t == nil || t.Node != node.ID:
		return "it is no task of this node"
	case t.Failover != job.FailoverFenced:
		return "it is not fenced"
	case t.Desired == job.DesiredLost:
		return "it was given up"
	case st != nil && st.State.Terminal():
		return "it has ended"
	}
	return ""
}

// fence releases the fenced tasks of lost nodes once all their leases have ended.
func (n *Node) fence(ctx context.Context, g *granter) error {
	for i := 0; sleep(ctx, fenceInterval); i++ {
		if i%600 == 0 {
			g.forget(n.state.View)
		}
		v := n.state.View()
		for _, node := range v.Nodes() {
			if node.State == job.NodeReady {
				continue
			}
			var due []job.TaskID
			for _, t := range heldTasks(v, v.TasksOfNode(node.ID)) {
				if t.Failover == job.FailoverFenced && !time.Now().Before(g.ended(t)) && len(due) < state.MaxRelease {
					due = append(due, t.ID)
				}
			}
			if len(due) == 0 {
				continue
			}
			_, err := n.propose(ctx, state.Release{Node: node.ID, Since: node.Since, Tasks: due, Reason: "every lease that it may have had has ended", At: n.wall()})
			if err != nil && ctx.Err() == nil {
				n.log.Warn("cannot release fenced tasks of a lost node", "node", node.Name, "error", err)
				sleep(ctx, planRetry)
			}
		}
	}
	return nil
}

// heldTasks picks those that may not be given up yet.
func heldTasks(v *state.View, tasks []*job.Task) (out []*job.Task) {
	for _, t := range tasks {
		st := v.Status(t.ID)
		if node := v.Node(t.Node); t.Held() && node != nil && node.State != job.NodeReady && (st == nil || !st.State.Terminal()) {
			out = append(out, t)
		}
	}
	return out
}

// Failover releases the held tasks of a job's lost nodes because an admin says so.
func (n *Node) Failover(ctx context.Context, name string, r api.FailoverRequest) (api.FailoverResult, error) {
	v := n.state.View()
	j := v.Job(name)
	switch {
	case j == nil:
		return api.FailoverResult{}, noSuchJob(name)
	case r.Service != "" && j.Spec.Service(r.Service) == nil:
		return api.FailoverResult{}, job.Errorf(job.NotFound, "job %s has no service %q; `shoal ps %s` lists them", name, r.Service, name)
	}
	out := api.FailoverResult{Released: []api.HeldTask{}}
	byNode := map[job.NodeID][]job.TaskID{}
	for _, t := range heldTasks(v, v.TasksOfJob(name)) {
		if r.Service != "" && t.Service != r.Service {
			continue
		}
		h := api.HeldTask{Task: t.ID, Name: t.Name(), Node: v.Node(t.Node).Name}
		if t.Failover == job.FailoverFenced && !r.Force {
			h.Reason = fmt.Sprintf("its lease ends within %v, and then it is placed anew by itself; --force does not wait", fencedFor(t.Lease))
			out.Kept = append(out.Kept, h)
			continue
		}
		byNode[t.Node] = append(byNode[t.Node], t.ID)
		out.Released = append(out.Released, h)
	}
	for id, tasks := range byNode {
		if _, err := n.propose(ctx, state.Release{Node: id, Since: v.Node(id).Since, Tasks: tasks, Reason: "an admin said so", At: n.wall()}); err != nil {
			return api.FailoverResult{}, err
		}
	}
	return out, nil
}
