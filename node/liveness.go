package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/gossip"
	"shoal/node/api"
	"shoal/node/pki"
)

// Times of the leader's judgement.
const (
	// probeTimeout bounds one try to reach a node by TCP: several round trips on any network worth the name, and two
	// retransmissions of a lost SYN are not waited for because the next round tries again.
	probeTimeout = 500 * time.Millisecond
	// agentGrace is how long a machine that is up may be without its agent (an upgrade, a crash) before its work moves:
	// its containers run on without the agent.
	agentGrace = 30 * time.Second
	// missingGrace is how long after the start of a term a node may be unknown to gossip.
	missingGrace = 10 * time.Second
	// judgeInterval is how often the leader compares gossip with the log.
	judgeInterval = 50 * time.Millisecond
	// sweepInterval is how often each node that gossip calls alive is tried by TCP.
	sweepInterval = 3 * time.Second
	// sweepParallel bounds the tries at once, and with it the leader's cost in a large cluster.
	sweepParallel = 32
	// deafAfter is how long a node must be out of TCP's reach, though alive to gossip, to count as down.
	deafAfter = 6 * time.Second
)

// judge is the leader's decision of who is down. Gossip's word is a hint: a node is down when gossip calls it dead and
// neither the leader nor one more log-holder reaches its port. A refused connection says that the machine is up
// without an agent: its containers run, so it has agentGrace to come back.
type judge struct {
	n     *Node
	start time.Time

	mu    sync.Mutex
	cases map[job.NodeID]*inquiry
	deaf  map[job.NodeID]time.Time // since when TCP fails though gossip says alive
}

// inquiry is one node under suspicion.
type inquiry struct {
	suspectAt, deadAt time.Time // wall clock of this node's gossip; zero: not seen
	refusedSince      time.Time // monotonic
}

