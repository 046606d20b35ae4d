package consensus

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"shoal/consensus/job"
)

// How many hold the log. Five voters survive the loss of two; more would only make every commit slower.
const (
	// Standbys are the log-holders kept beside the voters, ready to become one.
	Standbys = 2
	// DeadVoterGrace is how long a log-holder must be dead before it is replaced. It is longer than the restart of an
	// agent and most restarts of a switch, so that those move no votes; and short against the time until a second
	// machine fails. Work moves much sooner: this is about votes only.
	DeadVoterGrace = 10 * time.Second
)

// Candidate is a node that might hold the log, as the leader sees it. A log-holder for which there is no candidate was
// removed from the cluster.
type Candidate struct {
	ID    job.NodeID
	Life  string // of its log, as it last said; a log-holder of another life is no more (see HolderID)
	Addr  string
	Zone  string // the node's label "zone"; "" is a zone like any other
	Voter job.VoterPolicy
	Alive bool // answers now
	// DownSince is when it was last alive, if it is not; zero: longer ago than any grace.
	DownSince time.Time
	Left      bool // went on purpose
}

// ChangeKind is what a Change does.
type ChangeKind string

// Kinds of changes; each names the method of Log that carries it out.
const (
	ChangeAddStandby ChangeKind = "add-standby" // also: a log-holder has a new address
	ChangePromote    ChangeKind = "promote"
	ChangeDemote     ChangeKind = "demote"
	ChangeRemove     ChangeKind = "remove"
	ChangeTransfer   ChangeKind = "transfer-leadership"
)

// Change is one step towards the right log-holders.
type Change struct {
	Kind   ChangeKind
	ID     job.NodeID
	Addr   string // where the kind needs one
	Reason string // for the log and for people
	Life   string // of ID's log
}

// Holder is the name in the log of whom the change is about.
func (c Change) Holder() job.NodeID { return HolderID(c.ID, c.Life) }

// PlanHolders says what to change next about who holds the log: nothing, or one change, after which it is asked again.
// It is meant for the leader, with current from Holders.
//
// Voters are 1 while there are one or two eligible nodes, 3 from three, 5 from seven, with two standbys beside them.
// Eligible is who has not left and may vote, dead or alive: a death must not shrink the quorum. A voter that is dead for
// DeadVoterGrace is replaced by a standby; one that left, was removed, or may not vote any more also goes without
// replacement, but for the only one: it hands its vote to a standby first, if there is one. Voters, then standbys, are spread over zones. No change leaves fewer live voters than a quorum, nor takes
// the leader's vote: it hands leadership over first.
func PlanHolders(nodes []Candidate, current []Holder, now time.Time) []Change {
	p := newPlanner(nodes, current, now)
	if p.liveVoters() < quorum(len(p.voters)) {
		return nil // nothing could be committed, and whoever thinks it leads does not
	}
	for _, step := range []func() *Change{
		p.readdress, p.dropVoter, p.fillVoters, p.dropGoneVoter, p.spreadVoters, p.dropStandby, p.fillStandbys,
	} {
		if c := step(); c != nil {
			return []Change{*c}
		}
	}
	return nil
}

func quorum(voters int) int { return voters/2 + 1 }

func wantedVoters(eligible int) int {
	switch {
	case eligible < 3:
		return 1
	case eligible < 7:
		return 3
	}
	return 5
}

// fitness of a log-holder, best first.
type fitness int

const (
	fit  fitness = iota
	dead         // for longer than the grace; may come back
	gone         // removed, left, replaced at its address, or may not vote
)

// seat is a node that holds the log.
type seat struct {
	Holder
	zone  string
	alive bool
	fit   fitness
	why   string // it is not fit
}

// ready tells whether a standby could become a voter.
func (s seat) ready() bool { return s.fit == fit && s.alive }

type planner struct {
	nodes    []Candidate // eligible, sorted by id
	voters   []seat      // sorted by id
	standbys []seat
	holds    map[job.NodeID]bool
	target   int // voters
}

