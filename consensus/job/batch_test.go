package job

import (
	"strings"
	"testing"
)

func TestExitCodesAreJudged(t *testing.T) {
	one := func(n int) []CodeRange { return []CodeRange{{n, n}} }
	for _, tt := range []struct {
		e    *ExitCodes
		code int
		want ExitMeaning
	}{
		{nil, 0, ExitSuccess}, {nil, 1, ExitRetry}, {nil, 137, ExitRetry},
		{&ExitCodes{Success: one(3)}, 3, ExitSuccess}, {&ExitCodes{Success: one(3)}, 4, ExitRetry},
		{&ExitCodes{Fail: []CodeRange{{64, 78}}}, 64, ExitFail}, {&ExitCodes{Fail: []CodeRange{{64, 78}}}, 79, ExitRetry},
		{&ExitCodes{Retry: one(75)}, 75, ExitRetry}, {&ExitCodes{Retry: one(75)}, 1, ExitFail}, {&ExitCodes{Retry: one(75)}, 0, ExitSuccess},
	} {
		if got := tt.e.Judge(tt.code); got != tt.want {
			t.Errorf("%+v: code %d is %v, want %v", tt.e, tt.code, got, tt.want)
		}
	}
}

// What is no content must not make a batch run anew; what is must.
func TestDigestOfABatch(t *testing.T) {
	base := Service{Name: "b", Mode: ReplicatedJob, Replicas: 3, Image: "x"}
	for name, tt := range map[string]struct {
		change func(*Service)
		same   bool
	}{
		"parallelism":   {func(s *Service) { s.Batch = &Batch{Parallelism: 2} }, true},
		"schedule":      {func(s *Service) { s.Schedule = &Schedule{Cron: "@daily"} }, true},
		"completions":   {func(s *Service) { s.Replicas = 4 }, false},
		"exit codes":    {func(s *Service) { s.Batch = &Batch{Exits: &ExitCodes{Fail: []CodeRange{{1, 1}}}} }, false},
		"a new renewal": {func(s *Service) { s.Renewal = 1 }, false},
	} {
		s := base
		tt.change(&s)
		if same := s.Digest() == base.Digest(); same != tt.same {
			t.Errorf("%s: same digest is %v", name, same)
		}
	}
}

func TestDoneSlotsAreCountedOnce(t *testing.T) {
	r := &Run{Slots: 20, First: 40}
	for _, slot := range []int{41, 60, 41, 40, 61, 50} {
		before := r.Done
		r.MarkDone(slot, "")
		if len(before) > 0 && &before[0] == &r.Done[0] && slot == 50 {
			t.Error("it wrote into a row that others read")
		}
	}
	if r.Completed != 3 || !r.HasDone(41, "") || !r.HasDone(60, "") || r.HasDone(42, "") || r.HasDone(40, "") || r.HasDone(61, "") {
		t.Errorf("run %+v", r)
	}
	g := &Run{}
	for _, n := range []NodeID{"b", "a", "b"} {
		g.MarkDone(0, n)
	}
	if g.Completed != 2 || !g.HasDone(0, "a") || g.HasDone(0, "c") {
		t.Errorf("run %+v", g)
	}
}

func TestDiffOfABatchSpeaksOfRuns(t *testing.T) {
	spec := func(f func(*Service)) *Spec {
		s := &Spec{Name: "j", Services: []Service{{Name: "b", Mode: ReplicatedJob, Replicas: 3, Image: "x"}}}
		f(&s.Services[0])
		s.Normalize()
		return s
	}
	old := spec(func(*Service) {})
	for want, updated := range map[string]*Spec{
		"~ b: runs with its new content": spec(func(s *Service) { s.Image = "y" }),
		"~ b: its runs go another way":   spec(func(s *Service) { s.Batch = &Batch{Parallelism: 1} }),
	} {
		if got := Diff(old, updated).String(); !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := Diff(nil, old).String(); !strings.Contains(got, "+ b: 3 completions of x") {
		t.Errorf("%q", got)
	}
}
