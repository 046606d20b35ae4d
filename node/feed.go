package node

import (
	"context"
	"encoding/json"
	"hash/maphash"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/gossip"
	"shoal/node/api"
)

// Times and bounds of feeds.
const (
	// feedHeartbeat is how often a feed without news says that it lives, and looks for a new leader or suspect.
	feedHeartbeat = 250 * time.Millisecond
	// feedSilence is how long a follower waits for any frame: six heartbeats, and about as long as it takes to find a
	// machine dead, because the one that fed it may be the one that was lost (measured: with 3 s the tasks of one in
	// sixteen lost leaders began 1.8 s late).
	feedSilence = 1500 * time.Millisecond
	// feedPatience is how long a follower stays with a log-holder that hears from no leader.
	feedPatience = 3 * time.Second
	// feedPause lets changes that come close together travel in one frame; the first of them never waits.
	feedPause  = 10 * time.Millisecond
	feedBuffer = 1024
)

var feedSeed = maphash.MakeSeed()

// Feed sends node what it needs to know, now and whenever any of it changes, until ctx ends.
func (n *Node) Feed(ctx context.Context, node job.NodeID, emit func(api.FeedFrame) error) error {
	for {
		err := n.feedOnce(ctx, node, emit)
		if err != errFeedBehind || ctx.Err() != nil {
			return err
		}
	}
}

var errFeedBehind = job.Errorf(job.Unavailable, "feed fell behind")

func (n *Node) feedOnce(ctx context.Context, node job.NodeID, emit func(api.FeedFrame) error) error {
	if !n.HasState() {
		return job.Errorf(job.Unavailable, "this node does not hold the log")
	}
	view, sub := n.state.Subscribe(feedBuffer)
	defer sub.Close()
	tick := time.NewTicker(n.patient(feedHeartbeat))
	defer tick.Stop()
	var last uint64
	w := &concern{n: n, sub: sub, tick: tick.C, suspicion: n.suspicion.Load(), at: view.Index()}
	concerned := true
	for {
		frame := api.FeedFrame{Index: w.at}
		if concerned {
			full, err := n.buildFeed(view, node)
			if err != nil {
				return err
			}
			if sum := feedSum(full); sum != last {
				last, frame.Full = sum, full
			}
			frame.Index = view.Index()
		}
		frame.LeaderAddr, frame.Leader = n.raftLeader() // not from a feed of its own, or an old word would go round for ever
		if err := emit(frame); err != nil {
			return err
		}
		var err error
		if concerned, err = w.await(ctx); err != nil {
			return err
		}
		if !concerned {
			if concerned, err = w.unread(); err != nil {
				return err
			}
		}
		view = n.state.View()
	}
}

// concern waits for whatever may change a feed.
type concern struct {
	n         *Node
	sub       *state.Subscription
	tick      <-chan time.Time
	ticks     int
	suspicion uint64
	// at is how far the changes were looked at: a heartbeat says no more, because a view may hold what is yet to be read here.
	at uint64
}

// feedRebuild is after how many heartbeats a feed is built anew without a reason that it could see, such as a change of
// the log-holders.
const feedRebuild = 20

// await blocks until something changed that may concern a feed (true), or until the next heartbeat.
func (c *concern) await(ctx context.Context) (bool, error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-c.tick:
			c.ticks++
			before := c.suspicion
			c.suspicion = c.n.suspicion.Load()
			return before != c.suspicion || c.ticks%feedRebuild == 0, nil
		case b, ok := <-c.sub.C:
			if !ok {
				return false, errFeedBehind
			}
			c.at = b.Index
			if !concerns(b) {
				continue
			}
			sleep(ctx, feedPause)
			_, err := c.unread()
			return true, err
		}
	}
}

// unread takes what waits to be read and tells whether it may concern a feed.
func (c *concern) unread() (bool, error) {
	concerned := false
	for {
		select {
		case b, ok := <-c.sub.C:
			if !ok {
				return false, errFeedBehind
			}
			c.at = b.Index
			concerned = concerned || concerns(b)
		default:
			return concerned, nil
		}
	}
}

