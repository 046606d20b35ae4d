package job

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Modes of batches, by Compose's names. Their tasks run to their end; see Run.
const (
	ReplicatedJob Mode = "replicated-job" // Replicas completions, Batch.Parallelism at a time
	GlobalJob     Mode = "global-job"     // one completion on every node that is there while it runs
)

// PerNode tells whether a service has a slot for each node, in place of numbered ones.
func (m Mode) PerNode() bool { return m == Global || m == GlobalJob }

// IsBatch tells whether the service's tasks are meant to end: then it has runs in place of updates.
func (s *Service) IsBatch() bool { return s.Mode == ReplicatedJob || s.Mode == GlobalJob }

// Batch says how a run of a batch goes. The zero value, like a nil pointer, means the defaults. But for Exits it is no
// part of the content: it may be changed while a run is under way.
type Batch struct {
	Parallelism int `json:"parallelism,omitempty"` // tasks at a time; 0: all at once
	// Retries is how often one completion is tried again after a failure; nil: DefaultRetries. What was lost with its node
	// is tried again without being counted.
	Retries *int `json:"retries,omitempty"`
	// MaxFailures is how many failures a run may have in all; 0: no limit but Retries.
	MaxFailures int           `json:"maxFailures,omitempty"`
	Backoff     time.Duration `json:"backoff,omitempty"`    // before the first retry, doubled for each; 0: DefaultBackoff
	MaxBackoff  time.Duration `json:"maxBackoff,omitempty"` // where doubling ends; 0: DefaultMaxBackoff
	// Deadline is how long a run may take from its first task on, by the leaders' wall clocks; 0: no limit.
	Deadline time.Duration `json:"deadline,omitempty"`
	// TTL is how long after its end a run's tasks, containers and logs are kept; 0: until newer runs push them out.
	TTL          time.Duration `json:"ttl,omitempty"`
	KeepComplete int           `json:"keepComplete,omitempty"` // ended runs to remember; 0: DefaultKeepRuns
	KeepFailed   int           `json:"keepFailed,omitempty"`   // the same for runs that did not complete
	Exits        *ExitCodes    `json:"exits,omitempty"`        // nil: 0 is success, all else is tried again
}

// ExitCodes says what exit codes mean. 0 is always success. A code in no list is tried again, but when Retry is given: then
// it fails the run at once.
type ExitCodes struct {
	Success []CodeRange `json:"success,omitempty"`
	Retry   []CodeRange `json:"retry,omitempty"`
	Fail    []CodeRange `json:"fail,omitempty"` // no retry helps: the run fails at once
}

// CodeRange is the exit codes from From to To, both included, within 0 to 255.
type CodeRange struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Defaults and bounds of batches.
const (
	DefaultRetries    = 3
	DefaultBackoff    = time.Second
	DefaultMaxBackoff = time.Minute
	DefaultKeepRuns   = 3
	MaxCompletions    = 10_000
	MaxRetries        = 10_000
	MaxBatchTime      = 366 * 24 * time.Hour // any duration of a batch
	MaxKeepRuns       = 100                  // runs to remember, of each kind
	MaxCodeRanges     = 32                   // in one list
)

// ExitMeaning is what an exit code means.
type ExitMeaning int

// Meanings.
const (
	ExitSuccess ExitMeaning = iota
	ExitRetry
	ExitFail
)

// Judge tells what an exit code means; e may be nil.
func (e *ExitCodes) Judge(code int) ExitMeaning {
	switch {
	case code == 0:
		return ExitSuccess
	case e == nil:
		return ExitRetry
	case within(e.Success, code):
		return ExitSuccess
	case within(e.Fail, code):
		return ExitFail
	case within(e.Retry, code) || len(e.Retry) == 0:
		return ExitRetry
	}
	return ExitFail
}

func within(rs []CodeRange, code int) bool {
	return slices.ContainsFunc(rs, func(r CodeRange) bool { return r.From <= code && code <= r.To })
}

// JudgeExit tells what an exit code of the service's tasks means.
func (s *Service) JudgeExit(code int) ExitMeaning {
	if s.Batch == nil {
		return (*ExitCodes)(nil).Judge(code)
	}
	return s.Batch.Exits.Judge(code)
}

// ParseCodeRange reads "3" or "64-78".
func ParseCodeRange(text string) (CodeRange, error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	a, err1 := strconv.Atoi(from)
	b, err2 := strconv.Atoi(to)
	r := CodeRange{a, b}
	if err1 != nil || err2 != nil || !r.valid() {
		return CodeRange{}, fmt.Errorf("%q is no exit code; use 0 to 255, or a range such as 64-78", shorten(text))
	}
	return r, nil
}

func (r CodeRange) valid() bool { return 0 <= r.From && r.From <= r.To && r.To <= 255 }