func newPlanner(nodes []Candidate, current []Holder, now time.Time) *planner {
	p := &planner{holds: make(map[job.NodeID]bool)}
	known := make(map[job.NodeID]Candidate)
	aliveAt := make(map[string]job.NodeID)
	for _, n := range nodes {
		known[n.ID] = n
		if n.Alive && !n.Left {
			aliveAt[n.Addr] = n.ID
		}
		if !n.Left && n.Voter != job.VoterNever {
			p.nodes = append(p.nodes, n)
		}
	}
	slices.SortFunc(p.nodes, func(a, b Candidate) int { return cmp.Compare(a.ID, b.ID) })
	p.target = wantedVoters(len(p.nodes))
	for _, h := range current {
		n, ok := known[h.ID]
		s := seat{Holder: h, zone: n.Zone, alive: ok && n.Alive && n.Life == h.Life || h.Leader}
		s.fit, s.why = judge(s, n, ok, aliveAt[h.Addr], now)
		p.holds[h.ID] = true
		if h.Voter {
			p.voters = append(p.voters, s)
		} else {
			p.standbys = append(p.standbys, s)
		}
	}
	byID := func(a, b seat) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(p.voters, byID)
	slices.SortFunc(p.standbys, byID)
	return p
}

func judge(s seat, n Candidate, known bool, atAddr job.NodeID, now time.Time) (fitness, string) {
	switch {
	case !known:
		return gone, "it was removed from the cluster"
	case n.Life != s.Life:
		return gone, "its log was damaged, and it begins anew"
	case n.Left:
		return gone, "it left"
	case n.Voter == job.VoterNever:
		return gone, "it may not vote"
	case !s.alive && atAddr != "" && atAddr != s.ID:
		return gone, fmt.Sprintf("node %.8s answers at its address", string(atAddr))
	case !s.alive && now.Sub(n.DownSince) >= DeadVoterGrace:
		return dead, "it is dead"
	}
	return fit, ""
}

func (p *planner) liveVoters() int {
	return count(p.voters, func(s seat) bool { return s.alive })
}

func count(seats []seat, f func(seat) bool) (n int) {
	for _, s := range seats {
		if f(s) {
			n++
		}
	}
	return n
}

func (p *planner) fitVoters() int {
	return count(p.voters, func(s seat) bool { return s.fit == fit })
}

// keepsQuorum tells whether the voters could still commit without v.
func (p *planner) keepsQuorum(v seat) bool {
	live := p.liveVoters()
	if v.alive {
		live--
	}
	return live >= quorum(len(p.voters)-1)
}

// inZone counts the fit voters of a zone.
func (p *planner) inZone(zone string) int {
	return count(p.voters, func(s seat) bool { return s.fit == fit && s.zone == zone })
}

// readdress follows a node that moved.
func (p *planner) readdress() *Change {
	for _, s := range append(slices.Clone(p.voters), p.standbys...) {
		for _, n := range p.nodes {
			if n.ID == s.ID && n.Life == s.Life && n.Alive && n.Addr != "" && n.Addr != s.Addr && !p.addrTaken(n) {
				return &Change{Kind: ChangeAddStandby, ID: n.ID, Life: n.Life, Addr: n.Addr, Reason: "its address was " + s.Addr}
			}
		}
	}
	return nil
}

// addrTaken tells whether another log-holder stands at the node's address: raft refuses two.
func (p *planner) addrTaken(n Candidate) bool {
	taken := func(s seat) bool { return s.ID != n.ID && s.Addr == n.Addr }
	return slices.ContainsFunc(p.voters, taken) || slices.ContainsFunc(p.standbys, taken)
}

