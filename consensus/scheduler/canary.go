package scheduler

import (
	"fmt"
	"math"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// canarying tells whether the service's update is not promoted yet.
func (s *service) canarying() bool { return s.rolling() && s.rollout.Canaries > 0 }

// canariesLeft is how many more slots may get the new content; of old slots none has begun.
func (s *service) canariesLeft(old int) int {
	if !s.canarying() {
		return math.MaxInt
	}
	return s.rollout.Canaries - (s.wanted - old)
}

// formerOf is what slots keep that no canary has taken, nil when no canaries wait.
func (p *Planner) formerOf(r *job.Rollout) *info {
	if !r.Live() || r.Canaries == 0 || r.FromDigest == "" {
		return nil
	}
	return p.infos[r.FromDigest]
}

// restores tells whether the slot of t, when t is gone, gets the former content again: it is no canary's.
func (s *service) restores(t *task) bool {
	return s.canarying() && s.former != nil && t.Digest == s.rollout.FromDigest && !t.Renew
}

// content is what a task placed into a slot now runs.
func (s *service) content(sl *slot) (job.Digest, *info) {
	if cur := sl.current(); cur != nil && sl.phase != outdated && s.restores(cur) {
		return s.rollout.FromDigest, s.former
	}
	return s.digest, s.info
}

// awaitPromotion says that the update waits for somebody to promote it, or does so itself once its canaries are well.
func (w *work) awaitPromotion(s *service, u job.Update, slots int, well bool, starved map[*slot]bool) reason {
	switch {
	case !well:
		return w.slowRoll(s, slots, starved)
	case u.AutoPromote:
		w.step(s, state.RolloutStep{Promote: true})
		return reason{}
	case s.rollout.Status != job.RolloutCanary:
		w.step(s, state.RolloutStep{Status: job.RolloutCanary})
	}
	return reason{slots: slots, text: fmt.Sprintf("%s waits at its canaries: `shoal promote %s/%s` goes on, `shoal fail %s/%s` goes back",
		s.changing(), s.job.name, s.name, s.job.name, s.name)}
}
