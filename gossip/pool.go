package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// ErrStopped is returned by calls on a pool that has stopped or not yet started, and would need it running.
var ErrStopped = errors.New("gossip pool is not running")

// Pool is this node's membership in the cluster's gossip. All methods are safe for concurrent use.
type Pool struct {
	cfg   Config
	log   *slog.Logger
	keys  *keyring
	trans *transport
	dirty chan struct{} // holds one token when a callback has changed the table
	ready chan struct{} // closed when memberlist runs
	done  chan struct{} // closed when Run ends
	ran   atomic.Bool
	wg    sync.WaitGroup // joins under way

	conflicts atomic.Uint64

	// lifeMu is held, shared, around every call into memberlist that must not meet its shutdown.
	lifeMu sync.RWMutex
	list   *memberlist.Memberlist // nil before Run and after it

	// mu guards what follows. memberlist calls back with its node lock held, so nothing calls memberlist under mu.
	mu       sync.Mutex
	meta     Meta
	members  map[string]*record
	watchers map[*watcher]struct{}
	known    func() []string // set by Rejoin
	left     bool            // Leave was called: do not rejoin
}

// record is a member and what is still to be found out about it.
type record struct {
	member Member
	// told is the member as watchers last heard of it; its zero State means that they have not.
	told Member
	// stale is set by callbacks: memberlist has news of its state.
	stale bool
}

// New checks cfg and wires a pool. Nothing runs, and nothing is read from the sockets, before Run. On an error the
// sockets stay the caller's.
func New(cfg Config) (*Pool, error) {
	cfg.Timing = cfg.Timing.orDefault()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Meta.Name == "" {
		cfg.Meta.Name = cfg.Name
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if _, err := cfg.Meta.encode(); err != nil {
		return nil, err
	}
	keys, err := newKeyring(cfg.Keys)
	if err != nil {
		return nil, err
	}
	return &Pool{
		cfg:      cfg,
		log:      cfg.Logger,
		keys:     keys,
		trans:    newTransport(&cfg),
		dirty:    make(chan struct{}, 1),
		ready:    make(chan struct{}),
		done:     make(chan struct{}),
		meta:     cfg.Meta,
		members:  make(map[string]*record),
		watchers: make(map[*watcher]struct{}),
	}, nil
}

// Run takes part in the gossip until ctx ends, then closes the sockets and returns nil. It does not say goodbye: to
// peers a stopped node is one that died, unless Leave was called before. A pool runs once.
func (p *Pool) Run(ctx context.Context) error {
	if !p.ran.CompareAndSwap(false, true) {
		return errors.New("gossip: this pool has run already: make a new one")
	}
	defer close(p.done)
	conf := p.cfg.memberlist(p.keys.ring)
	conf.Transport = p.trans
	hooks := (*hooks)(p)
	conf.Delegate, conf.Events, conf.Conflict = hooks, hooks, hooks
	p.trans.start()
	list, err := memberlist.Create(conf)
	if err != nil {
		_ = p.trans.Shutdown()
		return fmt.Errorf("start gossip as %s at %v: %w", p.cfg.ID, p.cfg.Advertise, err)
	}
	p.lifeMu.Lock()
	p.list = list
	p.lifeMu.Unlock()
	close(p.ready)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.wg.Go(func() { p.watchStates(ctx) })
	p.wg.Go(func() { p.rejoinLoop(ctx) })
	<-ctx.Done()

	// Dials end with the transport, so that the joins under way do too; only then may nobody call memberlist any more.
	p.lifeMu.Lock() // so that no spawn is between its check and its start
	p.trans.cancel()
	p.lifeMu.Unlock()
	p.wg.Wait()
	p.lifeMu.Lock()
	p.list = nil
	p.lifeMu.Unlock()
	if err := list.Shutdown(); err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}

// Members returns all members sorted by ID, the dead and the left ones too until Forget. This node is one of them. It
// is empty before Run.
func (p *Pool) Members() []Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.membersLocked()
}

