package state

import (
	"fmt"
	"slices"
	"time"

	"shoal/consensus/job"
)

// TableAutoscales holds the last change of each service that scales by itself, job.AutoscaleState.
const TableAutoscales Table = "autoscales"

// Autoscale is the leader's decision, from figures that are not in the log, on how many tasks a service has. It makes no
// new version of the job: the kept ones would soon be nothing but these. Conflict unless the service has From tasks, its
// bounds allow To, and its job is not stopped. Result.Value is *job.Job.
type Autoscale struct {
	Job     string    `json:"job"`
	Service string    `json:"service"`
	From    int       `json:"from"`
	To      int       `json:"to"`
	Cause   string    `json:"cause"`
	At      time.Time `json:"at"`
}

func (Autoscale) kind() byte { return kindAutoscale }

// Autoscales lists the last changes of a job's services that scale by themselves, by service; of all jobs when name is "".
func (v *View) Autoscales(name string) []*job.AutoscaleState {
	var prefix []byte
	if name != "" {
		prefix = strKey(name)
	}
	return all[job.AutoscaleState](v.txn, TableAutoscales, "id", prefix)
}

// Autoscale is nil for a service that never changed so.
func (v *View) Autoscale(jobName, service string) *job.AutoscaleState {
	return first[job.AutoscaleState](v.txn, TableAutoscales, "id", strKey(jobName, service))
}

func (t *tx) autoscale(c Autoscale) Result {
	name := c.Job + "/" + c.Service
	old := t.base.Job(c.Job)
	if old == nil || old.Spec.Service(c.Service) == nil {
		return fail(job.NotFound, "autoscale %s: there is no such service", name)
	}
	s := old.Spec.Service(c.Service)
	switch {
	case s.Autoscale == nil || old.Stopped:
		return fail(job.Conflict, "autoscale %s: it does not scale by itself, or its job is stopped", name)
	case s.Replicas != c.From || c.To == c.From || s.Autoscale.Clamp(c.To) != c.To:
		return fail(job.Conflict, "autoscale %s from %d to %d: it has %d tasks and may have %d to %d", name, c.From, c.To, s.Replicas, s.Autoscale.Min, s.Autoscale.Max)
	}
	j := *old
	j.Spec.Services = slices.Clone(old.Spec.Services)
	j.Spec.Service(c.Service).Replicas = c.To
	j.Updated, j.Index = t.at, t.index
	t.rewriteJob(&j)
	t.dropSlots(old, &j)
	t.noteScale(c.Job, c.Service, c.From, c.To, c.Cause)
	t.event(job.Event{Kind: job.EventJobScaled, Job: c.Job, Service: c.Service, Message: fmt.Sprintf("%s from %d to %d: %s", c.Service, c.From, c.To, c.Cause)})
	return Result{Value: &j}
}

// noteScale keeps a service's last change, from which its cool-downs count.
func (t *tx) noteScale(jobName, service string, from, to int, cause string) {
	t.insert(TableAutoscales, &job.AutoscaleState{Job: jobName, Service: service, From: from, To: to, Cause: clip(cause), At: t.at})
}

// refuseScale says why a person may not set a number of tasks of a service that scales by itself.
func refuseScale(s *job.Service, n int) string {
	if a := s.Autoscale; a != nil && a.Clamp(n) != n {
		return fmt.Sprintf("it scales by itself between %d and %d (x-autoscale): choose within that, or change its bounds and submit again", a.Min, a.Max)
	}
	return ""
}

// syncAutoscales forgets the changes of services that do not scale by themselves any more; all of them when j is nil.
func (t *tx) syncAutoscales(name string, j *job.Job) {
	for _, a := range all[job.AutoscaleState](t.w, TableAutoscales, "id", strKey(name)) {
		if j != nil {
			if s := j.Spec.Service(a.Service); s != nil && s.Autoscale != nil {
				continue
			}
		}
		t.remove(TableAutoscales, a)
	}
}
