package job

import (
	"time"
)

// Overlap says what happens when a run is due while the one before is still under way.
type Overlap string

// Overlaps. The zero value is OverlapForbid.
const (
	OverlapForbid  Overlap = "forbid"  // it is left out
	OverlapAllow   Overlap = "allow"   // both run, at most MaxOverlap in all
	OverlapReplace Overlap = "replace" // the former is stopped
)

// MaxOverlap bounds the runs of one service that are under way at a time.
const MaxOverlap = 10

// Missed says what happens to a run whose time passed while nobody could begin it.
type Missed string

// Policies for what was missed. The zero value is MissedRun.
const (
	MissedRun  Missed = "run"  // the last one missed is run once, late, as long as StartDeadline allows
	MissedSkip Missed = "skip" // it is left out when it is later than StartDeadline, or missedGrace without one
)

// MissedGrace is how late a run may be under MissedSkip without a StartDeadline: a change of leaders takes seconds.
const MissedGrace = time.Minute

// Schedule says when a batch is run. It is no part of the service's content.
type Schedule struct {
	Cron     string  `json:"cron"`               // five fields, @daily and the like, or @every 10m
	TimeZone string  `json:"timeZone,omitempty"` // of the tz database; "": UTC
	Overlap  Overlap `json:"overlap,omitempty"`
	Missed   Missed  `json:"missed,omitempty"`
	// StartDeadline is how late a run may begin; 0: any time late under MissedRun, MissedGrace under MissedSkip.
	StartDeadline time.Duration `json:"startDeadline,omitempty"`
	// Paused schedules begin nothing; `shoal cron pause` does the same without a submit.
	Paused bool `json:"paused,omitempty"`
}

// MaxCronBytes bounds a cron expression.
const MaxCronBytes = 256

// ScheduleState is how far a schedule is. Apply's pen.
type ScheduleState struct {
	Job     string `json:"job"`
	Service string `json:"service"`
	// Paused by a person, on top of what the schedule says.
	Paused bool `json:"paused,omitempty"`
	// Since is when it began to count: no time before is ever due. It moves when the schedule changes, is resumed, or its
	// job is started.
	Since time.Time `json:"since"`
	// Last is the latest due time that was decided on; each later decision is for a later time.
	Last time.Time `json:"last,omitzero"`
	// Skipped counts due times that were left out, and SkipReason says why the last of them was.
	Skipped    int       `json:"skipped,omitempty"`
	SkippedAt  time.Time `json:"skippedAt,omitzero"`
	SkipReason string    `json:"skipReason,omitempty"`
	// Seq is the number of the last run.
	Seq uint64 `json:"seq,omitempty"`
}

// Base is the time after which the next run is due.
func (s *ScheduleState) Base() time.Time {
	if s.Last.After(s.Since) {
		return s.Last
	}
	return s.Since
}

// Lateness is how late a run may begin; 0: any time.
func (s *Schedule) Lateness() time.Duration {
	if s.StartDeadline == 0 && s.Missed == MissedSkip {
		return MissedGrace
	}
	return s.StartDeadline
}

// ScheduledServices lists the services of a spec that have a schedule.
func (s *Spec) ScheduledServices() (out []*Service) {
	for i := range s.Services {
		if s.Services[i].Schedule != nil {
			out = append(out, &s.Services[i])
		}
	}
	return out
}

func (s *Schedule) validate(p *problems, at string) {
	if _, err := s.Parse(); err != nil {
		p.add(at, "%v", err)
	}
	switch s.Overlap {
	case "", OverlapForbid, OverlapAllow, OverlapReplace:
	default:
		p.add(at+".overlap", "%q is not known; use %s, %s or %s", shorten(string(s.Overlap)), OverlapForbid, OverlapAllow, OverlapReplace)
	}
	switch s.Missed {
	case "", MissedRun, MissedSkip:
	default:
		p.add(at+".missed", "%q is not known; use %s or %s", shorten(string(s.Missed)), MissedRun, MissedSkip)
	}
	if s.StartDeadline < 0 || s.StartDeadline > MaxBatchTime {
		p.add(at+".start_deadline", "%v is not within 0 and %v", s.StartDeadline, MaxBatchTime)
	}
}
