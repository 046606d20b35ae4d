package main

import (
	"context"
	"testing"

	"shoal/consensus/job"
)

func TestAttachEndsWithTheTasksCodeAfterASignalThatItSentOn(t *testing.T) {
	for _, want := range []int{3, 0} {
		cl := logCluster()
		cl.jobs["web"] = &job.Job{Name: "web", Spec: job.Spec{Services: []job.Service{{Name: "front"}}}}
		ctx, cancel := context.WithCancel(t.Context())
		cl.onAttach = func() (int, error) {
			cancel() // as main's context is by the signal
			return want, nil
		}
		if code, _, errs := shoalIn(t, ctx, cl.serve(t), "", "attach web/front.1"); code != want {
			t.Errorf("code %d, %q, want %d", code, errs, want)
		}
	}
}
