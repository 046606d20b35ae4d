package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// Rebalancing moves tasks to nodes that joined or returned. It begins when all nodes have been as they are for
// balanceQuiet, looks at each service in turn, and ends when no move is worth its price; then nothing begins it but the next
// node. A move must bring more than its way back would, so two of them never undo each other: the service's tasks become more
// even by two, or the one node is emptier than the other by balanceGap also after it. Wishes about others do not count: they
// move too.
const (
	balanceQuiet  = 30 * time.Second
	balanceRecent = 10 * time.Minute // a node that came so long ago still begins it under a new leader
	balanceGap    = 0.2              // of a node's capacity
	balanceMoves  = 4                // at a time in the cluster, and one of each service
	balanceLook   = 256              // services looked at in one plan
	balancePause  = 2 * time.Second  // between two looks while something moves
	balanceSource = 3                // nodes from which a move is sought, for each service
	// balancePatience is how long a successor may take to become ready before the move is given up.
	balancePatience = 2 * time.Minute
	// MaxBalanceShown bounds the moves of a dry run.
	MaxBalanceShown = 200
)

// balancer is where rebalancing stands.
type balancer struct {
	off    bool      // by the cluster's setting
	asked  bool      // an admin wants it: then off does not count
	at     time.Time // when to look; zero: it is done
	moved  bool      // nodes have changed since the last plan: at is to be put off
	cursor string    // the last service that was looked at in this round
	found  bool      // in this round
}

// BalanceNow begins to rebalance, also when it is off.
func (p *Planner) BalanceNow() { p.balance = balancer{off: p.balance.off, asked: true, at: p.now} }

// noteBalance puts rebalancing off until the nodes are quiet, and begins it where a node came.
func (p *Planner) noteBalance(was, is *job.Node) {
	came := is != nil && is.Eligible() && (was == nil || !was.Eligible())
	if was == nil && p.now.IsZero() {
		return // New decides
	}
	p.balance.moved = p.balance.moved || came || !p.balance.at.IsZero()
}

// beginBalance is for a new leader: what came shortly before it may not have been looked at.
func (p *Planner) beginBalance(now time.Time) {
	if !p.fresh {
		return
	}
	p.fresh = false
	for _, n := range p.nodes {
		if n.n.Eligible() && now.Sub(p.past(n.n.Since, now)) < balanceRecent && len(p.nodes) > 1 {
			p.balance.at = now.Add(balanceQuiet)
			return
		}
	}
}

// rebalance moves some tasks, if nothing else is to be decided.
func (w *work) rebalance() {
	b := &w.p.balance
	if b.moved {
		*b = balancer{off: b.off, asked: b.asked, at: w.now.Add(balanceQuiet)}
	}
	switch {
	case b.at.IsZero():
		return
	case b.off && !b.asked:
		b.at = time.Time{}
		return
	case b.at.After(w.now):
		w.wake(b.at)
		return
	case !w.plan.Empty():
		w.wake(w.now.Add(balancePause))
		return
	}
	under := 0
	for s := range w.p.shifting {
		if len(s.sets[moving])+len(s.sets[moved]) == 0 && !s.leaving() {
			delete(w.p.shifting, s)
			continue
		}
		under++
	}
	all := w.p.byName(b.cursor, balanceLook)
	for _, s := range all {
		if under >= balanceMoves {
			break
		}
		b.cursor = s.job.name + "/" + s.name
		if m := w.p.betterPlace(s, nil); m != nil {
			b.found = true
			under++
			w.p.shifting[s] = struct{}{}
			w.placeMove(s, m.slot, m.to, fmt.Sprintf("rebalanced from node %s", m.from.n.Name))
		}
	}
	switch {
	case under >= balanceMoves:
		b.at = w.now.Add(balancePause)
	case len(all) == balanceLook:
		b.at = w.now.Add(time.Millisecond) // the next ones
	case b.found || under > 0: // another round, until one finds nothing
		b.at, b.cursor, b.found = w.now.Add(balancePause), "", false
	default:
		*b = balancer{off: b.off}
		return
	}
	w.wake(b.at)
}

// byName lists up to n services after a name, stateless ones only: the others do not move first. Whether one is quiet takes a
// look at all of its tasks, so only those are asked that come first.
func (p *Planner) byName(after string, n int) (out []*service) {
	type named struct {
		name string
		s    *service
	}
	var all []named
	for _, j := range p.jobs {
		for _, s := range j.services {
			if name := j.name + "/" + s.name; name > after {
				all = append(all, named{name, s})
			}
		}
	}
	slices.SortFunc(all, func(a, b named) int { return strings.Compare(a.name, b.name) })
	for _, o := range all {
		if len(out) == n {
			break
		}
		if p.movable(o.s) {
			out = append(out, o.s)
		}
	}
	return out
}

