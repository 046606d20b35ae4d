package compose

import (
	"testing"
	"time"

	"shoal/consensus/job"
)

func TestFailoverIsReadInBothForms(t *testing.T) {
	for text, want := range map[string]*job.Failover{
		"":                                       nil,
		"x-failover: manual":                     {Mode: job.FailoverManual},
		"x-failover: fenced\n    x-lease: 5s":    {Mode: job.FailoverFenced, Lease: 5 * time.Second},
		"x-failover: {mode: fenced, lease: 90s}": {Mode: job.FailoverFenced, Lease: 90 * time.Second},
		"x-lease: 1m":                            {Lease: time.Minute},
	} {
		spec, _, err := load(t, "services:\n  web:\n    image: busybox\n    "+text+"\n")
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		got := spec.Services[0].Failover
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}
