package main

import (
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

func TestPsTellsOfRunsAndOfAutoscaling(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
	seven := 7
	list := api.TaskList{
		Runs: []job.Run{
			{Job: "six", Service: "work", Seq: 1, Status: job.RunComplete, Slots: 6, Completed: 6, Created: now, Ended: now},
			{Job: "six", Service: "work", Seq: 2, Status: job.RunFailed, Slots: 6, Completed: 4, Failed: 2, Lost: 1, ExitCode: &seven, Reason: "work.3 failed 2 times", Ended: now.Add(-time.Minute)},
		},
		Autoscales: []job.AutoscaleState{{Job: "web", Service: "front", From: 2, To: 4, Cause: "autoscale: cpu 99 % of 50 %", At: now.Add(-time.Minute)}},
	}
	var b strings.Builder
	s := &screen{out: &b}
	s.table(taskTable(&list, newImages(nil), now))
	for _, want := range []string{"six/work run 2", "failed (exit code 7)", "4 of 6 complete, 2 failed, 1 lost: work.3 failed 2 times", "web/front", "scaled to 4", "autoscale: cpu 99 % of 50 %"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "run 1") {
		t.Errorf("a former run is shown:\n%s", b.String())
	}
}

func TestExitCodeOfABatch(t *testing.T) {
	code := func(n int) *int { return &n }
	for _, tt := range []struct {
		troubles []trouble
		want     int
	}{
		{nil, exitUnhealthy},
		{[]trouble{{text: "a service"}}, exitUnhealthy},
		{[]trouble{{run: &job.Run{ExitCode: code(42)}}}, 42},
		{[]trouble{{run: &job.Run{TimedOut: true}}}, exitTimedOut},
		{[]trouble{{text: "a service"}, {run: &job.Run{ExitCode: code(3)}}, {run: &job.Run{ExitCode: code(4)}}}, 3},
		{[]trouble{{run: &job.Run{}}}, exitUnhealthy},
	} {
		if got := exitCodeOf(tt.troubles); got != tt.want {
			t.Errorf("%+v: %d, want %d", tt.troubles, got, tt.want)
		}
	}
}
