package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"shoal/consensus/job"
)

func batchSpec(name string, n int, f ...func(*job.Service)) job.Spec {
	s := job.Service{Name: "b", Mode: job.ReplicatedJob, Replicas: n, Image: "work", Restart: job.Restart{Policy: job.RestartNever}}
	for _, g := range f {
		g(&s)
	}
	return job.Spec{Name: name, Services: []job.Service{s}}
}

func daily(s *job.Service) { s.Schedule = &job.Schedule{Cron: "@daily"} }

func overlap(o job.Overlap) func(*job.Service) {
	return func(s *job.Service) { s.Schedule = &job.Schedule{Cron: "@daily", Overlap: o} }
}

// placeRun places a task of a run.
func (l *log) placeRun(r *job.Run, id job.TaskID, slot int, node job.NodeID) *PlanResult {
	l.t.Helper()
	return l.do(Plan{Base: l.index, At: t0, Place: []job.Task{{
		ID: id, Job: r.Job, Service: r.Service, Digest: r.Digest, Slot: slot, Node: node, Desired: job.DesiredRun, Run: r.Seq, First: r.First, Due: r.Due,
	}}}).Value.(*PlanResult)
}

func (l *log) ended(node job.NodeID, id job.TaskID, s job.State, code int) *ReportResult {
	l.t.Helper()
	return l.do(Report{Node: node, At: t0, Statuses: []job.Status{{Task: id, Seq: 9, State: s, ExitCode: &code}}}).Value.(*ReportResult)
}

func (l *log) fire(due time.Time) Result {
	return l.try(FireSchedule{Job: "j", Service: "b", Cron: "@daily", Due: due, At: due})
}

// scriptedBatch is the golden log of batches, schedules and autoscaling. It is never changed.
func scriptedBatch(l *log) {
	l.cluster().nodes("a", "b")
	l.do(PutJob{Spec: batchSpec("j", 3), At: t0})
	r := l.s.View().LastRun("j", "b")
	l.placeRun(r, "t1", 1, "id-a")
	l.placeRun(r, "t2", 2, "id-b")
	l.ended("id-a", "t1", job.Complete, 0)
	l.ended("id-b", "t2", job.Failed, 7)
	l.do(Plan{Base: l.index, At: t0, Runs: []RunStep{{Job: "j", Service: "b", Seq: 1, Status: job.RunFailed, Reason: "exit code 7", Task: "t2"}}})
	l.do(Plan{Base: l.index, At: t0, Runs: []RunStep{{Job: "j", Service: "b", Seq: 1, Forget: true}}})
	l.do(StartRun{Job: "j", Service: "b", Key: "k", At: t0})
	l.do(StopRun{Job: "j", Service: "b", At: t0})
	l.do(PutJob{Spec: batchSpec("j", 1, daily), At: t0})
	day := t0.Add(24 * time.Hour)
	l.fire(day)
	l.do(FireSchedule{Job: "j", Service: "b", Cron: "@daily", Due: day.Add(time.Hour), Skip: "late", At: day})
	l.do(PauseSchedule{Job: "j", Service: "b", Paused: true, At: day})
	l.do(PutJob{Spec: job.Spec{Name: "web", Services: []job.Service{{Name: "web", Image: "web", Replicas: 2, Autoscale: &job.Autoscale{Min: 1, Max: 5, CPU: 50}}}}, At: t0})
	l.do(Autoscale{Job: "web", Service: "web", From: 2, To: 4, Cause: "autoscale: cpu 99 % of 50 %", At: t0})
}

