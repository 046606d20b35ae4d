package compose

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// extension reads one of shoal's own mappings. What is wrong becomes a problem of the conversion, with its path; unknown
// keys the matrix has refused before.
type extension struct {
	c  *conversion
	at string
	m  map[string]any
}

func (e *extension) problem(key, format string, args ...any) {
	e.c.problem(e.at+"."+key, format, args...)
}

func (e *extension) number(key string) (n int, there bool) {
	switch v := e.m[key].(type) {
	case nil:
		return 0, false
	case int:
		return v, true
	case int64:
		return int(v), true
	case uint64:
		return int(min(v, math.MaxInt32)), true
	case string:
		if n, err := strconv.Atoi(v); err == nil {
			return n, true
		}
	}
	e.problem(key, "%.40v is not a whole number", e.m[key])
	return 0, false
}

func (e *extension) decimal(key string) float64 {
	switch v := e.m[key].(type) {
	case nil:
		return 0
	case int:
		return float64(v)
	case float64:
		return v
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return f
		}
	}
	e.problem(key, "%.40v is not a number", e.m[key])
	return 0
}

func (e *extension) text(key string) string {
	switch v := e.m[key].(type) {
	case nil:
		return ""
	case string:
		return v
	}
	e.problem(key, "%.40v is not a text; put it into quotes", e.m[key])
	return ""
}

func (e *extension) truth(key string) bool {
	switch v := e.m[key].(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		if b, err := strconv.ParseBool(v); err == nil {
			return b
		}
	}
	e.problem(key, "%.40v is neither true nor false", e.m[key])
	return false
}

// duration reads Go's durations, and days: "1d12h".
func (e *extension) duration(key string) time.Duration {
	text := e.text(key)
	if text == "" {
		return 0
	}
	days, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		days, rest = "0", text
	}
	n, err := strconv.Atoi(days)
	var d time.Duration
	if err == nil && rest != "" {
		d, err = time.ParseDuration(rest)
	}
	if err != nil || n < 0 || n > 36_500 || d < 0 || rest == "" && !hasDays {
		e.problem(key, "%.40q is not a duration such as 90s, 2h or 7d", text)
		return 0
	}
	return time.Duration(n)*24*time.Hour + d
}

func (e *extension) mapping(key string) *extension {
	m, ok := e.m[key].(map[string]any)
	if e.m[key] != nil && !ok {
		e.problem(key, "%.40v is not a mapping", e.m[key])
	}
	return &extension{e.c, e.at + "." + key, m}
}

// batch converts `x-batch` and `x-schedule`, and what `deploy.mode`, `deploy.replicas` and the restart policy say of a
// batch. It comes after scale and restart.
func (c *conversion) batch(at string, s *types.ServiceConfig, out *job.Service) {
	x, schedule := s.Extensions["x-batch"], s.Extensions["x-schedule"]
	if (x != nil || schedule != nil) && (s.Deploy == nil || s.Deploy.Mode == "") {
		out.Mode = job.ReplicatedJob
	}
	if schedule != nil {
		out.Schedule = c.schedule(at, schedule, out)
	}
	if !out.IsBatch() && x == nil {
		return
	}
	e := (&extension{c, at, map[string]any{"x-batch": x}}).mapping("x-batch")
	b := &job.Batch{}
	if out.Batch != nil { // its history, from the schedule
		b = out.Batch
	}
	out.Batch = b
	if out.IsBatch() {
		c.batchRestart(at, s, b)
		out.Restart = job.Restart{}
	}
	c.completions(e, s, out)
	b.Parallelism, _ = e.number("parallelism")
	if n, there := e.number("retries"); there {
		if b.Retries != nil {
			e.problem("retries", "the restart policy says it too; remove one")
		}
		b.Retries = &n
	}
	b.MaxFailures, _ = e.number("max_failures")
	if e.m["backoff"] != nil {
		b.Backoff = e.duration("backoff")
	}
	b.MaxBackoff, b.Deadline, b.TTL = e.duration("max_backoff"), e.duration("deadline"), e.duration("ttl")
	e.history(b)
	codes := e.mapping("exit_codes")
	if codes.m != nil {
		b.Exits = &job.ExitCodes{Success: codes.codes("success"), Retry: codes.codes("retry"), Fail: codes.codes("fail")}
	}
}

