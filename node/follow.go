package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/reconciler"
	"shoal/runtime/network"
)

// fed is the last that this node was told, and up to which index of the log it holds.
type fed struct {
	full  *api.FeedFull
	index uint64 // 0: it was remembered from before the start
}

// leaderHint is who leads, as the feed says; a node that does not hold the log knows it only from there.
type leaderHint struct {
	id   job.NodeID
	addr string
	at   time.Time
}

// obeyRetry is the pause before the same is tried again.
const obeyRetry = time.Second

// follow keeps this node fed for as long as it runs: from its own copy of the log if it holds one, else from any node
// that does.
func (n *Node) follow(ctx context.Context) error {
	n.recall()
	for ctx.Err() == nil {
		err := n.followOnce(ctx)
		if errors.Is(err, errReplaced) {
			return err
		}
		if ctx.Err() == nil {
			n.log.Debug("feed ended", "error", err)
			sleep(ctx, 100*time.Millisecond+rand.N(200*time.Millisecond))
		}
	}
	return nil
}

func (n *Node) followOnce(ctx context.Context) error {
	if n.HasState() && !n.orphaned() {
		return n.followSelf(ctx)
	}
	err := n.followOthers(ctx)
	if n.HasState() && ctx.Err() == nil && !errors.Is(err, errReplaced) {
		return n.followSelf(ctx) // nobody hears from a leader: its own copy is as good as any
	}
	return err
}

// orphanLook is how long a log-holder without a leader goes by its own copy before it asks the others again.
const orphanLook = 5 * time.Second

// followSelf goes by this node's own copy of the log.
func (n *Node) followSelf(ctx context.Context) error {
	start := time.Now()
	return n.Feed(ctx, n.id, func(f api.FeedFrame) error {
		if !n.HasState() {
			return errors.New("this node no longer holds the log")
		}
		if n.orphaned() && time.Since(start) > orphanLook {
			return errors.New("this node does not hear from a leader: others may")
		}
		return n.take(ctx, f)
	})
}

// followOthers goes by the copies of other nodes, one after the other.
func (n *Node) followOthers(ctx context.Context) error {
	holders := n.holderAddrs()
	if len(holders) == 0 {
		return errors.New("no log-holder known")
	}
	rand.Shuffle(len(holders), func(i, j int) { holders[i], holders[j] = holders[j], holders[i] })
	var errs []error
	for _, addr := range holders {
		if err := n.followAt(ctx, addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		}
		if ctx.Err() != nil || n.HasState() && !n.orphaned() {
			return nil
		}
	}
	return errors.Join(errs...)
}