// scriptedRuns is the golden log of what level 2 of the rules changed, before and after it. It is never changed.
func scriptedRuns(l *log) {
	l.cluster().upgraded("a")
	at := t0
	for _, level := range []int{1, 2} {
		l.raise(level)
		l.do(PutJob{Spec: batchSpec("j", 1, daily), At: at})
		l.do(StopJob{Job: "j", At: at})
		at = at.Add(100 * 24 * time.Hour)
		l.do(PutJob{Spec: batchSpec("j", 2, daily), At: at})
		l.fire(at.Add(-time.Hour)) // at level 1 only
		l.fire(at.Add(time.Hour))  // at level 2 only: at 1 the former is under way
		r := l.s.View().LastRun("j", "b")
		id := job.TaskID(fmt.Sprint("t", level))
		l.placeRun(r, id, 1, "id-a")
		l.do(PutJob{Spec: batchSpec("j", 2), At: at.Add(2 * time.Hour)})
		l.do(RemoveJob{Job: "j", At: at})
		l.do(PutJob{Spec: batchSpec("j", 2), At: at})
		l.do(NodeDown{Node: "id-a", At: at})
		l.do(Plan{Base: l.index, At: at, Stop: []TaskStop{{ID: id, Desired: job.DesiredLost}}})
		l.do(NodeUp{Node: "id-a", At: at})
		l.do(RemoveJob{Job: "j", At: at})
	}
	l.do(PutJob{Spec: batchSpec("j", 2), At: at})
}

func TestCompletionsAreCountedOnceAlsoWhenTasksAreForgotten(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b")
	l.do(PutJob{Spec: batchSpec("j", 2), At: t0})
	r := l.s.View().LastRun("j", "b")
	l.placeRun(r, "t1", 1, "id-a")
	l.ended("id-a", "t1", job.Complete, 0)
	if res := l.ended("id-a", "t1", job.Complete, 0); res.Taken != 0 {
		t.Error("the same end was taken twice")
	}
	l.do(NodeDown{Node: "id-a", At: t0})
	l.do(RemoveNode{Node: "id-a", Force: true, At: t0}) // takes the task with it, if the node may go
	if res := l.placeRun(r, "t2", 1, "id-b"); len(res.Refused) != 1 || res.Refused[0].Reason != "has completed already" {
		t.Errorf("placed again: %+v", res)
	}
	if res := l.do(Plan{Base: l.index, At: t0, Runs: []RunStep{{Job: "j", Service: "b", Seq: 1, Status: job.RunComplete}}}).Value.(*PlanResult); len(res.Refused) != 1 {
		t.Error("a run with a missing completion was ended as complete")
	}
	// A task that was told to stop completes nothing, whatever its exit code.
	l.placeRun(r, "t3", 2, "id-b")
	l.do(Plan{Base: l.index, At: t0, Stop: []TaskStop{{ID: "t3", Desired: job.DesiredStop}}})
	l.ended("id-b", "t3", job.Complete, 0)
	if got := l.s.View().LastRun("j", "b"); got.Completed != 1 || got.Failed != 0 {
		t.Errorf("run %+v", got)
	}
}

func TestOneRunForEachDueTime(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	l.do(PutJob{Spec: batchSpec("j", 1, daily), At: t0})
	day := t0.Add(24 * time.Hour).Truncate(time.Hour)
	if r := l.fire(t0.Add(-time.Hour)); job.KindOf(r.Err) != job.Conflict {
		t.Errorf("a time before the schedule began: %v", r.Err)
	}
	if r := l.fire(day); r.Err != nil || r.Value.(*job.Run).Due != day {
		t.Fatalf("the first: %+v", r)
	}
	for _, due := range []time.Time{day, day.Add(-time.Hour)} { // another leader, or a clock that was set back
		if r := l.fire(due); job.KindOf(r.Err) != job.Conflict {
			t.Errorf("%v again: %v", due, r.Err)
		}
	}
	if r := l.try(FireSchedule{Job: "j", Service: "b", Cron: "@hourly", Due: day.Add(time.Hour), At: day}); job.KindOf(r.Err) != job.Conflict {
		t.Errorf("by an expression that it has not: %v", r.Err)
	}
	l.do(PauseSchedule{Job: "j", Service: "b", Paused: true, At: day})
	if r := l.fire(day.Add(time.Hour)); job.KindOf(r.Err) != job.Conflict {
		t.Errorf("paused: %v", r.Err)
	}
	l.do(PauseSchedule{Job: "j", Service: "b", At: day.Add(48 * time.Hour)})
	if r := l.fire(day.Add(24 * time.Hour)); job.KindOf(r.Err) != job.Conflict {
		t.Errorf("what was due while it was paused: %v", r.Err)
	}
	// A clock that was far ahead does not bind a schedule for ever: somebody resumes it.
	l.fire(day.Add(100 * 24 * time.Hour))
	l.do(PauseSchedule{Job: "j", Service: "b", Paused: true, At: day.Add(72 * time.Hour)})
	l.do(PauseSchedule{Job: "j", Service: "b", At: day.Add(73 * time.Hour)})
	if r := l.fire(day.Add(96 * time.Hour)); r.Err != nil {
		t.Errorf("after a clock was wrong: %v", r.Err)
	}
}