// completions reads how often the program is to end well: Swarm's word for it is deploy.replicas, which is also how many
// run at a time.
func (c *conversion) completions(e *extension, s *types.ServiceConfig, out *job.Service) {
	n, there := e.number("completions")
	if !there {
		return
	}
	switch {
	case out.Mode == job.GlobalJob:
		e.problem("completions", "a %s completes once on every node; remove it", job.GlobalJob)
	case s.Scale != nil || s.Deploy != nil && s.Deploy.Replicas != nil && *s.Deploy.Replicas != n:
		e.problem("completions", "`replicas` or `scale` says it too; remove one")
	}
	out.Replicas = n
}

// batchRestart reads the restart policy as what a batch does after a failure.
func (c *conversion) batchRestart(at string, s *types.ServiceConfig, b *job.Batch) {
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		p := s.Deploy.RestartPolicy
		at += ".deploy.restart_policy"
		switch p.Condition {
		case "none", "no":
			b.Retries = new(int)
		case "", "on-failure":
			if p.MaxAttempts != nil {
				n := int(min(*p.MaxAttempts, job.MaxRetries+1)) // Validate says that it is too much
				b.Retries = &n
			}
		default:
			c.problem(at+".condition", "%.40q never lets a batch end; use none or on-failure", p.Condition)
		}
		b.Backoff = duration(p.Delay)
		return
	}
	retries, err := retriesOf(s.Restart)
	if err != nil {
		c.problem(at+".restart", "%v", err)
	}
	b.Retries = retries
}

// retriesOf reads Compose's and docker run's word for a restart policy as the retries of a batch; nil: it says none.
func retriesOf(restart string) (*int, error) {
	r, err := parseRestart(restart)
	switch {
	case err != nil || restart == "":
		return nil, err
	case r.Policy == job.RestartNever:
		return new(int), nil
	case r.Policy == job.RestartOnFailure && r.Max > 0:
		return &r.Max, nil
	case r.Policy == job.RestartOnFailure:
		return nil, nil
	}
	return nil, fmt.Errorf("%.40q never lets a batch end; use no or on-failure[:tries]", restart)
}

func (e *extension) history(b *job.Batch) {
	h := e.mapping("history")
	if n, there := h.number("successful"); there {
		b.KeepComplete = n
	}
	if n, there := h.number("failed"); there {
		b.KeepFailed = n
	}
}

// codes reads a list of exit codes and ranges, or one alone.
func (e *extension) codes(key string) (out []job.CodeRange) {
	list, ok := e.m[key].([]any)
	if !ok && e.m[key] != nil {
		list = []any{e.m[key]}
	}
	for _, v := range list {
		r, err := job.ParseCodeRange(fmt.Sprint(v))
		if err != nil {
			e.problem(key, "%v", err)
			continue
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b job.CodeRange) int { return a.From - b.From })
	return out
}

// schedule converts `x-schedule` in its short and its long form.
func (c *conversion) schedule(at string, v any, out *job.Service) *job.Schedule {
	if text, ok := v.(string); ok {
		return &job.Schedule{Cron: text}
	}
	e := (&extension{c, at, map[string]any{"x-schedule": v}}).mapping("x-schedule")
	s := &job.Schedule{
		Cron: e.text("cron"), TimeZone: e.text("time_zone"), Overlap: job.Overlap(e.text("overlap")), Missed: job.Missed(e.text("missed")),
		StartDeadline: e.duration("start_deadline"), Paused: e.truth("paused"),
	}
	if s.Overlap == job.OverlapForbid {
		s.Overlap = "" // the default has one form
	}
	if s.Missed == job.MissedRun {
		s.Missed = ""
	}
	if e.m["history"] != nil {
		out.Batch = &job.Batch{}
		e.history(out.Batch)
	}
	return s
}
