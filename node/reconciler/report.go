package reconciler

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// Bounds of a report's retries.
const (
	firstReportRetry = 200 * time.Millisecond
	maxReportRetry   = 5 * time.Second
)

// acked is how a report ended.
type acked struct {
	batch []job.Status
	err   error
}

// report sends what the leader does not have yet.
func (r *Reconciler) report(ctx context.Context) {
	var batch []job.Status
	for _, t := range r.tasks {
		if t.status.Seq > t.sent {
			batch = append(batch, t.status)
		}
	}
	r.reportAt = time.Time{}
	if len(batch) == 0 {
		return
	}
	slices.SortFunc(batch, byTask)
	batch = batch[:min(len(batch), MaxBatch)]
	r.reporting = true
	r.workers.Go(func() {
		ctxReport, cancel := context.WithTimeout(ctx, ReportTimeout)
		defer cancel()
		err := r.cfg.Report(ctxReport, slices.Clone(batch))
		select {
		case r.ackCh <- acked{batch, err}:
		case <-ctx.Done():
		}
	})
}

func byTask(a, b job.Status) int { return cmp.Compare(a.Task, b.Task) }

// acked notes what the leader has now, and sends the rest.
func (r *Reconciler) acked(a acked) {
	r.reporting = false
	now := time.Now()
	if a.err != nil {
		if r.reportWait > 0 {
			r.log.Debug("cannot report yet", "statuses", len(a.batch), "failed", r.reportWait+1, "error", a.err)
		} else {
			r.log.Warn("cannot report; trying again until it is possible", "statuses", len(a.batch), "error", a.err)
		}
		r.reportAt = now.Add(backoff(firstReportRetry, r.reportWait, maxReportRetry))
		r.reportWait++
		return
	}
	r.reportWait = 0
	for _, s := range a.batch {
		if t := r.tasks[s.Task]; t != nil && s.Seq >= t.unsent {
			t.sent = max(t.sent, s.Seq)
		}
	}
	for _, t := range r.tasks {
		if t.status.Seq > t.sent {
			r.reportSoon(now)
		}
	}
}

// reportAll gives every status a new number: what is under way now must not count as an answer to this.
func (r *Reconciler) reportAll() {
	now := time.Now()
	for _, t := range r.tasks {
		if t.status.Seq > 0 {
			r.number(t)
			t.unsent = t.status.Seq
			r.viewOld = true
		}
	}
	r.reportWait, r.reportAt = 0, now
}

func (r *Reconciler) reportSoon(now time.Time) {
	if at := now.Add(coalesce); r.reportAt.IsZero() {
		r.reportAt = at
	}
}

// number marks a status as new. Numbers grow over all tasks and restarts: they begin at the wall clock, in
// microseconds, or at the last saved one if that is higher.
func (r *Reconciler) number(t *task) {
	r.seq++
	t.status.Seq = r.seq
	t.last = t.status
}

// publish numbers what changed and shows the world as it is now.
func (r *Reconciler) publish() {
	now := time.Now()
	for _, t := range r.tasks {
		if !same(&t.status, &t.last) {
			r.number(t)
			r.viewOld = true
			r.reportSoon(now)
			if r.saveAt.IsZero() {
				r.saveAt = now.Add(coalesce)
			}
		}
	}
	if !r.viewOld {
		return
	}
	v := view{containers: map[job.TaskID]runtime.ID{}}
	for _, t := range r.tasks {
		if t.assigned || t.have || t.status.Seq > 0 {
			v.statuses = append(v.statuses, t.status)
		}
		if t.wantsLease() {
			v.leased = append(v.leased, Leased{t.Task.ID, t.Task.Lease})
		}
		if t.have {
			v.containers[t.Task.ID] = t.info.ID
		}
		if !t.status.State.Terminal() {
			v.local = append(v.local, t.local(r.complete))
		}
	}
	slices.SortFunc(v.statuses, byTask)
	slices.SortFunc(v.local, func(a, b Local) int { return cmp.Compare(a.Task, b.Task) })
	slices.SortFunc(v.leased, func(a, b Leased) int { return cmp.Compare(a.Task, b.Task) })
	r.mu.Lock()
	newLease := !slices.Equal(r.view.leased, v.leased)
	r.view = v
	r.mu.Unlock()
	if newLease {
		select {
		case r.leaseCh <- struct{}{}:
		default:
		}
	}
	r.viewOld = !r.adopted // nobody was told yet
	if r.cfg.OnChange == nil || !r.adopted || r.toldOnce && slices.EqualFunc(r.told, v.local, Local.equal) {
		return
	}
	r.told, r.toldOnce = v.local, true
	r.cfg.OnChange(slices.Clone(v.local))
}

func (l Local) equal(m Local) bool {
	return l.Task == m.Task && l.Job == m.Job && l.Service == m.Service && l.Slot == m.Slot && l.Name == m.Name &&
		l.Container == m.Container && l.Address == m.Address && l.State == m.State && l.Health == m.Health &&
		l.Ready == m.Ready && l.Leaving == m.Leaving && slices.Equal(l.Ports, m.Ports)
}

// same tells whether two statuses differ in nothing but their number.
func same(a, b *job.Status) bool {
	code := func(s *job.Status) int {
		if s.ExitCode == nil {
			return -1
		}
		return *s.ExitCode
	}
	return a.State == b.State && a.Health == b.Health && a.Message == b.Message && a.Address == b.Address &&
		a.Image == b.Image && a.Restarts == b.Restarts && a.OOM == b.OOM && a.Paused == b.Paused && a.Tuned == b.Tuned && a.Untuned == b.Untuned && a.Refusal == b.Refusal && code(a) == code(b) &&
		slices.Equal(a.Ports, b.Ports) && maps.EqualFunc(a.At, b.At, time.Time.Equal)
}
