package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"shoal/consensus/job"
)

// Batches is the part of a Backend that speaks of runs and schedules. Changes are made at the leader.
type Batches interface {
	// StartRun begins a run of a batch at once. Conflict while one is under way, unless the service has a schedule.
	StartRun(ctx context.Context, key, name, service string) (RunResult, error)
	// StopRun ends a run that is under way; seq 0: all.
	StopRun(ctx context.Context, name, service string, seq uint64) error
	PauseSchedule(ctx context.Context, name, service string, paused bool) error
	Schedules(ctx context.Context) (ScheduleList, error)
	// Sample gives live figures of tasks of this node; those that are not here are left out.
	Sample(ctx context.Context, r SampleRequest) (SampleResult, error)
}

// RunResult is a run that was begun.
type RunResult struct {
	Run   job.Run `json:"run"`
	Index uint64  `json:"index"`
}

// ScheduleList is all schedules, sorted by job and service.
type ScheduleList struct {
	Meta
	Schedules []ScheduleView `json:"schedules"`
}

// ScheduleView is a schedule, how far it is, and its runs.
type ScheduleView struct {
	job.ScheduleState
	Schedule job.Schedule `json:"schedule"`
	TimeZone string       `json:"timeZone"` // with the default filled in
	Overlap  job.Overlap  `json:"overlap"`  // the same
	Paused   bool         `json:"paused"`   // by a person, or by what was submitted
	Stopped  bool         `json:"stopped,omitempty"`
	Next     time.Time    `json:"next,omitzero"` // zero when nothing will begin
	Active   int          `json:"active"`        // runs under way
	LastRun  *job.Run     `json:"lastRun,omitempty"`
}

// RunOf finds a run in a list, nil if it is not there.
func (l *TaskList) RunOf(service string, seq uint64) *job.Run {
	for i := range l.Runs {
		if r := &l.Runs[i]; r.Service == service && r.Seq == seq {
			return r
		}
	}
	return nil
}

// LastRun finds the newest run of a job's service, nil if there is none.
func (l *TaskList) LastRun(jobName, service string) (last *job.Run) {
	for i := range l.Runs {
		if r := &l.Runs[i]; r.Job == jobName && r.Service == service {
			last = r
		}
	}
	return last
}

func (s *Server) startRun(w http.ResponseWriter, r *http.Request) {
	key, err := keyOf(r)
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.StartRun(r.Context(), key, r.PathValue("job"), r.PathValue("service"))
	answer(w, v, err)
}

func (s *Server) stopRun(w http.ResponseWriter, r *http.Request) {
	var seq uint64
	if text := r.URL.Query().Get("run"); text != "" {
		var err error
		if seq, err = strconv.ParseUint(text, 10, 64); err != nil {
			writeError(w, job.Errorf(job.Invalid, "stop run %.40q: it is no number", text))
			return
		}
	}
	done(w, s.backend.StopRun(r.Context(), r.PathValue("job"), r.PathValue("service"), seq))
}

func (s *Server) pauseSchedule(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.PauseSchedule(r.Context(), r.PathValue("job"), r.PathValue("service"), true))
}

func (s *Server) resumeSchedule(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.PauseSchedule(r.Context(), r.PathValue("job"), r.PathValue("service"), false))
}

func (s *Server) schedules(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Schedules(r.Context())
	v.Stale = stale(r)
	answer(w, v, err)
}

func servicePath(name, service, verb string) string {
	return "/v1/jobs/" + url.PathEscape(name) + "/services/" + url.PathEscape(service) + "/" + verb
}

// StartRun begins a run of a batch at once.
func (c *Client) StartRun(ctx context.Context, key, name, service string) (RunResult, error) {
	var v RunResult
	err := c.do(ctx, "POST", servicePath(name, service, "run"), nil, nil, &v, key)
	return v, err
}

// StopRun ends a run of a batch that is under way; seq 0: all.
func (c *Client) StopRun(ctx context.Context, name, service string, seq uint64) error {
	q := url.Values{}
	if seq > 0 {
		q.Set("run", strconv.FormatUint(seq, 10))
	}
	return c.do(ctx, "DELETE", servicePath(name, service, "run"), q, nil, nil, "")
}

// PauseSchedule pauses a schedule, or lets it go on.
func (c *Client) PauseSchedule(ctx context.Context, name, service string, paused bool) error {
	verb := "resume"
	if paused {
		verb = "pause"
	}
	return c.do(ctx, "POST", servicePath(name, service, verb), nil, nil, nil, "")
}

// Schedules lists all schedules.
func (c *Client) Schedules(ctx context.Context) (ScheduleList, error) {
	var v ScheduleList
	err := c.do(ctx, "GET", "/v1/schedules", nil, nil, &v, "")
	return v, err
}