// Policy is the service's Batch with all defaults filled in; Retries is never nil, and Parallelism 0 still means no limit.
func (s *Service) BatchPolicy() Batch {
	var b Batch
	if s.Batch != nil {
		b = *s.Batch
	}
	if b.Retries == nil {
		n := DefaultRetries
		b.Retries = &n
	}
	b.Backoff = orDefault(b.Backoff, DefaultBackoff)
	b.MaxBackoff = max(orDefault(b.MaxBackoff, DefaultMaxBackoff), b.Backoff)
	if b.KeepComplete == 0 {
		b.KeepComplete = DefaultKeepRuns
	}
	if b.KeepFailed == 0 {
		b.KeepFailed = DefaultKeepRuns
	}
	return b
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// Wait is how long to wait before the n-th retry, from 1.
func (b Batch) Wait(n int) time.Duration {
	d := b.Backoff
	for ; n > 1 && d < b.MaxBackoff; n-- {
		d *= 2
	}
	return min(d, b.MaxBackoff)
}

// batchContent is what of a batch belongs to the service's content: what exit codes mean.
func (b *Batch) batchContent() *Batch {
	if b == nil || b.Exits == nil {
		return nil
	}
	return &Batch{Exits: b.Exits}
}

// sameBatch tells whether runs of two services go the same way.
func sameBatch(a, b *Service) bool {
	return reflect.DeepEqual(a.Batch, b.Batch) && reflect.DeepEqual(a.Schedule, b.Schedule)
}

// normalizeBatch leaves every end of a batch's task to the leader: what restarts in place cannot be counted.
func (s *Service) normalizeBatch() {
	if !s.IsBatch() {
		return
	}
	s.Restart = Restart{Policy: RestartNever}
	if s.Mode == GlobalJob {
		s.Replicas = 0
	}
	if b := s.Batch; b != nil && b.Exits != nil && reflect.DeepEqual(*b.Exits, ExitCodes{}) {
		c := *b
		c.Exits = nil
		s.Batch = &c
	}
	if s.Batch != nil && reflect.DeepEqual(*s.Batch, Batch{}) {
		s.Batch = nil
	}
}

func (s *Service) validateBatch(p *problems, at string) {
	if !s.IsBatch() {
		if s.Batch != nil {
			p.add(at+".x-batch", "the service has mode %s; use deploy.mode %s or %s", s.Mode, ReplicatedJob, GlobalJob)
		}
		if s.Schedule != nil {
			p.add(at+".x-schedule", "the service has mode %s; use deploy.mode %s or %s, or leave it out", s.Mode, ReplicatedJob, GlobalJob)
		}
		return
	}
	if s.Mode == ReplicatedJob && (s.Replicas < 1 || s.Replicas > MaxCompletions) {
		p.add(at+".x-batch.completions", "%d is not within 1 and %d", s.Replicas, MaxCompletions)
	}
	if s.Batch != nil {
		s.Batch.validate(p, at+".x-batch")
	}
	if s.Schedule != nil {
		s.Schedule.validate(p, at+".x-schedule")
		if s.Mode == GlobalJob && s.Schedule.Overlap == OverlapAllow {
			p.add(at+".x-schedule.overlap", "a node has one task of a %s at a time; use %s or %s", GlobalJob, OverlapForbid, OverlapReplace)
		}
	}
}

func (b *Batch) validate(p *problems, at string) {
	number := func(name string, n, most int) {
		if n < 0 || n > most {
			p.add(at+"."+name, "%d is not within 0 and %d", n, most)
		}
	}
	number("parallelism", b.Parallelism, MaxCompletions)
	if b.Retries != nil {
		number("retries", *b.Retries, MaxRetries)
	}
	number("max_failures", b.MaxFailures, MaxReplicas)
	number("history.successful", b.KeepComplete, MaxKeepRuns)
	number("history.failed", b.KeepFailed, MaxKeepRuns)
	for name, d := range map[string]time.Duration{"backoff": b.Backoff, "max_backoff": b.MaxBackoff, "deadline": b.Deadline, "ttl": b.TTL} {
		if d < 0 || d > MaxBatchTime {
			p.add(at+"."+name, "%v is not within 0 and %v", d, MaxBatchTime)
		}
	}
	if b.Exits == nil {
		return
	}
	for name, list := range map[string][]CodeRange{"success": b.Exits.Success, "retry": b.Exits.Retry, "fail": b.Exits.Fail} {
		p.atMost(at+".exit_codes."+name, len(list), MaxCodeRanges, "ranges")
		for _, r := range list {
			switch {
			case !r.valid():
				p.add(at+".exit_codes."+name, "%d-%d is no range within 0 and 255", r.From, r.To)
			case name != "success" && r.From == 0:
				p.add(at+".exit_codes."+name, "0 is always success; remove it")
			}
		}
	}
}
