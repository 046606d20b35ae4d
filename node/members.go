package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/pki"
)

// freshContact is how recently a node must have heard from the leader to judge who is not a member.
const freshContact = 5 * time.Second

// stranger tells whether a node with a good certificate is none that this one knows of, as far as it may say so. One that
// is catching up does not know the younger nodes yet, and the leader may be one of them: so a connection for raft is also
// taken from whom it follows or has in its log's configuration, or the leader could not tell it.
func (n *Node) stranger(p pki.Peer, forRaft bool) bool {
	if !n.started.Load() || p.Kind != pki.Node || p.ID == string(n.id) {
		return false
	}
	if n.HasState() {
		known := n.state.View().Node(job.NodeID(p.ID)) != nil || forRaft && n.holds(p.ID)
		return !known && time.Since(n.raft.LastContact()) <= n.patient(freshContact)
	}
	if forRaft {
		return false
	}
	f, h := n.fed.Load(), n.leaderHint.Load()
	if f == nil || h == nil || h.addr == "" || time.Since(h.at) > n.patient(freshContact) {
		return false
	}
	return !slices.ContainsFunc(f.full.Nodes, func(o api.FeedNode) bool { return string(o.ID) == p.ID })
}

// holds tells whether a node leads this one's log or holds it, as far as is known here.
func (n *Node) holds(id string) bool {
	if leader, _ := n.raft.Leader(); string(leader) == id {
		return true
	}
	holders, err := n.raft.Holders()
	return err != nil || slices.ContainsFunc(holders, func(h consensus.Holder) bool { return string(h.ID) == id })
}

// membersFile is members on the disk: a certificate outlives its node's membership, and a restart of this node.
const membersFile = "members.json"

// removedFor is how long a removed node is remembered: for as long as it may have a certificate that is good.
const removedFor = 2 * pki.NodeValidity

// members remembers who was a member and is none any more. It is certain, unlike stranger.
type members struct {
	mu    sync.Mutex
	index uint64 // of the list below
	now   map[job.NodeID]bool
	gone  map[job.NodeID]time.Time // and since when this node knows; bounded by the removals within removedFor
}

// note takes the list as it is at index; an older one than the last, from a log-holder that lags, is not looked at. It tells
// whether anything is new.
func (m *members) note(index uint64, ids map[job.NodeID]bool, at time.Time) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index < m.index {
		return false
	}
	if m.gone == nil {
		m.gone = map[job.NodeID]time.Time{}
	}
	for id := range m.now {
		if !ids[id] {
			m.gone[id] = at
		}
	}
	news = !maps.Equal(m.now, ids)
	for id, since := range m.gone {
		if ids[id] || at.Sub(since) > removedFor {
			delete(m.gone, id)
			news = true
		}
	}
	m.index, m.now = index, ids
	return news
}

// removed tells whether a peer's certificate outlived its membership.
func (m *members) removed(p pki.Peer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, is := m.gone[job.NodeID(p.ID)]
	return p.Kind == pki.Node && is
}

// missing lists who was a member.
func (m *members) missing() []job.NodeID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.gone))
}

// membersOnDisk is what membersFile holds.
type membersOnDisk struct {
	Cluster string                   `json:"cluster"` // another one's list says nothing
	Index   uint64                   `json:"index"`
	Now     []job.NodeID             `json:"now"`
	Gone    map[job.NodeID]time.Time `json:"gone,omitempty"`
}

func (m *members) save(path, cluster string) error {
	m.mu.Lock()
	b, err := json.Marshal(membersOnDisk{cluster, m.index, slices.Sorted(maps.Keys(m.now)), m.gone})
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return writeFileAtomic(path, b)
}

// load takes in what was saved of the same cluster; a missing file is none.
func (m *members) load(path, cluster string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var d membersOnDisk
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if d.Cluster != cluster {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index, m.gone = d.Index, d.Gone
	if m.gone == nil {
		m.gone = map[job.NodeID]time.Time{}
	}
	m.now = map[job.NodeID]bool{}
	for _, id := range d.Now {
		m.now[id] = true
	}
	return nil
}

// membersInterval is how often a node looks who was removed.
const membersInterval = time.Second

// watchMembers closes the connections of nodes that were removed, from which no new ones are taken, and has gossip forget them
// once they are not here any more: it would look for them for ever.
func (n *Node) watchMembers(ctx context.Context, m *mux) error {
	unsaved := false
	for sleep(ctx, membersInterval) {
		ids, addrs := map[job.NodeID]bool{}, map[netip.Addr]bool{}
		var index uint64
		if n.HasState() {
			v := n.state.View()
			index = v.Index()
			for _, o := range v.Nodes() {
				ids[o.ID], addrs[o.Addr.Addr()] = true, true
			}
		} else if f := n.fed.Load(); f != nil && f.index > 0 {
			index = f.index
			for _, o := range f.full.Nodes {
				ids[o.ID], addrs[o.Addr.Addr()] = true, true
			}
			ids[n.id] = true
		} else {
			continue
		}
		m.members.Store(&addrs)
		if n.members.note(index, ids, n.wall()) || unsaved {
			err := n.members.save(n.path(membersFile), n.member.Cluster)
			if unsaved = err != nil; unsaved && ctx.Err() == nil {
				n.log.Warn("cannot remember who was removed", "error", err)
			}
		}
		m.evict(func(p pki.Peer, forRaft bool) bool {
			return n.members.removed(p) || !forRaft && n.stranger(p, false)
		})
		for _, id := range n.members.missing() {
			n.pool.Forget(string(id))
		}
	}
	return nil
}
