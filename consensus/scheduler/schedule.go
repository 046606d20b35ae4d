package scheduler

import (
	"fmt"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// maxTimetables bounds what Schedules keeps of parsed expressions.
const maxTimetables = 10_000

// Schedules decides which scheduled runs are due. What it keeps is a cache only; the zero value is ready. One goroutine
// owns it.
type Schedules struct {
	parsed map[job.Schedule]*job.Timetable
}

// Due lists what is to be decided at now, the leader's wall clock, by job and service, and when to ask again; zero: only
// when jobs or schedules change. It is a function of the view and now alone. Of several due times that were missed only the
// last one is decided on, as the schedule's policy says.
func (d *Schedules) Due(v *state.View, now time.Time) (fire []state.FireSchedule, next time.Time) {
	for _, row := range v.Schedules("") {
		j := v.Job(row.Job)
		if j == nil || j.Stopped || row.Paused {
			continue
		}
		s := j.Spec.Service(row.Service)
		if s == nil || s.Schedule == nil || s.Schedule.Paused {
			continue
		}
		table := d.timetable(*s.Schedule)
		if table == nil {
			continue
		}
		base := row.Base()
		if due := table.LastDue(base, now); !due.IsZero() {
			c := state.FireSchedule{Job: row.Job, Service: row.Service, Cron: s.Schedule.Cron, TimeZone: s.Schedule.TimeZone, Due: due.UTC(), At: now}
			if most, late := s.Schedule.Lateness(), now.Sub(due); most > 0 && late > most {
				c.Skip = fmt.Sprintf("nobody could begin it for %v, and its start_deadline is %v", late.Round(time.Second), most)
			}
			fire = append(fire, c)
			base = due
		}
		if at := table.Next(base); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return fire, next
}

func (d *Schedules) timetable(s job.Schedule) *job.Timetable {
	key := job.Schedule{Cron: s.Cron, TimeZone: s.TimeZone}
	if t, ok := d.parsed[key]; ok {
		return t
	}
	t, err := s.Parse()
	if err != nil {
		t = nil // a submit refuses it; a zone that this machine alone lacks cannot be, they are part of the program
	}
	if d.parsed == nil || len(d.parsed) >= maxTimetables {
		d.parsed = map[job.Schedule]*job.Timetable{}
	}
	d.parsed[key] = t
	return t
}