// concerns tells whether a batch can change any feed. Events and tokens cannot.
func concerns(b state.Batch) bool {
	return slices.ContainsFunc(b.Changes, func(c state.Change) bool {
		return c.Table == state.TableTasks || c.Table == state.TableStatuses || c.Table == state.TableNodes || c.Table == state.TableCluster
	})
}

// feedSum tells two feeds apart. It is only compared within one process.
func feedSum(full *api.FeedFull) uint64 {
	b, err := json.Marshal(full)
	if err != nil {
		return 0
	}
	return maphash.Bytes(feedSeed, b)
}

// buildFeed collects what one node needs to know: its tasks, the other nodes, and the endpoints of its tasks' jobs.
func (n *Node) buildFeed(v *state.View, id job.NodeID) (*api.FeedFull, error) {
	self, cluster := v.Node(id), v.Cluster()
	if self == nil || cluster == nil {
		if cluster == nil || v.Index() == 0 {
			return nil, job.Errorf(job.Unavailable, "this node has not caught up with the log yet")
		}
		return nil, job.Errorf(job.NotFound, "node %s is not a member of this cluster: it was removed; empty its data directory and join anew", id)
	}
	full := &api.FeedFull{Pool: cluster.Pool, Self: *self, Assignments: []api.FeedAssignment{}, Nodes: []api.FeedNode{}}
	jobs := map[string]bool{}
	for _, t := range v.TasksOfNode(id) {
		st := v.Status(t.ID)
		if s := v.Service(t.Digest); s != nil && !(st != nil && st.State.Terminal() && t.Desired != job.DesiredRun) {
			a := api.FeedAssignment{Task: *t, Service: *s}
			if t.Desired == job.DesiredStop && st != nil && !st.State.Terminal() {
				a.Routers = routersOf(v.TasksOfJob(t.Job), func(o job.TaskID) bool { st := v.Status(o); return st != nil && st.State.Terminal() }, id)
			}
			full.Assignments = append(full.Assignments, a)
			jobs[t.Job] = true
		}
	}
	for _, node := range v.Nodes() {
		if node.ID != id {
			full.Nodes = append(full.Nodes, api.FeedNode{ID: node.ID, Name: node.Name, Addr: node.Addr, Subnet: node.Subnet, State: node.State, KeyPin: node.KeyPin})
		}
	}
	for name := range jobs {
		full.Services = append(full.Services, n.endpoints(v, name)...)
	}
	slices.SortFunc(full.Services, func(a, b api.FeedService) int {
		return slices.Compare([]string{a.Job, a.Name}, []string{b.Job, b.Name})
	})
	if holders, err := n.raft.Holders(); err == nil {
		for _, h := range holders {
			full.Holders = append(full.Holders, h.Addr)
		}
	}
	return full, nil
}

// endpoints lists the tasks of a job that serve. A suspect's leave at once, before anything is decided about it.
func (n *Node) endpoints(v *state.View, jobName string) []api.FeedService {
	byName := map[string]*api.FeedService{}
	if j := v.Job(jobName); j != nil {
		for _, s := range j.Spec.Services {
			byName[s.Name] = &api.FeedService{Job: jobName, Name: s.Name}
		}
	}
	for _, t := range v.TasksOfJob(jobName) {
		st, s := v.Status(t.ID), byName[t.Service]
		if s == nil || t.Desired != job.DesiredRun || !st.Ready() || !st.Address.IsValid() || !n.routable(v.Node(t.Node)) {
			continue
		}
		s.Endpoints = append(s.Endpoints, api.FeedEndpoint{Task: viewTask(v, t).Name, Node: t.Node, Addr: st.Address})
	}
	out := make([]api.FeedService, 0, len(byName))
	for _, s := range byName {
		out = append(out, *s)
	}
	return out
}

// routable tells whether traffic may go to a node: ready, and not under gossip's suspicion.
func (n *Node) routable(node *job.Node) bool {
	if node == nil || node.State != job.NodeReady {
		return false
	}
	if node.ID == n.id {
		return true
	}
	m, known := n.pool.Member(string(node.ID))
	return !known || m.State == gossip.Alive
}
