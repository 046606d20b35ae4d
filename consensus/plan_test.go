package consensus

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

var planNow = time.Unix(1_000_000, 0)

// parsePlan reads a cluster in short: each word is a node, "a" with flags after a colon.
// L leader, V voter, S standby, d dead for long, b dead for a blink, x left, n may not vote, r removed, 1..9 its zone.
func parsePlan(s string) (nodes []Candidate, holders []Holder) {
	for _, w := range strings.Fields(s) {
		name, flags, _ := strings.Cut(w, ":")
		c := Candidate{ID: job.NodeID(name), Addr: name + ":6174", Alive: true}
		removed := false
		for _, f := range flags {
			switch f {
			case 'L', 'V', 'S':
				holders = append(holders, Holder{ID: c.ID, Addr: c.Addr, Voter: f != 'S', Leader: f == 'L'})
			case 'd':
				c.Alive, c.DownSince = false, planNow.Add(-DeadVoterGrace)
			case 'b':
				c.Alive, c.DownSince = false, planNow.Add(-DeadVoterGrace+time.Second)
			case 'x':
				c.Left, c.Alive = true, false
			case 'n':
				c.Voter = job.VoterNever
			case 'r':
				removed = true
			default:
				c.Zone = string(f)
			}
		}
		if !removed {
			nodes = append(nodes, c)
		}
	}
	return nodes, holders
}

func TestPlanHoldersNextStep(t *testing.T) {
	for _, tc := range []struct{ name, cluster, want string }{
		{"a lone node is enough", "a:L", ""},
		{"two nodes: one voter, one standby", "a:L b", "add-standby b"},
		{"two nodes, settled", "a:L b:S", ""},
		{"three nodes: first two standbys", "a:L b:S c", "add-standby c"},
		{"three nodes: then votes", "a:L b:S c:S", "promote b"},
		{"never two voters when the third is dead", "a:L b:S c:d", ""},
		{"three nodes: the last vote", "a:L b:V c:S", "promote c"},
		{"three nodes, settled", "a:L b:V c:V", ""},
		{"six nodes keep three voters", "a:L b:V c:V d:S e:S f", ""},
		{"seven nodes want five", "a:L b:V c:V d:S e:S f g", "promote d"},
		{"a blink moves nothing", "a:L b:V c:Vb d:S", ""},
		{"a dead voter is replaced", "a:L b:V c:Vd d:S", "promote d"},
		{"then loses its vote", "a:L b:V c:Vd d:V", "remove c"},
		{"a dead voter stays when nobody can replace it", "a:L b:V c:Vd", ""},
		{"a dead standby cannot replace it", "a:L b:V c:Vd d:Sd", "remove d"},
		{"a voter that left is replaced", "a:L b:V c:Vx d:S e", "promote d"},
		{"one of two that leaves", "a:L b:Vx", ""},
		{"one of three leaves: it goes", "a:L b:V c:Vx", "remove c"},
		{"then one voter is better than two", "a:L b:V c:x", "demote b"},
		{"a removed node loses its vote", "a:L b:V c:V d:Vr", "remove d"},
		{"who may not vote is never asked", "a:L b:n c:n", ""},
		{"the only vote moves when its node may have it no longer", "a:Ln b:S", "promote b"},
		{"or was removed", "a:Lr b:S", "promote b"},
		{"to one that is there", "a:Ln b:Sb", ""},
		{"by way of leadership", "a:Ln b:V", "transfer-leadership b"},
		{"and then it is gone", "a:Vn b:L", "remove a"},
		{"the only vote stays with a dead node's place empty", "a:L b:S c:d", ""},
		{"and of three it moves to two", "a:Ln b:S c:d d:d", ""},
		{"who may no longer vote loses it", "a:L b:V c:Vn d:S e", "promote d"},
		{"the leader hands over first", "a:Ln b:V c:V d:V", "transfer-leadership b"},
		{"to a live voter", "a:Ln b:Vb c:V d:V", "transfer-leadership c"},
		{"no quorum, no plan", "a:L b:Vd c:Vd d:S e:S", ""},
		{"seven became six: a spare voter steps back", "a:L b:V c:V d:V e:V f", "demote b"},
		{"one that does not answer first, and it may come back", "a:L b:V c:V d:V e:Vb f", "demote e"},
		{"standbys from another zone", "a:L1 b:V1 c:V1 d:1 e:2", "add-standby e"},
		{"a vote for another zone", "a:L1 b:V1 c:V1 d:S1 e:S2", "promote e"},
		{"taken from the fullest zone", "a:L1 b:V1 c:V1 d:S1 e:V2", "demote b"},
		{"spread, settled", "a:L1 b:S1 c:V1 d:S1 e:V2", ""},
		{"an empty zone without a standby", "a:L1 b:V1 c:V1 d:S1 e:S1 f:2", "add-standby f"},
		{"too many standbys", "a:L b:S c:S d:S", "promote b"},
		{"too many standbys beside enough voters", "a:L b:V c:V d:S e:S f:S", "remove d"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nodes, holders := parsePlan(tc.cluster)
			got := ""
			for _, c := range PlanHolders(nodes, holders, planNow) {
				got = strings.TrimSpace(fmt.Sprintf("%s %s %s", got, c.Kind, c.ID))
				if c.Reason == "" {
					t.Errorf("%s %s gives no reason", c.Kind, c.ID)
				}
			}
			if got != tc.want {
				t.Errorf("%s\ngot  %q\nwant %q", tc.cluster, got, tc.want)
			}
		})
	}
}

