package state

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
)

// wayBack marks a new version, or some services of it, as a way back; the zero value is a way on.
type wayBack struct {
	of, to    uint64             // versions, of all services that change; 0: see services
	services  map[string]wayBack // those that go back
	automatic bool
	reason    string
}

// forService is the way back of one service.
func (b wayBack) forService(name string) wayBack {
	if b.of != 0 {
		return b
	}
	return b.services[name]
}

// beginRollouts writes a rollout for each service whose content differs from before, and forgets those of services that
// are gone. A job that was stopped has nothing running that could be updated: it begins anew.
func (t *tx) beginRollouts(old, j *job.Job, back wayBack) {
	for _, r := range t.base.Rollouts(j.Name) {
		if j.Spec.Service(r.Service) == nil {
			t.remove(TableRollouts, r)
		}
	}
	for i := range j.Spec.Services {
		s := &j.Spec.Services[i]
		was := t.d.digest(old, s.Name)
		d := s.Digest()
		if was == "" || was == d {
			continue
		}
		last := t.base.Rollout(j.Name, s.Name)
		if old.Stopped || s.IsBatch() {
			if last != nil {
				t.remove(TableRollouts, last)
			}
			continue
		}
		r := &job.Rollout{
			Job: j.Name, Service: s.Name, Version: j.Version, Digest: d, Status: job.RolloutRunning,
			From: t.goodVersion(old, last, d), Started: t.at, Index: t.index,
		}
		t.beginCanaries(r, old.Spec.Service(s.Name), s)
		if b := back.forService(s.Name); b.of != 0 {
			r.RollbackOf, r.RollbackTo, r.Automatic, r.Reason, r.From = b.of, b.to, b.automatic, clip(b.reason), 0
			r.Canaries, r.FromDigest = 0, ""
		}
		t.insert(TableRollouts, r)
	}
}

// goodVersion is the version to go back to when the content d, which comes after old, fails; 0 if there is none. The
// content of a rollout that did not end well is not held to be good: then it is what that one came from.
func (t *tx) goodVersion(old *job.Job, last *job.Rollout, d job.Digest) uint64 {
	if last == nil || last.Status == job.RolloutComplete || last.RollbackOf != 0 {
		return old.Version
	}
	for _, v := range t.base.JobVersions(old.Name) {
		if s := v.Spec.Service(last.Service); v.Version == last.From && s != nil && s.Digest() != d {
			return last.From
		}
	}
	return 0 // it was submitted again, or is forgotten
}

// resumeRollouts lets paused rollouts of a job go on, and tells whether there was any.
func (t *tx) resumeRollouts(j *job.Job) (any bool) {
	for _, r := range t.base.Rollouts(j.Name) {
		if r.Status != job.RolloutPaused {
			continue
		}
		up := *r
		up.Status, up.Index, up.Reason = job.RolloutRunning, t.index, ""
		up.Started, up.Ended = t.at, time.Time{}
		t.insert(TableRollouts, &up)
		t.event(job.Event{Kind: job.EventRollout, Job: j.Name, Service: r.Service, Message: fmt.Sprintf("the update to version %d goes on", r.Version)})
		any = true
	}
	return any
}

// stepRollouts does a plan's steps. Services of one job that go back make one new version together.
func (t *tx) stepRollouts(steps []RolloutStep, res *PlanResult) {
	backs := map[string][]RolloutStep{}
	var names []string
	for _, st := range steps {
		r := t.base.Rollout(st.Job, st.Service)
		j := t.base.Job(st.Job)
		switch {
		case r == nil || j == nil:
			res.Refused = append(res.Refused, Refused{Reason: "rollout is gone"})
		case r.Version != st.Version || !r.Live() || j.Stopped:
			res.Refused = append(res.Refused, Refused{Reason: "rollout has changed"})
		case st.Promote || st.Status == job.RolloutCanary:
			if !t.stepCanaries(r, st) {
				res.Refused = append(res.Refused, Refused{Reason: "rollout has no canaries that wait"})
			}
		case st.Rollback && t.goBack(j, r) != nil:
			if backs[st.Job] == nil {
				names = append(names, st.Job)
			}
			backs[st.Job] = append(backs[st.Job], st)
		case st.Rollback:
			t.endRollout(r, job.RolloutPaused, st.Reason+"; there is no earlier version to go back to")
		case st.Status != job.RolloutComplete && st.Status != job.RolloutPaused:
			res.Refused = append(res.Refused, Refused{Reason: "malformed rollout step"})
		default:
			t.endRollout(r, st.Status, st.Reason)
		}
	}
	for _, name := range names {
		t.rollBack(t.base.Job(name), backs[name], false)
	}
}

