package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/gossip"
	"shoal/node/api"
	"shoal/node/pki"
	"shoal/node/reconciler"
)

// Node is one machine's part in the cluster. Its exported methods but Run answer the API.
type Node struct {
	cfg Config
	log *slog.Logger

	id    job.NodeID
	ident *pki.Identity

	memberMu sync.Mutex // guards member.Peers after the start; the rest never changes then
	member   membership

	state   *state.Store
	raft    *consensus.Log
	pool    *gossip.Pool
	peers   *peers
	machine *Machine
	rec     *reconciler.Reconciler
	router  router
	// routedTo is the index up to which the log is in the names and routes of this node.
	routedTo mark

	started    atomic.Bool                // all parts are wired: the API may be answered
	caughtUp   atomic.Pointer[uint64]     // the term in which this node leads and has applied all that was committed before; nil: in none
	fed        atomic.Pointer[fed]        // nil until the cluster has spoken
	leaderHint atomic.Pointer[leaderHint] // from the feed
	lastLeader atomic.Pointer[leaderHint] // whom leaderToAsk named last
	suspicion  atomic.Uint64              // changes when gossip's opinion of anybody does
	suspectAt  sync.Map                   // gossip id -> time.Time of the last suspicion; bounded by the members
	tried      tried
	toLeader   *http.Transport // through another node if need be
	detours    detours
	members    members
	joinTurn   chan struct{}           // of one: joins are taken one at a time
	rebalance  atomic.Bool             // an admin wants the planner to
	hashing    sync.Mutex              // held by the one who computes the hash of the state
	granter    atomic.Pointer[granter] // of leases; nil while this node does not lead
	place      place                   // of this node in the log; follow's own
	returned   chan struct{}           // closed when nothing undoes this node's last drain any more
	begun      time.Time               // when this agent was made; monotonic
}

var _ api.Backend = (*Node)(nil)

// New checks the configuration. It starts nothing and touches nothing.
func New(cfg Config) (*Node, error) {
	cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, log: cfg.Logger, state: cmp.Or(cfg.State, state.New()), joinTurn: make(chan struct{}, 1), returned: make(chan struct{}), begun: time.Now()}, nil
}

// part is something that runs until ctx ends; nil means that it was asked to stop.
type part struct {
	name string
	run  func(context.Context) error
}