func TestPlanHoldersFollowsAddresses(t *testing.T) {
	nodes, holders := parsePlan("a:L b:V c:V")
	nodes[1].Addr = "elsewhere:6174"
	if got := PlanHolders(nodes, holders, planNow); len(got) != 1 || got[0].Kind != ChangeAddStandby || got[0].Addr != "elsewhere:6174" {
		t.Errorf("a holder that moved: got %v", got)
	}
	// A wiped machine comes back at its address as a new node: the old holder must go before the new one can come.
	nodes, holders = parsePlan("a:L b:V c:Vb d")
	nodes[3].Addr = nodes[2].Addr
	if got := PlanHolders(nodes, holders, planNow); len(got) != 1 || got[0].Kind != ChangeRemove || got[0].ID != "c" {
		t.Errorf("a holder whose address answers as another node: got %v", got)
	}
}

// TestPlanHoldersKeepsQuorum lets random clusters live and die, carries out every change, and checks after each that
// the live voters are a quorum, and that a cluster which is left alone comes to rest as promised.
func TestPlanHoldersKeepsQuorum(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	for i := range int64(2000) {
		simulatePlan(t, rand.New(rand.NewSource(seed+i)), seed+i)
		if t.Failed() {
			return
		}
	}
}

func simulatePlan(t *testing.T, rng *rand.Rand, seed int64) {
	now := planNow
	zones := 1 + rng.Intn(3)
	m := &planModel{t: t, seed: seed, holders: []Holder{{ID: "n00", Addr: "n00", Voter: true, Leader: true}}}
	for i := range 1 + rng.Intn(9) {
		id := fmt.Sprintf("n%02d", i)
		c := Candidate{ID: job.NodeID(id), Addr: id, Alive: true, Zone: fmt.Sprint(rng.Intn(zones))}
		if rng.Intn(8) == 0 {
			c.Voter = job.VoterNever
		}
		m.nodes = append(m.nodes, c)
	}
	for range 30 {
		m.disturb(rng, now)
		for range rng.Intn(6) {
			now = now.Add(time.Duration(rng.Intn(15)) * time.Second)
			m.step(now)
		}
	}
	for i := range m.nodes { // all come back, then nothing happens any more
		m.nodes[i].Alive = !m.nodes[i].Left
	}
	for range 60 {
		if !m.step(now) {
			m.checkSettled()
			return
		}
	}
	t.Errorf("seed %d: no rest after 60 changes: %+v %+v", seed, m.nodes, m.holders)
}

type planModel struct {
	t       *testing.T
	seed    int64
	nodes   []Candidate
	holders []Holder
}

// disturb changes one node, but never kills a majority of the voters: without one nothing is promised.
func (m *planModel) disturb(rng *rand.Rand, now time.Time) {
	c := &m.nodes[rng.Intn(len(m.nodes))]
	before := *c
	switch rng.Intn(5) {
	case 0, 1:
		c.Alive, c.DownSince = false, now
	case 2, 3:
		c.Alive, c.Left = true, false
	case 4:
		c.Alive, c.Left, c.DownSince = false, true, now
	}
	if live, voters := m.voters(); live < quorum(voters) {
		*c = before
	}
	m.elect()
}