// dropVoter takes a vote away while there are more than wanted: from the unfit first, then from the fullest zone.
func (p *planner) dropVoter() *Change {
	if len(p.voters) <= p.target {
		return nil
	}
	order := slices.Clone(p.voters)
	slices.SortStableFunc(order, func(a, b seat) int {
		return cmp.Or(
			cmp.Compare(b.fit, a.fit),
			compareBool(a.alive, b.alive),
			compareBool(a.Leader, b.Leader),
			cmp.Compare(p.inZone(b.zone), p.inZone(a.zone)),
		)
	})
	for _, v := range order {
		if !p.keepsQuorum(v) {
			continue
		}
		if v.fit != fit {
			return p.unseat(v, ChangeRemove, v.why)
		}
		return p.unseat(v, ChangeDemote, fmt.Sprintf("%d voters are enough for %d nodes", p.target, len(p.nodes)))
	}
	return nil
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// unseat takes a vote away, from the leader by way of a successor.
func (p *planner) unseat(v seat, kind ChangeKind, why string) *Change {
	if !v.Leader {
		return &Change{Kind: kind, ID: v.ID, Life: v.Life, Reason: why}
	}
	best := -1
	for i, s := range p.voters {
		if s.ID != v.ID && s.alive && (best < 0 || s.fit < p.voters[best].fit) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	return &Change{Kind: ChangeTransfer, ID: p.voters[best].ID, Life: p.voters[best].Life, Reason: fmt.Sprintf("the leader %.8s gives up its vote: %s", string(v.ID), why)}
}

// fillVoters gives a standby a vote while too few of the voters are fit. An unfit voter goes afterwards: in between the
// quorum is no harder to reach.
func (p *planner) fillVoters() *Change {
	if p.fitVoters() >= p.target {
		return nil
	}
	best := p.bestStandby()
	if best == nil {
		return nil
	}
	moves := p.target == 1 && p.voters[0].fit == gone // the only vote: it has two owners for a moment
	if len(p.voters) == 1 && count(p.standbys, seat.ready) < 2 && !moves {
		return nil // two voters are worse than one: either one's loss would stop both
	}
	return &Change{Kind: ChangePromote, ID: best.ID, Life: best.Life, Reason: fmt.Sprintf("%d of %d voters are fit", p.fitVoters(), p.target)}
}

// bestStandby is the fit, live standby whose zone has the fewest votes.
func (p *planner) bestStandby() *seat {
	var best *seat
	for i := range p.standbys {
		s := &p.standbys[i]
		if s.ready() && (best == nil || p.inZone(s.zone) < p.inZone(best.zone)) {
			best = s
		}
	}
	return best
}

// dropGoneVoter takes the vote from who must not have one, though nobody can replace it.
func (p *planner) dropGoneVoter() *Change {
	for _, v := range p.voters {
		if v.fit == gone && len(p.voters) > 1 && p.keepsQuorum(v) {
			if c := p.unseat(v, ChangeRemove, v.why); c != nil {
				return c
			}
		}
	}
	return nil
}

// spreadVoters moves a vote from the fullest zone to an emptier one; dropVoter does the second half. It works only
// while all is well, and stops when no move would make the zones more even.
func (p *planner) spreadVoters() *Change {
	if p.fitVoters() != len(p.voters) || p.liveVoters() != len(p.voters) || len(p.voters) != p.target {
		return nil
	}
	fullest := 0
	for _, v := range p.voters {
		fullest = max(fullest, p.inZone(v.zone))
	}
	const why = "to spread the voters over the zones"
	if s := p.bestStandby(); s != nil && p.inZone(s.zone)+1 < fullest {
		return &Change{Kind: ChangePromote, ID: s.ID, Life: s.Life, Reason: why}
	}
	if n := p.bestNode(p.inZone); n != nil && p.inZone(n.Zone)+1 < fullest {
		return &Change{Kind: ChangeAddStandby, ID: n.ID, Life: n.Life, Addr: n.Addr, Reason: why}
	}
	return nil
}

// bestNode is the live eligible node without the log, whose zone has the least of what is counted.
func (p *planner) bestNode(inZone func(zone string) int) *Candidate {
	var best *Candidate
	for i := range p.nodes {
		n := &p.nodes[i]
		if n.Alive && !p.holds[n.ID] && !p.addrTaken(*n) && (best == nil || inZone(n.Zone) < inZone(best.Zone)) {
			best = n
		}
	}
	return best
}

// dropStandby lets go of a standby that is not fit, or too many: first of the zones that have the most.
func (p *planner) dropStandby() *Change {
	var surplus *seat
	for i := range p.standbys {
		s := &p.standbys[i]
		if s.fit != fit {
			return &Change{Kind: ChangeRemove, ID: s.ID, Life: s.Life, Reason: s.why}
		}
		if surplus == nil || p.holdersInZone(s.zone) > p.holdersInZone(surplus.zone) {
			surplus = s
		}
	}
	if len(p.standbys) > Standbys {
		return &Change{Kind: ChangeRemove, ID: surplus.ID, Life: surplus.Life, Reason: fmt.Sprintf("%d standbys are enough", Standbys)}
	}
	return nil
}

func (p *planner) holdersInZone(zone string) int {
	return p.inZone(zone) + count(p.standbys, func(s seat) bool { return s.fit == fit && s.zone == zone })
}

// fillStandbys adds a standby, from the zone with the fewest log-holders.
func (p *planner) fillStandbys() *Change {
	if len(p.standbys) >= Standbys {
		return nil
	}
	n := p.bestNode(p.holdersInZone)
	if n == nil {
		return nil
	}
	return &Change{Kind: ChangeAddStandby, ID: n.ID, Life: n.Life, Addr: n.Addr, Reason: fmt.Sprintf("%d of %d standbys", len(p.standbys), Standbys)}
}