// Run takes part in the cluster until ctx ends or a part fails. Containers run on when it returns.
func (n *Node) Run(ctx context.Context) error {
	unlock, err := lockDataDir(n.cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	// The port comes before the membership: who cannot be reached should not join.
	port, err := n.cfg.Underlay.Listen(n.cfg.Bind)
	if err != nil {
		return err
	}
	defer port.Close()
	if err := n.establish(ctx); err != nil {
		return err
	}
	if err := n.members.load(n.path(membersFile), n.member.Cluster); err != nil {
		n.log.Warn("who was removed before this start is not known until the cluster tells of it", "error", err)
	}
	n.ident.TrustPinned(n.pinned)
	n.ident.Distrust(n.members.removed)
	n.peers = newPeers(n.cfg.Underlay, n.ident)
	defer n.peers.transport.CloseIdleConnections()
	n.toLeader = newTransport(n.dialLeader)
	defer n.toLeader.CloseIdleConnections()
	m, err := n.openStreams(port)
	// A log that is found damaged only when some of it was taken in is not healed: nothing of it may stay.
	if damage := damagedLog(err); damage != nil && n.state.View().Index() == 0 {
		if err = n.heal(ctx, damage); err == nil {
			m, err = n.openStreams(port)
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = n.raft.Close() }() // of a start that fails below; else its Run has closed it
	if n.pool, err = n.openGossip(m); err != nil {
		return err
	}
	if n.machine, err = n.cfg.Machine(MachineConfig{Dir: n.cfg.DataDir, Pool: n.member.Pool, PullFromPeers: n.pullFromPeers, Logger: n.log}); err != nil {
		return fmt.Errorf("start the container runtime: %w", err)
	}
	if n.rec, err = n.openReconciler(); err != nil {
		return err
	}
	socket, err := listenSocket(n.cfg.Socket)
	if err != nil {
		return err
	}
	n.started.Store(true)
	ending := ctx
	ctx, stop := n.drainBeforeEnd(ctx)
	defer stop()
	// In start order; they are stopped all at once, because none of them loses anything by it.
	return n.runParts(ctx, []part{
		{"connections", m.run},
		{"log", n.raft.Run},
		{"gossip", n.runGossip},
		{"containers", n.machine.run},
		{"tasks", n.rec.Run},
		{"feed", n.follow},
		{"leases", n.renewLeases},
		{"memory", n.remember},
		{"leader's duties", func(ctx context.Context) error { return n.raft.Lead(ctx, n.patiently(n.leadOnce)) }},
		{"registration", n.register},
		{"return from a drain", func(ctx context.Context) error { return n.returnFromDrain(ctx, ending) }},
		{"members", func(ctx context.Context) error { return n.watchMembers(ctx, m) }},
		{"membership", n.watchMembership},
		{"certificate", n.keepCertificate},
		{"images", n.careForImages},
		{"game days", n.keepGames},
		{"relays", func(ctx context.Context) error { return n.serveRelays(ctx, m.relay) }},
		{"api", func(ctx context.Context) error { return n.serveAPI(ctx, m.api, socket) }},
	})
}

// State is this node's copy of what the cluster agreed on: empty on a node that does not hold the log.
func (n *Node) State() *state.Store { return n.state }

// Started tells whether Run has got so far that the API's methods may be called.
func (n *Node) Started() bool { return n.started.Load() }

// openStreams divides the port, and opens the log that takes its part of it. Nothing is accepted yet.
func (n *Node) openStreams(port net.Listener) (m *mux, err error) {
	life, err := consensus.Life(n.path(raftDir))
	if err != nil {
		return nil, err
	}
	m = newMux(port, n.ident.ServerTLS(raftProtocol(life), alpnGossip, alpnRelay, alpnAPI), n.stranger, n.log)
	m.life = life
	n.raft, err = n.openLog(m)
	return m, err
}

func (n *Node) openLog(m *mux) (*consensus.Log, error) {
	l, err := consensus.Open(consensus.Config{
		Dir: n.path(raftDir), Advertise: n.cfg.Advertise.String(), Streams: m.raft, Dial: n.peers.dialRaft, Timing: n.cfg.Raft, Logger: n.log.With("part", "raft"),
		BeforeWrite: n.cfg.BeforeLogWrite,
	}, n.state)
	if err != nil {
		return nil, err
	}
	if n.member.Founder && !l.Bootstrapped() {
		if err := l.Bootstrap(); err != nil {
			return nil, fmt.Errorf("found the cluster's log: %w", err)
		}
	}
	return l, nil
}

func (n *Node) openGossip(m *mux) (*gossip.Pool, error) {
	packets, err := n.cfg.Underlay.ListenPacket(n.cfg.Bind)
	if err != nil {
		return nil, err
	}
	return gossip.New(gossip.Config{
		ID: string(n.id), Name: n.cfg.Name, Advertise: n.cfg.Advertise, Packets: packets, Streams: m.gossip, Dial: n.peers.dialer(alpnGossip),
		Keys: n.member.GossipKeys, Label: n.member.Cluster, Timing: n.cfg.Gossip, Logger: n.log.With("part", "gossip"),
		Meta: gossip.Meta{Name: n.cfg.Name, Voter: string(n.cfg.Voter), Zone: n.cfg.Labels["zone"], API: 1},
	})
}

func (n *Node) openReconciler() (*reconciler.Reconciler, error) {
	return reconciler.New(reconciler.Config{
		Runtime: n.machine.Runtime, Node: n.id, Report: n.report, Dir: n.path("tasks"), Env: n.taskEnv, OnChange: n.localChanged, Drain: n.drainTask, Wall: n.wall, Logger: n.log.With("part", "tasks"),
	})
}

// taskEnv is what every container is told about itself.
func (n *Node) taskEnv(a reconciler.Assignment) []string {
	return append(batchEnv(a),
		"SHOAL_JOB="+a.Task.Job, "SHOAL_SERVICE="+a.Task.Service, "SHOAL_TASK="+string(a.Task.ID),
		fmt.Sprintf("SHOAL_SLOT=%d", a.Task.Slot), "SHOAL_NODE="+n.cfg.Name,
		fmt.Sprintf("SHOAL_FENCING_TOKEN=%d", a.Task.Index),
	)
}

// report carries statuses to the leader.
func (n *Node) report(ctx context.Context, statuses []job.Status) error {
	r := api.ReportRequest{Node: n.id, Statuses: statuses}
	return n.tellLeader(ctx, func(ctx context.Context, c *api.Client) error { return c.Report(ctx, r) },
		func(ctx context.Context) error { return n.Report(ctx, api.Caller{Node: n.id}, r) })
}

// runGossip finds the others again and notes when the opinion of anybody changes.
func (n *Node) runGossip(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		_, events := n.pool.Watch(ctx)
		for e := range events {
			n.suspicion.Add(1)
			if e.Kind == gossip.Suspected {
				n.suspectAt.Store(e.Member.ID, e.At)
				wg.Go(func() { n.tryNow(ctx, e.Member.Addr.String()) }) // the leader, or who comes to lead, will want to know
			}
			n.log.Debug("gossip", "event", e.Kind.String(), "node", e.Member.Name)
		}
	})
	n.pool.Rejoin(n.knownPeers)
	wg.Go(func() { // at once; the loop of Rejoin would wait a while first
		if peers := n.knownPeers(); len(peers) > 0 {
			if _, err := n.pool.Join(ctx, peers); err != nil && ctx.Err() == nil {
				n.log.Debug("gossip: nobody reached yet", "error", err)
			}
		}
	})
	return n.pool.Run(ctx)
}