func (m *planModel) alive(id job.NodeID) bool {
	return slices.ContainsFunc(m.nodes, func(c Candidate) bool { return c.ID == id && c.Alive })
}

func (m *planModel) voters() (live, all int) {
	for _, h := range m.holders {
		if h.Voter {
			all++
			if m.alive(h.ID) {
				live++
			}
		}
	}
	return live, all
}

// elect moves leadership off a leader that is dead or has no vote.
func (m *planModel) elect() {
	successor := -1
	for i := range m.holders {
		h := &m.holders[i]
		ok := h.Voter && m.alive(h.ID)
		if h.Leader && ok {
			return
		}
		h.Leader = false
		if ok && successor < 0 {
			successor = i
		}
	}
	for i := range m.holders {
		m.holders[i].Leader = i == successor
	}
}

func (m *planModel) step(now time.Time) (changed bool) {
	changes := PlanHolders(m.nodes, m.holders, now)
	if len(changes) == 0 {
		return false
	}
	if len(changes) > 1 {
		m.t.Errorf("seed %d: %d changes at once", m.seed, len(changes))
	}
	m.carryOut(changes[0])
	if live, voters := m.voters(); live < quorum(voters) {
		m.t.Errorf("seed %d: %+v lost the quorum: %d of %d voters live", m.seed, changes[0], live, voters)
	}
	m.elect()
	return true
}

func (m *planModel) carryOut(c Change) {
	i := slices.IndexFunc(m.holders, func(h Holder) bool { return h.ID == c.ID })
	if (i < 0) != (c.Kind == ChangeAddStandby) {
		m.t.Fatalf("seed %d: %+v: holder index %d", m.seed, c, i)
	}
	switch c.Kind {
	case ChangeAddStandby:
		m.holders = append(m.holders, Holder{ID: c.ID, Addr: c.Addr})
	case ChangeTransfer:
		for j := range m.holders {
			m.holders[j].Leader = j == i
		}
	case ChangePromote:
		m.holders[i].Voter = true
	case ChangeDemote, ChangeRemove:
		if m.holders[i].Leader {
			m.t.Errorf("seed %d: %+v takes the leader's vote", m.seed, c)
		}
		m.holders[i].Voter = false
		if c.Kind == ChangeRemove {
			m.holders = slices.Delete(m.holders, i, i+1)
		}
	}
}

// checkSettled holds the end of a plan against the promise, counted the simple way.
func (m *planModel) checkSettled() {
	eligible := 0
	zoneNodes, zoneVoters := map[string]int{}, map[string]int{}
	for _, c := range m.nodes {
		if c.Left || c.Voter == job.VoterNever {
			continue
		}
		eligible++
		zoneNodes[c.Zone]++
		if slices.ContainsFunc(m.holders, func(h Holder) bool { return h.ID == c.ID && h.Voter }) {
			zoneVoters[c.Zone]++
		}
	}
	_, voters := m.voters()
	want := map[bool]int{true: 1, false: 3}[eligible < 3]
	if eligible >= 7 {
		want = 5
	}
	if eligible == 0 {
		return // the last voter keeps its vote, there is no one else
	}
	if voters != want {
		m.t.Errorf("seed %d: %d voters for %d eligible nodes, want %d: %+v %+v", m.seed, voters, eligible, want, m.nodes, m.holders)
	}
	if standbys := len(m.holders) - voters; standbys != min(Standbys, eligible-want) {
		m.t.Errorf("seed %d: %d standbys beside %d voters of %d nodes", m.seed, standbys, voters, eligible)
	}
	for z, n := range zoneNodes {
		for y := range zoneNodes {
			if zoneVoters[z] < n && zoneVoters[z]+1 < zoneVoters[y] {
				m.t.Errorf("seed %d: zone %s has %d votes of %d nodes, zone %s has %d", m.seed, z, zoneVoters[z], n, y, zoneVoters[y])
			}
		}
	}
	for _, h := range m.holders {
		i := slices.IndexFunc(m.nodes, func(c Candidate) bool { return c.ID == h.ID })
		if i < 0 || m.nodes[i].Left || m.nodes[i].Voter == job.VoterNever {
			m.t.Errorf("seed %d: %s holds the log and must not", m.seed, h.ID)
		}
	}
}