func (n *Node) judgeNodes(ctx context.Context) error {
	j := &judge{n: n, start: time.Now(), cases: map[job.NodeID]*inquiry{}, deaf: map[job.NodeID]time.Time{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { j.sweep(ctx) })
	for {
		for _, node := range n.state.View().Nodes() {
			switch {
			case node.ID != n.id:
				j.consider(ctx, &wg, node)
			case node.State == job.NodeDown: // its predecessor's word, and it leads: it is there
				j.open(ctx, &wg, node.ID, func(ctx context.Context, _ *inquiry) { j.up(ctx, node) })
			}
		}
		if !sleep(ctx, judgeInterval) {
			return nil
		}
	}
}

// consider opens an inquiry where gossip and log disagree.
func (j *judge) consider(ctx context.Context, wg *sync.WaitGroup, node *job.Node) {
	m, known := j.n.pool.Member(string(node.ID))
	switch {
	case node.State == job.NodeReady && known && m.State == gossip.Left:
		j.open(ctx, wg, node.ID, func(context.Context, *inquiry) { j.left(ctx, node.ID) })
	case node.State == job.NodeReady && known && (m.State == gossip.Suspect || m.State == gossip.Dead):
		j.open(ctx, wg, node.ID, j.inquire(node))
	case node.State == job.NodeReady && !known && time.Since(j.start) > j.n.patient(missingGrace):
		j.open(ctx, wg, node.ID, j.inquire(node))
	case node.State == job.NodeReady && j.isDeaf(node.ID):
		j.open(ctx, wg, node.ID, func(ctx context.Context, q *inquiry) {
			if j.n.reach(ctx, node, j.n.try) == reachNone {
				j.down(ctx, node, q, "gossip hears it, but its TCP port cannot be reached")
			}
		})
	case node.State == job.NodeDown && known && m.State == gossip.Alive:
		j.open(ctx, wg, node.ID, func(ctx context.Context, _ *inquiry) { j.maybeUp(ctx, node) })
	}
}

// open runs work for a node unless something runs for it already.
func (j *judge) open(ctx context.Context, wg *sync.WaitGroup, id job.NodeID, work func(context.Context, *inquiry)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cases[id] != nil {
		return
	}
	q := &inquiry{}
	j.cases[id] = q
	wg.Go(func() {
		work(ctx, q)
		j.mu.Lock()
		delete(j.cases, id)
		j.mu.Unlock()
	})
}

// inquire tries the node by TCP from suspicion on, so that the answer is there when gossip has made up its mind, and again
// and again meanwhile: what was so when the suspicion began says little about a network that has healed since.
func (j *judge) inquire(node *job.Node) func(context.Context, *inquiry) {
	return func(ctx context.Context, q *inquiry) {
		for {
			latest := j.n.keepReaching(ctx, node)
			verdict := j.await(ctx, node.ID, q)
			r := latest()
			switch {
			case ctx.Err() != nil || verdict == verdictAlive:
				return
			case r == reachNone:
				j.down(ctx, node, q, "gossip calls it dead and its TCP port cannot be reached")
				return
			case r == reachRefused && q.refusedSince.IsZero():
				q.refusedSince = time.Now()
				j.n.log.Info("machine is up without its agent", "node", node.Name, "grace", agentGrace)
			case r == reachRefused && time.Since(q.refusedSince) > agentGrace:
				j.down(ctx, node, q, fmt.Sprintf("its machine is up, but no agent has answered for %v", agentGrace))
				return
			case r == reachYes:
				q.refusedSince = time.Time{}
			}
			if !sleep(ctx, 250*time.Millisecond) {
				return
			}
		}
	}
}

// retryPause is between two tries.
const retryPause = 100 * time.Millisecond

// keepReaching reaches for a node again and again, until it is asked for the latest answer; it waits for the first. A try that
// is under way then does not count.
func (n *Node) keepReaching(ctx context.Context, node *job.Node) (latest func() reachability) {
	ctx, cancel := context.WithCancel(ctx)
	first, done := make(chan struct{}), make(chan struct{})
	var found reachability
	go func() {
		defer close(done)
		found = n.reach(ctx, node, n.try)
		close(first)
		for sleep(ctx, retryPause) {
			if r := n.reach(ctx, node, n.tryNow); ctx.Err() == nil {
				found = r
			}
		}
	}()
	return func() reachability {
		<-first
		cancel()
		<-done
		return found
	}
}

type verdict int

const (
	verdictDead verdict = iota
	verdictAlive
)

// await blocks until gossip has decided about a suspect.
func (j *judge) await(ctx context.Context, id job.NodeID, q *inquiry) verdict {
	for {
		m, known := j.n.pool.Member(string(id))
		switch {
		case !known:
			return verdictDead
		case m.State == gossip.Dead:
			q.deadAt = m.Since
			if at, ok := j.n.suspectAt.Load(string(id)); ok && q.suspectAt.IsZero() && at.(time.Time).Before(m.Since) {
				q.suspectAt = at.(time.Time) // this node was not leading yet
			}
			return verdictDead
		case m.State != gossip.Suspect:
			return verdictAlive
		}
		q.suspectAt = m.Since
		if !sleep(ctx, 10*time.Millisecond) {
			return verdictDead
		}
	}
}

func (j *judge) down(ctx context.Context, node *job.Node, q *inquiry, reason string) {
	if now := j.n.state.View().Node(node.ID); now == nil || now.State != job.NodeReady || now.Addr != node.Addr {
		return // it was judged, removed or moved meanwhile
	}
	cmd := state.NodeDown{Node: node.ID, Reason: reason, SuspectAt: q.suspectAt, DeadAt: q.deadAt, At: j.n.wall()}
	if _, err := j.n.propose(ctx, cmd); err != nil {
		j.n.log.Warn("cannot record that a node is down", "node", node.Name, "error", err)
		return
	}
	j.n.log.Info("node is down", "node", node.Name, "id", node.ID, "reason", reason)
}

func (j *judge) left(ctx context.Context, id job.NodeID) {
	if _, err := j.n.propose(ctx, state.NodeLeft{Node: id, Reason: "it said goodbye", At: j.n.wall()}); err != nil {
		j.n.log.Warn("cannot record that a node left", "node", id, "error", err)
	}
}

// maybeUp takes a node back that both gossip and TCP reach.
func (j *judge) maybeUp(ctx context.Context, node *job.Node) {
	if j.n.dialResult(ctx, node.Addr.String()) != reachYes {
		sleep(ctx, time.Second)
		return
	}
	j.up(ctx, node)
}

func (j *judge) up(ctx context.Context, node *job.Node) {
	if _, err := j.n.propose(ctx, state.NodeUp{Node: node.ID, At: j.n.wall()}); err != nil {
		j.n.log.Warn("cannot record that a node is up", "node", node.Name, "error", err)
		return
	}
	j.n.log.Info("node is up again", "node", node.Name, "id", node.ID)
}

func (j *judge) isDeaf(id job.NodeID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	since, ok := j.deaf[id]
	return ok && time.Since(since) > j.n.patient(deafAfter)
}

// sweep tries every node by TCP now and then: gossip calls a node alive whose packets arrive, usable or not.
func (j *judge) sweep(ctx context.Context) {
	for sleep(ctx, sweepInterval) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, sweepParallel)
		for _, node := range j.n.state.View().Nodes() {
			if node.ID == j.n.id || node.State != job.NodeReady {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				unreachable := j.n.dialResult(ctx, node.Addr.String()) == reachNone
				j.mu.Lock()
				defer j.mu.Unlock()
				if _, was := j.deaf[node.ID]; !unreachable {
					delete(j.deaf, node.ID)
				} else if !was {
					j.deaf[node.ID] = time.Now()
				}
			})
		}
		wg.Wait()
	}
}

