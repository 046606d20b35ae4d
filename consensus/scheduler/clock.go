package scheduler

import "time"

// maxAnchors bounds the times of the log that a planner has on its own clock; beyond it, they are looked at anew.
const maxAnchors = 100_000

// anchors bring the times in the log, which are other machines' wall clocks, onto this leader's monotonic clock: each once,
// when it is first needed. From then on no clock that is set makes a wait longer or shorter, and a leader whose clock
// differs from its predecessor's is wrong about what it found by that difference, and about nothing that it sees come.
type anchors struct {
	// Wall is the wall clock; nil: that of what Plan is given.
	Wall func() time.Time
	skew time.Duration // wall clock less the time of the plan
	seen map[int64]time.Time
}

func (a *anchors) tick(now time.Time) {
	if a.Wall != nil {
		a.skew = a.Wall().Sub(now)
	}
}

// on is a time of the log on the clock of now.
func (a *anchors) on(at, now time.Time) time.Time {
	key := at.UnixNano()
	t, ok := a.seen[key]
	if !ok {
		if a.seen == nil || len(a.seen) >= maxAnchors {
			a.seen = map[int64]time.Time{}
		}
		t = now.Add(at.Sub(now.Round(0)) - a.skew)
		a.seen[key] = t
	}
	return t
}

// past is on for something that has happened: it was not later than when this leader first heard of it.
func (a *anchors) past(at, now time.Time) time.Time {
	t := a.on(at, now)
	if t.After(now) {
		t = now
		a.seen[at.UnixNano()] = t
	}
	return t
}
