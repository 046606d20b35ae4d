package scheduler

import (
	"testing"
	"time"
)

// A time of the log is on the leader's clock once and for all: whoever sets the wall clock afterwards changes no wait, and
// what has happened has happened, whatever a former leader's clock said.
func TestClocksThatAreSetChangeNoWait(t *testing.T) {
	now := time.Now()
	ahead := time.Duration(0)
	a := anchors{Wall: func() time.Time { return now.Round(0).Add(ahead) }}
	a.tick(now)
	due := now.Round(0).Add(time.Minute)
	if got := a.on(due, now).Sub(now); got != time.Minute {
		t.Errorf("due in %v, want a minute", got)
	}
	for _, ahead = range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		a.tick(now)
		if got := a.on(due, now).Sub(now); got != time.Minute {
			t.Errorf("due in %v after the clock was set by %v", got, ahead)
		}
		future := now.Round(0).Add(ahead).Add(48 * time.Hour)
		if got := a.past(future, now); !got.Equal(now) || !a.past(future, now.Add(time.Second)).Equal(now) {
			t.Errorf("what another clock says will be was %v ago", now.Sub(got))
		}
	}
}
