package main

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
)

func TestTryingAgainIsForWhatCanPassAndHasAnEnd(t *testing.T) {
	unavailable := job.Errorf(job.Unavailable, "no leader is known")
	for name, c := range map[string]struct {
		errs      []error // of the tries; the last one is repeated
		hopeless  bool    // trying again is not sensible
		want      job.Kind
		least     int // tries
		most      int
		mostSpent time.Duration
	}{
		"it passes":             {[]error{unavailable, unavailable, nil}, false, "", 3, 3, 5 * time.Second},
		"it never passes":       {[]error{unavailable}, false, job.Unavailable, 10, 100, retryFor + time.Second},
		"no agent was there":    {[]error{unavailable}, true, job.Unavailable, 1, 1, 0},
		"another kind of error": {[]error{job.Errorf(job.Conflict, "it changed")}, false, job.Conflict, 1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, begun := 0, time.Now()
				err := tryAgain(t.Context(), &screen{err: io.Discard}, retryFor, func() error {
					tries++
					return c.errs[min(tries, len(c.errs))-1]
				}, func() bool { return !c.hopeless })
				if spent := time.Since(begun); job.KindOf(err) != c.want || tries < c.least || tries > c.most || spent > c.mostSpent {
					t.Errorf("%v after %d tries in %v", err, tries, spent)
				}
			})
		})
	}
}
