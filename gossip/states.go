package gossip

import (
	"context"
	"time"
)

// lookAtOnce is how many members are looked at in each gossip interval; a larger pool is looked at less often. Suspicion
// lasts longer there, too.
const lookAtOnce = 1000

// watchStates keeps the table of members equal to memberlist's and tells the watchers. It looks at once when a callback
// has marked a member, and at every gossip interval at those that are here, because nothing else tells of suspicion.
func (p *Pool) watchStates(ctx context.Context) {
	tick := time.NewTicker(p.cfg.Timing.GossipInterval)
	defer tick.Stop()
	skip := 0
	for {
		select {
		case <-p.dirty:
			p.refresh(onlyStale)
		case <-tick.C:
			if skip > 0 {
				skip--
				continue
			}
			skip = p.refresh(allHere) / lookAtOnce
		case <-ctx.Done():
			return
		}
	}
}

type refreshScope bool

const (
	onlyStale refreshScope = false
	allHere   refreshScope = true
)

// refresh asks memberlist for the state of members, publishes what changed, and returns how many it asked about.
func (p *Pool) refresh(scope refreshScope) int {
	ids := p.toRefresh(scope)
	for _, id := range ids {
		// Outside mu: memberlist takes its node lock here, and callbacks come with it held.
		state, since, ok := stateOf(p.list, id)
		if !ok {
			// It was reaped before we looked, which takes it to have been dead for long.
			state, since = Dead, time.Now()
		}
		p.settle(id, state, since)
	}
	return len(ids)
}

// toRefresh lists the members to look at and unmarks them, before the looking, so that a mark set meanwhile stays.
func (p *Pool) toRefresh(scope refreshScope) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for id, r := range p.members {
		if r.stale || scope == allHere && r.told.State.here() && id != p.cfg.ID {
			r.stale = false
			ids = append(ids, id)
		}
	}
	return ids
}

// settle records a member's state and tells the watchers if anything changed since they last heard.
func (p *Pool) settle(id string, state State, since time.Time) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.members[id]
	if r == nil {
		return
	}
	if r.member.State != state {
		r.member.State, r.member.Since = state, since
	}
	kind, changed := difference(r.told, r.member)
	if !changed {
		return
	}
	r.told = r.member
	e := Event{Kind: kind, Member: r.member, At: now}
	for w := range p.watchers {
		w.put(e)
	}
}

// difference names the change from one view of a member to the next. A change of state outranks one of metadata.
func difference(old, now Member) (EventKind, bool) {
	if old.State == now.State {
		return Updated, old != now
	}
	switch now.State {
	case Suspect:
		return Suspected, true
	case Dead:
		return Died, true
	case Left:
		return Departed, true
	}
	if old.State == Suspect {
		return Revived, true
	}
	return Joined, true
}