func (p *Pool) membersLocked() []Member {
	out := make([]Member, 0, len(p.members))
	for _, r := range p.members {
		if r.told.State != 0 {
			out = append(out, r.told)
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Member returns one member.
func (p *Pool) Member(id string) (Member, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.members[id]
	if !ok || r.told.State == 0 {
		return Member{}, false
	}
	return r.told, true
}

// Forget drops a dead or left member from Members. It returns false for one that is here or unknown. If the member
// comes back, it joins anew.
func (p *Pool) Forget(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.members[id]
	if !ok || r.stale || r.told.State.here() {
		return false
	}
	delete(p.members, id)
	return true
}

// UpdateMeta tells all members this node's new metadata. It does not wait until they know.
func (p *Pool) UpdateMeta(m Meta) error {
	if m.Name == "" {
		m.Name = p.cfg.Name
	}
	if _, err := m.encode(); err != nil {
		return err
	}
	p.mu.Lock()
	p.meta = m
	p.mu.Unlock()

	p.lifeMu.RLock()
	defer p.lifeMu.RUnlock()
	if p.list == nil {
		return nil // Run announces it
	}
	// The only error is that the broadcast is not through yet, and it stays queued.
	_ = p.list.UpdateNode(time.Millisecond)
	return nil
}

// Leave says goodbye, so that the others see this node as left, not dead, and waits until that was sent or timeout has
// passed. Run goes on until its context ends, but no longer rejoins. Afterwards only a new pool can come back.
func (p *Pool) Leave(timeout time.Duration) error {
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()

	p.lifeMu.RLock()
	defer p.lifeMu.RUnlock()
	if p.list == nil {
		return fmt.Errorf("leave: %w", ErrStopped)
	}
	if err := p.list.Leave(timeout); err != nil {
		return fmt.Errorf("leave the gossip pool: goodbye not sent within %v, the others will see this node die: %w", timeout, err)
	}
	return nil
}

// Description is what Describe returns.
type Description struct {
	ID        string         `json:"id"`
	Label     string         `json:"label"`
	Advertise netip.AddrPort `json:"advertise"`
	Running   bool           `json:"running"`
	// Health is 0 when this node keeps up with its own probes, up to 7 when it does not; it probes more slowly then.
	Health         int            `json:"health"`
	States         map[string]int `json:"states"`
	Keys           int            `json:"keys"`
	Conflicts      uint64         `json:"conflicts"`
	PacketsDropped uint64         `json:"packets_dropped"`
	StreamsRefused uint64         `json:"streams_refused"`
	StreamsOpen    int            `json:"streams_open"`
}

// Describe returns a Description for people who debug.
func (p *Pool) Describe() any {
	d := Description{
		ID: p.cfg.ID, Label: p.cfg.Label, Advertise: p.cfg.Advertise,
		States: map[string]int{}, Keys: len(p.Keys()), Conflicts: p.conflicts.Load(),
		PacketsDropped: p.trans.packetsDropped.Load(), StreamsRefused: p.trans.streamsRefused.Load(),
		StreamsOpen: len(p.trans.slots),
	}
	for _, m := range p.Members() {
		d.States[m.State.String()]++
	}
	p.lifeMu.RLock()
	defer p.lifeMu.RUnlock()
	if p.list != nil {
		d.Running, d.Health = true, p.list.GetHealthScore()
	}
	return d
}

// hooks are memberlist's callbacks, apart from Pool so that they are not part of its API. All are called with
// memberlist's node lock held or from its packet loop: they copy, mark and return.
type hooks Pool

var (
	_ memberlist.Delegate         = (*hooks)(nil)
	_ memberlist.EventDelegate    = (*hooks)(nil)
	_ memberlist.ConflictDelegate = (*hooks)(nil)
)

// NodeMeta returns this node's metadata, which was checked to fit.
func (h *hooks) NodeMeta(int) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := h.meta.encode()
	if err != nil {
		panic(fmt.Sprintf("gossip: metadata %+v was accepted but does not encode: %v", h.meta, err))
	}
	return b
}

// NotifyMsg ignores messages of other programs: the pool carries none.
func (h *hooks) NotifyMsg([]byte) {}

// GetBroadcasts has nothing to add.
func (h *hooks) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState has nothing to add.
func (h *hooks) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores what newer versions may add.
func (h *hooks) MergeRemoteState([]byte, bool) {}

// NotifyJoin notes a new member or one that came back.
func (h *hooks) NotifyJoin(n *memberlist.Node) { h.note(n) }

// NotifyLeave notes that a member is dead or left; which of them, only memberlist's state tells.
func (h *hooks) NotifyLeave(n *memberlist.Node) { h.note(n) }

// NotifyUpdate notes new metadata.
func (h *hooks) NotifyUpdate(n *memberlist.Node) { h.note(n) }

func (h *hooks) note(n *memberlist.Node) {
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		h.log.Warn("gossip: member's metadata is unreadable", "node", n.Name, "err", err)
	}
	addr, _ := netip.AddrFromSlice(n.Addr)
	h.mu.Lock()
	r := h.members[n.Name]
	if r == nil {
		r = &record{member: Member{ID: n.Name}}
		h.members[n.Name] = r
	}
	r.member.Name, r.member.Meta = meta.Name, meta
	r.member.Addr = netip.AddrPortFrom(addr.Unmap(), n.Port)
	r.stale = true
	h.mu.Unlock()
	select {
	case h.dirty <- struct{}{}:
	default:
	}
}

// NotifyConflict counts and logs that two nodes claim one ID. The one that was here first keeps it.
func (h *hooks) NotifyConflict(existing, other *memberlist.Node) {
	n := h.conflicts.Add(1)
	level := slog.LevelDebug
	if n&(n-1) == 0 { // 1st, 2nd, 4th, ...: it repeats for as long as it lasts
		level = slog.LevelWarn
	}
	h.log.Log(context.Background(), level, "gossip: two nodes claim the same id: a data directory was copied, or the node's address changed too quickly",
		"node", existing.Name, "at", net.JoinHostPort(existing.Addr.String(), fmt.Sprint(existing.Port)),
		"claimed_from", net.JoinHostPort(other.Addr.String(), fmt.Sprint(other.Port)), "times", n)
}
