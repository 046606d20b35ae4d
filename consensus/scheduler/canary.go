package scheduler

import (
	"fmt"
	"math"
	"slices"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// canarying tells whether the service's update is not promoted yet.
func (s *service) canarying() bool { return s.rolling() && s.rollout.Canaries > 0 }

// canariesLeft is how many more slots may get the new content, when of so many none has begun.
func (s *service) canariesLeft(without int) int {
	if !s.canarying() {
		return math.MaxInt
	}
	return s.rollout.Canaries - (s.wanted - without)
}

// formerOf is what slots keep that no canary has taken, nil when no canaries wait.
func (p *Planner) formerOf(r *job.Rollout) *info {
	if !r.Live() || r.Canaries == 0 || r.FromDigest == "" {
		return nil
	}
	return p.infos[r.FromDigest]
}

// unplaced counts the canaries among slots that fit nowhere: one that never had a task is none yet.
func (s *service) unplaced(short []*slot) (k int) {
	for _, sl := range short {
		if d, _ := s.content(sl); d == s.digest && sl.newest() != nil {
			k++
		}
	}
	return k
}

// keepsFormer tells whether slots that are no canary's get the former content. Where the two contents may be on different
// nodes they get the present one: what may run where is then the present one's.
func (s *service) keepsFormer() bool {
	return s.canarying() && s.former != nil && job.SamePlaces(s.former.spec, s.spec)
}

// restores tells whether the slot of t, when t is gone, gets the former content again: it is no canary's.
func (s *service) restores(t *task) bool {
	return s.keepsFormer() && t.Digest == s.rollout.FromDigest && !t.Renew
}

// givesWay tells whether a task was stopped for the change that is under way, and not for its node or for another task.
func (s *service) givesWay(t *task) bool {
	return t.Desired != job.DesiredRun && s.old(t) && t.StopCause == s.oldCause(t)
}

// newestBegun is the newest task of a slot but for those that waited for their turn or for room until they were stopped: what
// they were to be says nothing about the slot. nil if there is none.
func (sl *slot) newestBegun() *task {
	for _, t := range slices.Backward(sl.tasks) {
		if t.Wait == job.WaitNone {
			return t
		}
	}
	return nil
}

// content is what a task placed into a slot now runs: while canaries wait the former content, unless the slot is one of them.
func (s *service) content(sl *slot) (job.Digest, *info) {
	t := sl.current()
	if t == nil {
		t = sl.newestBegun()
	}
	if sl.phase != outdated && s.keepsFormer() && (t == nil || t.Digest != s.digest && !t.Renew && !s.givesWay(t)) {
		return s.rollout.FromDigest, s.former
	}
	return s.digest, s.info
}

// begins tells whether what is placed into an empty slot is a step of the update: the slot's first task, one in the place of
// what was stopped for the update, or after an end of its own. All else takes the place of what was lost or had to move.
func (s *service) begins(sl *slot) bool {
	d, _ := s.content(sl)
	switch t := sl.newestBegun(); {
	case d != s.digest:
		return false
	case t == nil:
		return true
	case t.Desired == job.DesiredRun:
		return t.state() != job.Lost
	default:
		return s.givesWay(t)
	}
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
