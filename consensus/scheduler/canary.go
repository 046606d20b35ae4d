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

// restores tells whether the slot of t, when t is gone, gets the former content again: it is no canary's. Where the two
// contents may be on different nodes it gets the present one: what may run where is then the present one's.
func (s *service) restores(t *task) bool {
	if !s.canarying() || s.former == nil || t.Digest != s.rollout.FromDigest || t.Renew {
		return false
	}
	return job.SamePlaces(s.former.spec, s.spec)
}

// content is what a task placed into a slot now runs.
func (s *service) content(sl *slot) (job.Digest, *info) {
	if cur := sl.current(); cur != nil && sl.phase != outdated && s.restores(cur) {
		return s.rollout.FromDigest, s.former
	}
	return s.digest, s.info
}

// pickContent chooses a node for what a slot gets now; pk is for the present content.
func (w *work) pickContent(s *service, sl *slot, pk *picker) (*node, refusals) {
	_, i := s.content(sl)
	if i == s.info {
		return pk.pick(sl)
	}
	present := s.info
	s.info = i
	defer func() { s.info = present }()
	n, no := w.pickOne(s, sl)
	if n == nil && !s.spec.Mode.PerNode() {
		no = newPicker(w.p, s, 0).whyNone()
	}
	return n, no
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