// followAt follows one log-holder until its feed breaks or falls silent.
func (n *Node) followAt(ctx context.Context, addr string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(n.patient(feedSilence), func() { cancel(fmt.Errorf("silent for %v", n.patient(feedSilence))) })
	defer silence.Stop()
	led := time.Now()
	err := api.NewClient(addr, n.peers.transport).Feed(ctx, n.id, func(f api.FeedFrame) error {
		silence.Reset(n.patient(feedSilence))
		switch {
		case f.LeaderAddr != "":
			led = time.Now()
		case n.HasState() || time.Since(led) > n.patient(feedPatience):
			return errors.New("it does not hear from a leader: others may")
		}
		if n.HasState() && !n.orphaned() {
			return errors.New("this node now holds the log itself")
		}
		return n.take(ctx, f)
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// holderAddrs are the addresses at which a feed may be had: the log-holders as last told, else everybody known.
func (n *Node) holderAddrs() []string {
	if f := n.fed.Load(); f != nil && len(f.full.Holders) > 0 {
		out := slices.Clone(f.full.Holders)
		for _, p := range n.knownPeers() { // after a long absence the holders may be others
			if !slices.Contains(out, p) && rand.N(4) == 0 {
				out = append(out, p)
			}
		}
		return out
	}
	return n.knownPeers()
}

// errReplaced ends an agent whose id another one has taken over: two that act as one node undo each other's work.
var errReplaced = job.Errorf(job.Conflict, "another machine has taken over this node's id")

// place is up to which index of the log this node's address was seen to be its own; follow's own. The zero value: not yet.
type place struct {
	seen bool
	at   uint64
}

// taken tells whether another machine has registered this node's id at another address. A frame from before this node's own
// registration says its old address, also when it comes late: a log-holder that moved and hears of nobody goes by another's
// copy of the log first, and then by its own, which may be behind.
func (p *place) taken(here bool, index uint64) bool {
	if here {
		p.seen, p.at = true, max(p.at, index)
		return false
	}
	return p.seen && index > p.at
}

// take acts on a frame. After an error the feed must be followed anew, because it sends the whole only when something
// changed; after errReplaced it must not.
func (n *Node) take(ctx context.Context, f api.FeedFrame) error {
	n.leaderHint.Store(&leaderHint{id: f.Leader, addr: f.LeaderAddr, at: time.Now()})
	if f.Full == nil {
		if last := n.fed.Load(); last != nil && last.index > 0 && last.index < f.Index {
			n.fed.Store(&fed{full: last.full, index: f.Index}) // nothing of it has changed up to there
			n.rec.Holds(f.Index)
		}
		n.routedTo.reach(f.Index)
		return nil
	}
	if n.place.taken(f.Full.Self.Addr == n.cfg.Advertise, f.Index) {
		return fmt.Errorf("%w: it is at %s now, and this is %s: the data directory %s was copied; empty it and join anew", errReplaced, f.Full.Self.Addr, n.cfg.Advertise, n.cfg.DataDir)
	}
	if err := n.obey(ctx, f.Full, f.Index); err != nil {
		if ctx.Err() == nil {
			n.log.Error("cannot do all that the cluster asks; trying again", "error", err)
		}
		sleep(ctx, obeyRetry)
		return err
	}
	return nil
}

// obey pushes down what the feed says, in the order in which the parts need each other.
func (n *Node) obey(ctx context.Context, full *api.FeedFull, index uint64) error {
	if err := n.machine.Network.Configure(ctx, full.Self.Subnet); err != nil {
		return fmt.Errorf("set up the network %v: %w", full.Self.Subnet, err)
	}
	n.fed.Store(&fed{full: full, index: index})
	n.savePeers(full)
	n.route()
	n.routedTo.reach(index)
	assignments := make([]reconciler.Assignment, 0, len(full.Assignments))
	for _, a := range full.Assignments {
		assignments = append(assignments, reconciler.Assignment{Task: a.Task, Service: a.Service})
	}
	n.rec.Set(assignments, index, true)
	return nil
}

// router pushes routes and names down, from what the feed says and what runs here.
type router struct {
	mu    sync.Mutex
	local []reconciler.Local
}

// localChanged is the reconciler's word about what runs here.
func (n *Node) localChanged(local []reconciler.Local) {
	n.router.mu.Lock()
	n.router.local = slices.Clone(local)
	n.router.mu.Unlock()
	n.route()
}

// route recomputes the whole sets and pushes them down. What the feed said is read under the lock, or who waited for that
// would push what is old after what is new.
func (n *Node) route() {
	n.router.mu.Lock()
	defer n.router.mu.Unlock()
	f := n.fed.Load()
	if f == nil {
		return
	}
	var peers []network.Peer
	for _, p := range f.full.Nodes {
		if p.Subnet.IsValid() {
			peers = append(peers, network.Peer{Node: p.Name, Address: p.Addr.Addr(), Subnet: p.Subnet})
		}
	}
	if err := n.machine.Network.SetPeers(peers); err != nil {
		n.log.Warn("cannot set all routes to other nodes", "error", err)
	}
	n.machine.Network.SetRecords(recordsOf(f.full, n.router.local))
}

// recordsOf is what DNS answers: each local container may ask about its job, and each service and task of these jobs
// has its healthy addresses.
func recordsOf(full *api.FeedFull, local []reconciler.Local) network.Records {
	r := network.Records{Scopes: map[netip.Addr]string{}}
	for _, l := range local {
		if l.Address.IsValid() {
			r.Scopes[l.Address] = l.Job
		}
	}
	for _, s := range full.Services {
		all := network.Record{Job: s.Job, Name: s.Name}
		for _, e := range s.Endpoints {
			all.Addrs = append(all.Addrs, e.Addr)
			r.Services = append(r.Services, network.Record{Job: s.Job, Name: e.Task, Addrs: []netip.Addr{e.Addr}})
		}
		r.Services = append(r.Services, all)
	}
	return r
}