// reachability of a node's TCP port.
type reachability int

const (
	reachNone    reachability = iota // no answer, or no route
	reachRefused                     // the machine answers, but no agent does: nothing listens, or it hangs
	reachYes
)

// tried remembers tries by TCP that found nothing, so that who is asked (or comes to lead) a moment after a suspicion
// need not wait for a try of its own. Bounded by the addresses of nodes.
type tried struct {
	mu   sync.Mutex
	none map[string]time.Time // address -> when the try began
}

// triedFresh is how long a try that found nothing speaks for the present.
const triedFresh = 2 * time.Second

// try reaches for an address, or answers from a try that a suspicion made a moment ago.
func (n *Node) try(ctx context.Context, addr string) reachability {
	n.tried.mu.Lock()
	at, ok := n.tried.none[addr]
	n.tried.mu.Unlock()
	if ok && time.Since(at) < n.patient(triedFresh) {
		return reachNone
	}
	return n.tryNow(ctx, addr)
}

func (n *Node) tryNow(ctx context.Context, addr string) reachability {
	began := time.Now()
	r := n.askAgent(ctx, addr)
	n.tried.mu.Lock()
	defer n.tried.mu.Unlock()
	delete(n.tried.none, addr)
	if r == reachNone && ctx.Err() == nil {
		if n.tried.none == nil {
			n.tried.none = map[string]time.Time{}
		}
		n.tried.none[addr] = began
	}
	return r
}

// reach asks this node, by try or tryNow, and one more log-holder at once; the better answer counts.
func (n *Node) reach(ctx context.Context, node *job.Node, try func(context.Context, string) reachability) reachability {
	second := make(chan reachability, 1)
	go func() { second <- n.reachFromAnother(ctx, node) }()
	return max(try(ctx, node.Addr.String()), <-second)
}

// reachFromAnother asks the log-holders that gossip calls alive, one after the other, until one answers. With nobody to
// ask the leader's own try must do.
func (n *Node) reachFromAnother(ctx context.Context, node *job.Node) reachability {
	holders, err := n.raft.Holders()
	if err != nil {
		return reachNone
	}
	for _, h := range holders {
		if h.ID == n.id || h.ID == node.ID {
			continue
		}
		if m, ok := n.pool.Member(string(h.ID)); !ok || m.State != gossip.Alive {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, n.patient(2*probeTimeout))
		r, err := api.NewClient(h.Addr, n.peers.transport).Probe(ctx, node.Addr.String())
		cancel()
		if err != nil {
			continue
		}
		switch {
		case r.OK:
			return reachYes
		case r.Refused:
			return reachRefused
		}
		return reachNone
	}
	return reachNone
}

// askAgent is dialResult with a handshake: the kernel of a machine whose agent hangs still accepts connections.
func (n *Node) askAgent(ctx context.Context, addr string) reachability {
	ctx, cancel := context.WithTimeout(ctx, n.patient(probeTimeout))
	defer cancel()
	raw, err := dialTries(ctx, n.cfg.Underlay, addr)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return reachRefused
	case err != nil:
		return reachNone
	}
	defer raw.Close()
	if err := tls.Client(raw, n.ident.ClientTLS(pki.ALPNHTTP1, "")).HandshakeContext(ctx); err != nil {
		return reachRefused
	}
	return reachYes
}

func (n *Node) dialResult(ctx context.Context, addr string) reachability {
	ctx, cancel := context.WithTimeout(ctx, n.patient(probeTimeout))
	defer cancel()
	conn, err := dialTries(ctx, n.cfg.Underlay, addr)
	switch {
	case err == nil:
		_ = conn.Close()
		return reachYes
	case errors.Is(err, syscall.ECONNREFUSED):
		return reachRefused
	}
	return reachNone
}

// Probe says whether this node reaches an address of the cluster by TCP.
func (n *Node) Probe(ctx context.Context, addr string) (api.ProbeResult, error) {
	if !n.knowsAddr(addr) {
		return api.ProbeResult{}, job.Errorf(job.Invalid, "probe %s: not the address of a node of this cluster", addr)
	}
	switch n.try(ctx, addr) {
	case reachYes:
		return api.ProbeResult{OK: true}, nil
	case reachRefused:
		return api.ProbeResult{Refused: true, Error: "connection refused"}, nil
	}
	return api.ProbeResult{Error: "no answer"}, nil
}