// catchUp says that this node leads and knows all until ctx ends, at once and not only when the duties have ended, or until over
// is called. What ends an earlier term may run later than this, and leaves it alone.
func (n *Node) catchUp(ctx context.Context, term uint64) (over func()) {
	n.caughtUp.Store(&term)
	end := func() { n.caughtUp.CompareAndSwap(&term, nil) }
	stop := context.AfterFunc(ctx, end)
	return func() { stop(); end() }
}

func (n *Node) leadOnce(ctx context.Context, term uint64) error {
	defer n.catchUp(ctx, term)()
	if err := n.record(ctx); err != nil {
		return fmt.Errorf("record the new cluster: %w", err)
	}
	return n.lead(ctx, term)
}

const (
	registerRetry = 300 * time.Millisecond
	refusedRetry  = 30 * time.Second // of what was refused, at most
)

// register tells the cluster, once after each start, what this node is now.
func (n *Node) register(ctx context.Context) error {
	pause := registerRetry
	for {
		r := api.RegisterRequest{Node: n.self()}
		err := n.tellLeader(ctx, func(ctx context.Context, c *api.Client) error { return c.Register(ctx, r) },
			func(ctx context.Context) error { return n.Register(ctx, api.Caller{Node: n.id}, r) })
		switch k := job.KindOf(err); {
		case err == nil:
			return waitFor(ctx)
		case k == job.Conflict || k == job.Invalid:
			n.log.Error("the cluster does not take this node's new description", "error", err)
			pause = min(2*pause, refusedRetry) // somebody has to do something about it
		case ctx.Err() == nil:
			n.log.Debug("cannot register yet", "error", err)
			pause = registerRetry
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

func waitFor(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// runParts starts the parts and stops all when ctx ends or one fails; the failed one is named.
func (n *Node) runParts(ctx context.Context, parts []part) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var reason atomic.Pointer[error] // the first that a part gave
	for _, p := range parts {
		wg.Go(func() {
			err := p.run(ctx)
			over := ctx.Err() != nil
			switch {
			case err != nil && (!over || errors.Is(context.Cause(ctx), errPartEnded) && !errors.Is(err, context.Canceled)):
				err = fmt.Errorf("%s: %w", p.name, err)
				reason.CompareAndSwap(nil, &err)
				cancel(err)
			case !over:
				cancel(fmt.Errorf("%s: %w", p.name, errPartEnded))
			}
		})
	}
	<-ctx.Done()
	stopped := make(chan struct{})
	go func() { wg.Wait(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(stopTimeout):
		n.log.Warn("some parts do not stop; leaving without them", "after", stopTimeout)
	}
	if err := reason.Load(); err != nil {
		return *err
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// errPartEnded is the end of a part that did not say why. It is often another part's fault, which takes a moment longer to
// come: leading ends when the log closes, and the log says which write failed.
var errPartEnded = errors.New("it ended by itself")

// stopTimeout bounds an agent's end: a disk that hangs must not keep it.
const stopTimeout = 10 * time.Second

// run keeps the machine's parts going.
func (m *Machine) run(ctx context.Context) error {
	if m.Run == nil {
		return waitFor(ctx)
	}
	return m.Run(ctx)
}

// lockPatience is how long an agent waits for another one to let go of the data directory.
const lockPatience = 3 * time.Second

// lockDataDir makes the data directory, for root's eyes alone also where somebody else made it, and keeps a second agent out
// of it.
func lockDataDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(dir+"/lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	// An agent that was killed while it forked lives on in its child until that executes something: a moment.
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, job.Errorf(job.Conflict, "another agent works in %s (%w): stop it, or give this one another --data-dir", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// Debug collects what the parts say of themselves.
func (n *Node) Debug(context.Context) (any, error) {
	var mem goruntime.MemStats
	goruntime.ReadMemStats(&mem)
	return map[string]any{
		"node":       n.id,
		"raft":       n.raft.Describe(),
		"gossip":     n.pool.Describe(),
		"tasks":      n.rec.Local(),
		"index":      n.state.View().Index(),
		"stateHash":  fmt.Sprintf("%x", n.state.View().Hash()),
		"goroutines": goruntime.NumGoroutine(),
		"heapBytes":  mem.HeapAlloc,
	}, nil
}