// A job that was stopped is started by a submit, with a change or without: what was due meanwhile is over.
func TestASubmitMakesUpForNothing(t *testing.T) {
	for _, tc := range []struct {
		level int
		spec  job.Spec
		fires bool // what was due while it was stopped
	}{
		{rulesBatches - 1, batchSpec("j", 1, daily), false},
		{rulesBatches - 1, batchSpec("j", 2, daily), true}, // as log-holders before that level have it
		{rulesBatches, batchSpec("j", 1, daily), false},
		{rulesBatches, batchSpec("j", 2, daily), false},
	} {
		l := newLog(t).cluster().upgraded("a").raise(tc.level)
		l.do(PutJob{Spec: batchSpec("j", 1, daily), At: t0})
		l.do(StopJob{Job: "j", At: t0.Add(time.Hour)})
		again := t0.Add(100 * 24 * time.Hour)
		l.do(PutJob{Spec: tc.spec, At: again})
		if since := l.s.View().Schedule("j", "b").Since; since.Equal(again) == tc.fires {
			t.Errorf("level %d, %d completions: it counts from %v", tc.level, tc.spec.Services[0].Replicas, since)
		}
		if r := l.fire(again.Add(-time.Hour)); (r.Err == nil) != tc.fires || !tc.fires && job.KindOf(r.Err) != job.Conflict {
			t.Errorf("level %d, %d completions: what was due while it was stopped: %v", tc.level, tc.spec.Services[0].Replicas, r.Err)
		}
		if r := l.fire(again.Add(24 * time.Hour)); r.Err != nil {
			t.Errorf("level %d: the next: %v", tc.level, r.Err)
		}
		// A change of a job that is not stopped moves nothing.
		since := l.s.View().Schedule("j", "b").Since
		l.do(PutJob{Spec: batchSpec("j", 3, daily), At: again.Add(48 * time.Hour)})
		if got := l.s.View().Schedule("j", "b").Since; got != since {
			t.Errorf("level %d: after a change it counts from %v", tc.level, got)
		}
	}
}