func (t *tx) endRollout(r *job.Rollout, status job.RolloutStatus, reason string) {
	up := *r
	up.Status, up.Ended = status, t.at
	what := "is complete"
	if status == job.RolloutPaused {
		up.Reason = clip(reason)
		what = "is paused: " + up.Reason
	}
	t.insert(TableRollouts, &up)
	t.event(job.Event{Kind: job.EventRollout, Job: r.Job, Service: r.Service, Message: fmt.Sprintf("the update to version %d %s", r.Version, what)})
}

// goBack is the version whose content a rollout goes back to, nil if there is none (any more).
func (t *tx) goBack(j *job.Job, r *job.Rollout) *job.Job {
	for _, v := range t.base.JobVersions(j.Name) {
		if s := v.Spec.Service(r.Service); r.From != 0 && v.Version == r.From && s != nil && s.Mode == j.Spec.Service(r.Service).Mode {
			return v
		}
	}
	return nil
}

// rollBack submits, as a new version, the job with some of its services as they were. Replicas stay as they are now.
func (t *tx) rollBack(old *job.Job, steps []RolloutStep, byHand bool) *job.Job {
	j := *old
	j.Version++
	j.Spec.Services = slices.Clone(old.Spec.Services)
	back := wayBack{services: map[string]wayBack{}}
	var of uint64
	var causes []string
	var from *job.Job
	for _, st := range steps {
		r := t.base.Rollout(st.Job, st.Service)
		from = t.goBack(old, r)
		s := j.Spec.Service(st.Service)
		replicas := s.Replicas
		*s = *from.Spec.Service(st.Service)
		s.Replicas = replicas
		j.Spec.Volumes = withVolumes(j.Spec.Volumes, s, from.Spec.Volumes)
		of = max(of, r.Version)
		back.services[st.Service] = wayBack{of: r.Version, to: from.Version, automatic: !byHand, reason: st.Reason}
		if !slices.Contains(causes, st.Reason) {
			causes = append(causes, st.Reason)
		}
	}
	j.Cause = clip(fmt.Sprintf("rolled back from version %d: %s", of, strings.Join(causes, "; ")))
	j.Spec.Source = ""
	if reflect.DeepEqual(j.Spec.Services, from.Spec.Services) {
		j.Spec.Source = from.Spec.Source
	}
	t.newVersion(&j, back)
	t.event(job.Event{Kind: job.EventJobRollback, Job: j.Name, Service: steps[0].Service, Message: fmt.Sprintf("version %d: %s", j.Version, j.Cause)})
	return &j
}

// withVolumes adds the volumes that a service mounts and the job does not mention any more.
func withVolumes(have []job.Volume, s *job.Service, known []job.Volume) []job.Volume {
	out := slices.Clone(have)
	for _, m := range s.Mounts {
		named := func(v job.Volume) bool { return v.Name == m.Source }
		if i := slices.IndexFunc(known, named); m.Type == job.MountVolume && i >= 0 && !slices.ContainsFunc(out, named) {
			out = append(out, known[i])
		}
	}
	slices.SortFunc(out, func(a, b job.Volume) int { return strings.Compare(a.Name, b.Name) })
	return out
}
