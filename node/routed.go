package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/reconciler"
)

// Bounds of the wait between a task's leaving and its stop signal.
const (
	// routedPatience is how long other nodes may take to route around a task. One that takes longer is cut off, and who asks
	// it may be refused once.
	routedPatience = 2 * time.Second
	// maxDrainAsks bounds the nodes that are asked; a job with tasks on more gets routedPatience as a whole instead.
	maxDrainAsks = 256
	// maxRoutedWait bounds one question how far a node's routes have come.
	maxRoutedWait = 10 * time.Second
)

// mark is an index that grows, and that can be waited for.
type mark struct {
	mu sync.Mutex // guards what follows
	at uint64
	ch chan struct{} // closed when at grows; nil: nobody waits
}

func (m *mark) reach(index uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index <= m.at {
		return
	}
	m.at = index
	if m.ch != nil {
		close(m.ch)
		m.ch = nil
	}
}

// wait blocks until the mark has reached index or ctx ends, and tells where it is.
func (m *mark) wait(ctx context.Context, index uint64) uint64 {
	for {
		m.mu.Lock()
		at := m.at
		if at >= index {
			m.mu.Unlock()
			return at
		}
		if m.ch == nil {
			m.ch = make(chan struct{})
		}
		ch := m.ch
		m.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return at
		}
	}
}

// Routed waits, for a bounded time, until this node's names and routes are as the log is at index. Unavailable if they are
// not by then.
func (n *Node) Routed(ctx context.Context, index uint64) (api.Routed, error) {
	ctx, cancel := context.WithTimeout(ctx, maxRoutedWait)
	defer cancel()
	at := n.routedTo.wait(ctx, index)
	if at < index {
		return api.Routed{}, job.Errorf(job.Unavailable, "the names and routes of this node are those of index %d, not yet of %d", at, index)
	}
	return api.Routed{Index: at}, nil
}

// drainTask blocks until a task that is to end may be asked to: no name and no route leads to it any more on any node from
// which it could be reached, and who had asked for its name before has had the time to come. index is that of the log at
// which its end was wanted.
func (n *Node) drainTask(ctx context.Context, a reconciler.Assignment, index uint64) {
	linger := a.Service.Drain
	switch {
	case linger == job.NoDrain:
		linger = 0
	case linger == 0:
		linger = job.DefaultDrain
	}
	f := n.fed.Load()
	if f == nil {
		sleep(ctx, linger)
		return
	}
	if a.Service.Drain <= 0 && !servedElsewhere(f.full, &a.Task) {
		return // all of it ends: there is nobody to whom the next one could go instead
	}
	n.awaitRouted(ctx, f.full, &a.Task, index)
	sleep(ctx, min(linger, job.MaxDrain))
}

// servedElsewhere tells whether a task's service has endpoints without it.
func servedElsewhere(full *api.FeedFull, t *job.Task) bool {
	i := slices.IndexFunc(full.Services, func(s api.FeedService) bool { return s.Job == t.Job && s.Name == t.Service })
	return i >= 0 && len(full.Services[i].Endpoints) > 0
}

// awaitRouted waits until the nodes that route to a task's job have taken in that it leaves, at most for routedPatience.
func (n *Node) awaitRouted(ctx context.Context, full *api.FeedFull, t *job.Task, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, routedPatience)
	defer cancel()
	i := slices.IndexFunc(full.Assignments, func(a api.FeedAssignment) bool { return a.Task.ID == t.ID })
	if i < 0 {
		return
	}
	routers := full.Assignments[i].Routers
	if len(routers) > maxDrainAsks {
		<-ctx.Done()
		return
	}
	var asks sync.WaitGroup
	for _, peer := range full.Nodes {
		if peer.State != job.NodeReady || !slices.Contains(routers, peer.ID) {
			continue
		}
		asks.Go(func() {
			if _, err := api.NewClient(peer.Addr.String(), n.peers.transport).Routed(ctx, index); err != nil {
				n.log.Debug("a node does not say that it routes around a task", "node", peer.Name, "task", t.ID, "error", err)
			}
		})
	}
	asks.Wait()
}

// routersOf lists the nodes that may send somebody to a task of a job: those that run one of it.
func routersOf(tasks []*job.Task, ended func(job.TaskID) bool, self job.NodeID) (out []job.NodeID) {
	seen := map[job.NodeID]bool{self: true}
	for _, t := range tasks {
		if !seen[t.Node] && !ended(t.ID) {
			seen[t.Node] = true
			out = append(out, t.Node)
		}
	}
	slices.Sort(out)
	return out
}