// movable tells whether a service is to be rebalanced, and all of it is quiet.
func (p *Planner) movable(s *service) bool {
	if s.spec == nil || (s.spec.Mode != "" && s.spec.Mode != job.Replicated) || !s.spec.Rebalances() || !s.spec.CanMoveFirst() || s.info == nil || s.info.local || s.class == nil || s.class.dense {
		return false
	}
	if s.rollout != nil && s.rollout.Status != job.RolloutComplete || s.ready < s.wanted {
		return false
	}
	for ph := range s.sets {
		if phase(ph) != fresh && len(s.sets[ph]) > 0 {
			return false
		}
	}
	return !s.leaving()
}

// shift is a move that is worth its price.
type shift struct {
	slot     *slot
	from, to *node
}

// betterPlace finds a task of a service that had better be elsewhere, nil if there is none. Slots in done have been moved
// already.
func (p *Planner) betterPlace(s *service, done map[*slot]bool) *shift {
	type source struct {
		n  *node
		sl *slot
	}
	best := map[*node]*slot{}
	for _, sl := range s.slots {
		t := sl.current()
		if t == nil || t.ended() || t.alone() || done[sl] || sl.triedToMove() {
			continue
		}
		if n := p.nodes[t.Node]; n != nil && n.n.Eligible() && (best[n] == nil || sl.id.n > best[n].id.n) {
			best[n] = sl
		}
	}
	from := make([]source, 0, len(best))
	for n, sl := range best {
		from = append(from, source{n, sl})
	}
	slices.SortFunc(from, func(a, b source) int {
		return cmp.Or(-cmp.Compare(s.count[a.n.n.ID], s.count[b.n.n.ID]), -cmp.Compare(a.n.load, b.n.load), cmp.Compare(a.n.n.ID, b.n.n.ID))
	})
	for _, f := range from[:min(len(from), balanceSource)] {
		t := f.sl.current()
		p.release(f.n, s, t.info, t.Task)
		pk := newPicker(p, s, 1)
		to, _ := pk.pick(f.sl)
		better := to != nil && to != f.n && pk.worthMoving(f.n, to)
		pk.done()
		p.claim(f.n, s, t.info, t.Task)
		if better && p.breaks(s, to) == nil { // the two are there at once for a while
			return &shift{f.sl, f.n, to}
		}
	}
	return nil
}

// triedToMove tells whether a successor of what runs in a slot did not make it.
func (sl *slot) triedToMove() bool {
	cur := sl.current()
	for _, t := range sl.tasks {
		if cur != nil && t.Move && t.Replaces == cur.ID && t.ended() {
			return true
		}
	}
	return false
}

// worthMoving compares two nodes for one more task.
func (k *picker) worthMoving(from, to *node) bool {
	k.p.countGroups(k.s)
	a, b := from.entry(k.s.class), to.entry(k.s.class)
	if a == nil || b == nil {
		return false
	}
	for i, g := range a.leaf.groups {
		if x, y := k.s.inGroup[g], k.s.inGroup[b.leaf.groups[i]]; x != y {
			return x > y
		}
	}
	r, q := k.rank(from), k.rank(to)
	r.wish, q.wish = k.rules.preference(from), k.rules.preference(to)
	switch {
	case q.bad > 0 || q.wish > r.wish:
		return false
	case q.wish < r.wish:
		return true
	case q.count != r.count:
		return q.count < r.count
	}
	return r.load-q.load >= balanceGap
}

// Shift is a move that rebalancing would make.
type Shift struct {
	Job, Service string
	Slot         int
	From, To     job.NodeID
}

// Rebalance tells what rebalancing would do, in its order, at most MaxBalanceShown moves.
func Rebalance(v *state.View, now time.Time) (out []Shift) {
	p := New(v)
	p.now = now
	for i := 0; i < len(p.queue); i++ {
		p.classifySlots(p.queue[i])
	}
	done := map[*slot]bool{}
	for again := true; again; {
		again = false
		for _, s := range p.byName("", len(p.tasks)) {
			m := p.betterPlace(s, done)
			if m == nil || len(out) >= MaxBalanceShown {
				continue
			}
			t := m.slot.current()
			p.release(m.from, s, t.info, t.Task)
			there := *t.Task
			there.Node = m.to.n.ID
			p.claim(m.to, s, t.info, &there)
			done[m.slot], again = true, true
			out = append(out, Shift{s.job.name, s.name, m.slot.id.n, m.from.n.ID, m.to.n.ID})
		}
	}
	return out
}