// A schedule is no content: what it began runs to its end without it, unless the content changes too.
func TestARunOutlivesItsSchedule(t *testing.T) {
	image := func(s *job.Service) { s.Image = "work:2" }
	for _, tc := range []struct {
		level   int
		started int // runs of the schedule that are under way
		f       []func(*job.Service)
		active  []uint64 // runs after it was taken away
	}{
		{rulesBatches - 1, 1, nil, nil}, // as log-holders before that level have it: ended, and nothing in its place
		{rulesBatches, 1, nil, []uint64{1}},
		{rulesBatches, 3, nil, []uint64{1, 2, 3}},
		{rulesBatches - 1, 1, []func(*job.Service){image}, []uint64{2}},
		{rulesBatches, 1, []func(*job.Service){image}, []uint64{2}},
		{rulesBatches, 0, nil, []uint64{1}}, // it has never run
	} {
		l := newLog(t).cluster().upgraded("a").raise(tc.level)
		l.do(PutJob{Spec: batchSpec("j", 1, overlap(job.OverlapAllow)), At: t0})
		for i := range tc.started {
			if r := l.fire(t0.Add(time.Duration(i+1) * 24 * time.Hour)); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		l.do(PutJob{Spec: batchSpec("j", 1, tc.f...), At: t0.Add(99 * 24 * time.Hour)})
		var active []uint64
		for _, r := range l.s.View().Runs("j", "b") {
			if r.Active() {
				active = append(active, r.Seq)
			}
		}
		if !slices.Equal(active, tc.active) {
			t.Errorf("level %d, %d of the schedule, other content %t: under way are %v, want %v", tc.level, tc.started, tc.f != nil, active, tc.active)
		}
		if l.s.View().Schedule("j", "b") != nil {
			t.Error("it still has a schedule")
		}
		// The next one begins by hand, once nothing is under way.
		if r := l.try(StartRun{Job: "j", Service: "b", At: t0}); (r.Err == nil) != (active == nil) || r.Err != nil && job.KindOf(r.Err) != job.Conflict {
			t.Errorf("level %d, %v under way: another by hand: %v", tc.level, active, r.Err)
		}
	}
}

// A job that comes again under the name of one that was removed has a first run too. Tasks of the former one that still stop
// are not counted there, and go when they have ended.
func TestTasksOfARemovedJobAreOfNoRun(t *testing.T) {
	for level, counted := range map[int]int{rulesBatches - 1: 1, rulesBatches: 0} { // before, log-holders counted them
		l := newLog(t).cluster().upgraded("a", "b").raise(level)
		l.do(PutJob{Spec: batchSpec("j", 2), At: t0})
		r := l.s.View().LastRun("j", "b")
		l.placeRun(r, "t1", 1, "id-a")
		l.placeRun(r, "t2", 2, "id-b")
		l.do(RemoveJob{Job: "j", At: t0})
		l.do(PutJob{Spec: batchSpec("j", 3), At: t0})
		if r = l.s.View().LastRun("j", "b"); r.Seq != 1 {
			t.Fatalf("it begins with run %d", r.Seq)
		}
		l.placeRun(r, "t3", 3, "id-a")
		l.do(NodeDown{Node: "id-a", At: t0})
		l.do(Plan{Base: l.index, At: t0, Stop: []TaskStop{{ID: "t1", Desired: job.DesiredLost}, {ID: "t3", Desired: job.DesiredLost}}})
		l.ended("id-b", "t2", job.Failed, 7)
		if r = l.s.View().LastRun("j", "b"); r.Lost != 1+counted || r.Failed != 0 {
			t.Errorf("level %d: %d tasks were lost and %d failed, want %d and 0", level, r.Lost, r.Failed, 1+counted)
		}
		v := l.s.View()
		if left := v.Task("t1") != nil && v.Task("t2") != nil; left != (counted > 0) || v.Task("t3") == nil {
			t.Errorf("level %d: kept are %v, %v and %v", level, v.Task("t1"), v.Task("t2"), v.Task("t3"))
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, o := range []job.Overlap{"", job.OverlapAllow, job.OverlapReplace} {
		l := newLog(t).cluster().nodes("a")
		l.do(PutJob{Spec: batchSpec("j", 2, overlap(o)), At: t0})
		for i := range job.MaxOverlap + 2 {
			if r := l.fire(t0.Add(time.Duration(i+1) * 24 * time.Hour)); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		active, slots := 0, map[int]bool{}
		for _, r := range l.s.View().Runs("j", "b") {
			if !r.Active() {
				continue
			}
			active++
			for i := range r.Slots {
				if slots[r.First+i] {
					t.Errorf("%q: two runs share slot %d", o, r.First+i)
				}
				slots[r.First+i] = true
			}
		}
		want := map[job.Overlap]int{"": 1, job.OverlapAllow: job.MaxOverlap, job.OverlapReplace: 1}[o]
		skipped := l.s.View().Schedule("j", "b").Skipped
		left := map[job.Overlap]int{"": job.MaxOverlap + 1, job.OverlapAllow: 2, job.OverlapReplace: 0}[o]
		if active != want || skipped != left {
			t.Errorf("%q: %d runs under way and %d left out, want %d and %d", o, active, skipped, want, left)
		}
	}
}

// Whatever is done in whatever order: the counts of each run are those of a bookkeeper who saw every end, no due time has
// two runs, and the invariants of all tables hold.
func TestRunsAgainstABookkeeper(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 41))
		l := newLog(t).cluster().nodes("a", "b")
		done := map[string]map[int]bool{} // by run
		due := map[time.Time]int{}
		clock := t0
		ids := 0
		for range 300 {
			v := l.s.View()
			switch r.IntN(9) {
			case 0:
				l.try(PutJob{Spec: batchSpec("j", 1+r.IntN(4), func(s *job.Service) { s.Image = fmt.Sprint(r.IntN(3)) }), At: clock})
				for at, n := range due { // a schedule that comes back after this is another one
					if n != 1 {
						t.Errorf("seed %d: %d runs for %v", seed, n, at)
					}
				}
				clear(due)
			case 1:
				l.try(PutJob{Spec: batchSpec("j", 1+r.IntN(4), overlap([]job.Overlap{"", job.OverlapAllow, job.OverlapReplace}[r.IntN(3)])), At: clock})
			case 2:
				clock = clock.Add(time.Duration(r.IntN(30)-5) * time.Hour)
				at := clock.Truncate(24 * time.Hour)
				if res := l.fire(at); res.Err == nil && res.Value != nil {
					due[at]++
				}
			case 3:
				l.try(StartRun{Job: "j", Service: "b", At: clock})
			case 4, 5:
				for _, run := range v.Runs("j", "b") {
					if run.Active() {
						ids++
						l.placeRun(run, job.TaskID(fmt.Sprintf("t%d", ids)), run.First+1+r.IntN(run.Slots), []job.NodeID{"id-a", "id-b"}[r.IntN(2)])
					}
				}
			case 6, 7:
				for _, k := range v.Tasks() {
					if st := v.Status(k.ID); st != nil && st.State.Terminal() || r.IntN(2) == 0 {
						continue
					}
					state := []job.State{job.Complete, job.Failed, job.Lost}[r.IntN(3)]
					active := v.Run("j", "b", k.Run).Active()
					l.ended(k.Node, k.ID, state, 0)
					key := fmt.Sprint(k.Run)
					if state == job.Complete && active && k.Desired == job.DesiredRun {
						if done[key] == nil {
							done[key] = map[int]bool{}
						}
						done[key][k.Slot] = true
					}
				}
			case 8:
				var steps []RunStep
				for _, run := range v.Runs("j", "b") {
					steps = append(steps, RunStep{Job: "j", Service: "b", Seq: run.Seq, Status: []job.RunStatus{job.RunComplete, job.RunFailed}[r.IntN(2)], Forget: r.IntN(3) == 0})
				}
				l.do(Plan{Base: l.index, At: clock, Runs: steps})
			}
			for _, run := range l.s.View().Runs("j", "b") {
				if run.Completed != len(done[fmt.Sprint(run.Seq)]) {
					t.Fatalf("seed %d: run %d has %d completions, the bookkeeper %d", seed, run.Seq, run.Completed, len(done[fmt.Sprint(run.Seq)]))
				}
			}
			if why := broken(l.s); why != "" {
				t.Fatalf("seed %d: %s", seed, why)
			}
		}
		for at, n := range due {
			if n != 1 {
				t.Errorf("seed %d: %d runs for %v", seed, n, at)
			}
		}
	}
}
