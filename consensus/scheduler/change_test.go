package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func limit(mib int64) func(*job.Service) {
	return func(s *job.Service) { s.Limits.MemoryBytes = mib << 20 }
}

func labelled(v string) func(*job.Service) {
	return func(s *job.Service) { s.Labels = map[string]string{"v": v} }
}

func idsOf(tasks []*job.Task) (out []job.TaskID) {
	for _, k := range tasks {
		out = append(out, k.ID)
	}
	return out
}

func (w *world) contents(service string) (out []string) {
	for _, k := range w.running("j", service) {
		s := w.store.View().Service(k.Digest)
		out = append(out, fmt.Sprintf("%s:%s:%d", s.Image, s.Labels["v"], s.Limits.MemoryBytes>>20))
	}
	return out
}

func TestChangeInPlaceKeepsTheTasks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*job.Service)
		want   string
		takes  time.Duration // at least
		most   time.Duration
	}{
		{"labels at once", labelled("2"), "[i:2:64 i:2:64 i:2:64]", 0, time.Second},
		{"limits one by one, each proven", limit(128), "[i::128 i::128 i::128]", 15 * time.Second, 20 * time.Second},
		{"a check", func(s *job.Service) { s.Health = &job.Health{Test: []string{"CMD", "x"}} }, "[i::64 i::64 i::64]", 15 * time.Second, 20 * time.Second},
		{"a constraint that still holds", func(s *job.Service) {
			s.Constraints = []job.Constraint{{Key: "node.labels.zone", Op: "==", Value: "x"}}
		}, "[i::64 i::64 i::64]", 0, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			for i := range 3 {
				w.node(fmt.Sprint("n", i), label("zone", "x"))
			}
			w.submit("j", svc("s", 3, image("i"), limit(64)))
			w.settle()
			before := idsOf(w.running("j", "s"))
			w.submit("j", svc("s", 3, image("i"), limit(64), tt.change))
			begun, ended := w.now, time.Time{}
			w.pass(time.Minute, func() {
				if w.ready("j", "s") != 3 {
					t.Fatal(w.dump())
				}
				if w.status("s") == job.RolloutComplete && ended.IsZero() {
					ended = w.now
				}
			})
			if got := idsOf(w.running("j", "s")); fmt.Sprint(got) != fmt.Sprint(before) {
				t.Errorf("replaced: %v became %v", before, got)
			}
			if got := fmt.Sprint(w.contents("s")); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if d := ended.Sub(begun); ended.IsZero() || d < tt.takes || d > tt.most {
				t.Errorf("took %v, want %v to %v", d, tt.takes, tt.most)
			}
		})
	}
}

func TestAChangeThatCannotBeDoneInPlaceReplaces(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.submit("j", svc("s", 2, image("i"), limit(128)))
	w.settle()
	before := idsOf(w.running("j", "s"))
	w.stiff = true
	w.submit("j", svc("s", 2, image("i"), limit(64)))
	w.pass(time.Minute, func() {
		if w.ready("j", "s") != 2 {
			t.Fatal(w.dump())
		}
	})
	after := w.running("j", "s")
	for i, k := range after {
		if k.ID == before[i] || !strings.Contains(k.Cause, "which could not be done in place: it uses more than that") {
			t.Errorf("%s: %q", k.Name(), k.Cause)
		}
	}
	if w.status("s") != job.RolloutComplete || len(after) != 2 {
		t.Error(w.dump())
	}
}

func TestAChangeInPlaceThatHurtsIsTakenBack(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 3, image("i"), limit(128)))
	w.settle()
	before := idsOf(w.running("j", "s"))
	w.submit("j", svc("s", 3, image("i"), limit(64)))
	w.pass(2*time.Second, nil)
	tuned := 0
	for _, k := range w.running("j", "s") {
		if k.Watched > 0 {
			tuned++
			w.seq++
			w.apply(state.Report{Node: k.Node, At: w.now, Statuses: []job.Status{{Task: k.ID, Seq: w.seq, State: job.Running, Health: job.Unhealthy, Tuned: k.Tuned}}})
		}
	}
	w.plan() // it judges
	for _, k := range w.running("j", "s") {
		if st := w.store.View().Status(k.ID); st.Health == job.Unhealthy {
			w.seq++
			w.apply(state.Report{Node: k.Node, At: w.now, Statuses: []job.Status{{Task: k.ID, Seq: w.seq, State: job.Running, Tuned: k.Tuned}}})
		}
	}
	w.pass(time.Minute, nil)
	j := w.store.View().Job("j")
	if tuned != 1 || j.Version != 3 || !strings.Contains(j.Cause, "rolled back from version 2") || fmt.Sprint(w.contents("s")) != "[i::128 i::128 i::128]" {
		t.Errorf("%d tuned; version %d: %s; %v", tuned, j.Version, j.Cause, w.contents("s"))
	}
	if got := idsOf(w.running("j", "s")); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("%v became %v %s", before, got, w.dump())
	}
}

func TestAConstraintMovesOnlyTheTasksThatBreakIt(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", label("zone", "x"))
	w.node("b", label("zone", "y"))
	w.submit("j", svc("s", 4, image("i")))
	w.settle()
	on := map[job.TaskID]job.NodeID{}
	for _, k := range w.running("j", "s") {
		on[k.ID] = k.Node
	}
	w.submit("j", svc("s", 4, image("i"), func(s *job.Service) {
		s.Constraints = []job.Constraint{{Key: "node.labels.zone", Op: "==", Value: "x"}}
	}))
	w.pass(time.Minute, nil)
	kept := 0
	for _, k := range w.running("j", "s") {
		if k.Node != "id-a" {
			t.Errorf("%s is on %s", k.Name(), k.Node)
		}
		if on[k.ID] == "id-a" {
			kept++
		}
	}
	if kept != 2 || len(w.running("j", "s")) != 4 || w.status("s") != job.RolloutComplete {
		t.Errorf("%d kept %s", kept, w.dump())
	}
}

func TestASuccessorThatCannotBePulledCostsNothing(t *testing.T) {
	for _, order := range []job.UpdateOrder{job.OrderAuto, job.StopFirst} {
		for _, opt := range []func(*job.Service){image("old"), wantMemory(3000), func(s *job.Service) {
			s.Ports = []job.Port{{Published: 80, Target: 80, Protocol: "tcp"}}
		}} {
			w := newWorld(t, 1)
			for i := range 3 {
				w.node(fmt.Sprint("n", i))
			}
			u := updating(job.Update{Order: order})
			w.submit("j", svc("s", 3, opt, image("old"), u))
			w.settle()
			before := idsOf(w.running("j", "s"))
			w.failing("bad")
			w.submit("j", svc("s", 3, opt, image("bad"), u))
			w.pass(time.Minute, func() {
				if w.ready("j", "s") != 3 {
					t.Fatalf("order %q: only %d serve %s", order, w.ready("j", "s"), w.dump())
				}
			})
			if got := idsOf(w.running("j", "s")); fmt.Sprint(got) != fmt.Sprint(before) || w.store.View().Job("j").Version != 3 {
				t.Errorf("order %q: %v became %v %s", order, before, got, w.dump())
			}
		}
	}
}

func TestAHeldSuccessorStartsOnlyAfterTheEnd(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1000))
	w.submit("j", svc("s", 1, image("old"), wantMemory(900)))
	w.settle()
	w.submit("j", svc("s", 1, image("new"), wantMemory(900)))
	w.pass(time.Minute, func() {
		up := 0
		for _, k := range w.store.View().TasksOfService("j", "s") {
			if st := w.store.View().Status(k.ID); st != nil && st.State == job.Running {
				up++
			}
		}
		if up > 1 {
			t.Fatalf("two run in the room of one %s", w.dump())
		}
	})
	w.allRun("j", "s", 1, "new")
	if w.status("s") != job.RolloutComplete {
		t.Error(w.dump())
	}
}

func TestCanariesWaitForTheirPromotion(t *testing.T) {
	canary := updating(job.Update{Canaries: 2, Parallelism: 2})
	for _, end := range []string{"promote", "fail", "new leader", "auto"} {
		t.Run(end, func(t *testing.T) {
			w := newWorld(t, 1)
			for i := range 3 {
				w.node(fmt.Sprint("n", i))
			}
			opt := canary
			if end == "auto" {
				opt = updating(job.Update{Canaries: 2, Parallelism: 2, AutoPromote: true})
			}
			w.submit("j", svc("s", 5, image("old"), opt))
			w.settle()
			old := idsOf(w.running("j", "s"))
			w.submit("j", svc("s", 5, image("new"), opt))
			if end == "auto" {
				begun := w.now
				w.pass(5*time.Minute, func() {
					if n := len(w.running("j", "s")); w.now.Sub(begun) < job.DefaultMonitor && n > 7 {
						t.Fatalf("%d tasks before the canaries have proven themselves %s", n, w.dump())
					}
					if r := w.store.View().Rollout("j", "s"); w.now.Sub(begun) < job.DefaultMonitor && r.Canaries == 0 {
						t.Fatal("promoted before the canaries have proven themselves")
					}
				})
				w.allRun("j", "s", 5, "new")
				return
			}
			w.pass(time.Second, nil)
			if st := w.status("s"); st != job.RolloutRunning {
				t.Errorf("%s before the canaries have proven themselves", st)
			}
			w.pass(5*time.Minute, nil)
			if got := fmt.Sprint(w.contents("s")); got != "[new::0 new::0 old::0 old::0 old::0]" || w.status("s") != job.RolloutCanary {
				t.Fatalf("%s is %s %s", got, w.status("s"), w.dump())
			}
			if b := w.blocked("j", "s"); !strings.Contains(b, "shoal promote j/s") {
				t.Errorf("blocked: %q", b)
			}
			if end == "new leader" {
				w.p = New(w.store.View())
				w.p.NewID = SeededIDs([32]byte{9})
				w.pass(5*time.Minute, nil)
				// What is lost now is no canary: it comes back as it was.
				gone := w.running("j", "s")[4]
				w.cut[gone.Node] = true
				w.apply(state.NodeDown{Node: gone.Node, At: w.now})
				w.pass(5*time.Minute, nil)
				if got := fmt.Sprint(w.contents("s")); got != "[new::0 new::0 old::0 old::0 old::0]" {
					t.Fatalf("%s after a node was lost %s", got, w.dump())
				}
			}
			if end == "fail" {
				w.apply(state.FailJob{Job: "j", Reason: "too slow", At: w.now})
				w.pass(5*time.Minute, nil)
				w.allRun("j", "s", 5, "old")
				if got := idsOf(w.running("j", "s")); fmt.Sprint(got[2:]) != fmt.Sprint(old[2:]) {
					t.Errorf("%v became %v", old, got)
				}
				if j := w.store.View().Job("j"); j.Cause != "rolled back from version 2: too slow" {
					t.Error(j.Cause)
				}
				return
			}
			w.apply(state.PromoteJob{Job: "j", Services: []string{"s"}, At: w.now})
			w.pass(5*time.Minute, nil)
			w.allRun("j", "s", 5, "new")
			if w.status("s") != job.RolloutComplete || w.blocked("j", "s") != "" {
				t.Error(w.dump())
			}
			if r := w.tryApply(state.PromoteJob{Job: "j", At: w.now}); job.KindOf(r.Err) != job.Conflict {
				t.Errorf("promoted again: %v", r.Err)
			}
		})
	}
}

func TestCanariesThatFailAreTakenBack(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	opt := updating(job.Update{Canaries: 1})
	w.submit("j", svc("s", 3, image("old"), opt))
	w.settle()
	before := idsOf(w.running("j", "s"))
	w.failing("new")
	w.submit("j", svc("s", 3, image("new"), opt))
	w.pass(5*time.Minute, nil)
	w.allRun("j", "s", 3, "old")
	if got := idsOf(w.running("j", "s")); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("%v became %v", before, got)
	}
}

func needs(service, condition string) func(*job.Service) {
	return func(s *job.Service) {
		s.DependsOn = append(s.DependsOn, job.Dependency{Service: service, Condition: condition})
	}
}

func TestUpdatesGoInTheOrderOfDependencies(t *testing.T) {
	once := func(s *job.Service) { s.Restart.Policy = job.RestartNever }
	file := func(v string) []job.Service {
		return []job.Service{
			svc("db", 2, image("db"+v)), svc("migrate", 1, image("m"+v), once, needs("db", job.DependHealthy)),
			svc("web", 2, image("web"+v), needs("migrate", job.DependCompleted), needs("db", job.DependStarted)),
		}
	}
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.behave = func(k *job.Task) job.State {
		if k.Service == "migrate" {
			return job.Complete
		}
		return job.Running
	}
	w.submit("j", file("1")...)
	w.settle()
	w.submit("j", file("2")...)
	var order []string
	seen := map[job.TaskID]bool{}
	w.pass(5*time.Minute, func() {
		v := w.store.View()
		for _, k := range v.TasksOfJob("j") {
			if st := v.Status(k.ID); strings.HasSuffix(v.Service(k.Digest).Image, "2") && !seen[k.ID] && st != nil && k.Wait == job.WaitNone {
				seen[k.ID] = true
				order = append(order, k.Service)
			}
		}
	})
	if fmt.Sprint(order) != "[db db migrate web web]" {
		t.Errorf("%v %s", order, w.dump())
	}
}

func TestADependencyThatIsTakenBackTakesItsDependentsAlong(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	file := func(v string) []job.Service {
		return []job.Service{
			svc("cache", 1, image("cache"+v)), svc("db", 1, image("db"+v)), svc("web", 2, image("web"+v), needs("db", job.DependHealthy)),
		}
	}
	w.submit("j", file("1")...)
	w.settle()
	before := append(idsOf(w.running("j", "web")), idsOf(w.running("j", "db"))...)
	w.failing("db2")
	w.submit("j", file("2")...)
	w.pass(5*time.Minute, func() {
		for _, k := range w.running("j", "web") {
			if w.store.View().Service(k.Digest).Image != "web1" {
				t.Fatalf("web was updated before db %s", w.dump())
			}
		}
	})
	w.allRun("j", "web", 2, "web1")
	w.allRun("j", "db", 1, "db1")
	w.allRun("j", "cache", 1, "cache2")
	if got := append(idsOf(w.running("j", "web")), idsOf(w.running("j", "db"))...); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("%v became %v", before, got)
	}
	if j := w.store.View().Job("j"); j.Version != 3 {
		t.Errorf("version %d", j.Version)
	}
}

func TestDependentsRestartWithTheirDependency(t *testing.T) {
	restarting := func(s *job.Service) {
		s.DependsOn = []job.Dependency{{Service: "db", Condition: job.DependHealthy, Restart: true}}
	}
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("db", 1, image("db1")), svc("web", 1, image("web"), restarting), svc("other", 1, image("o"), needs("db", job.DependStarted)))
	w.settle()
	was := map[string]job.TaskID{}
	note := func() (changed []string) {
		for _, s := range []string{"db", "other", "web"} {
			if id := w.running("j", s)[0].ID; id != was[s] {
				was[s] = id
				changed = append(changed, s)
			}
		}
		return changed
	}
	note()
	w.apply(state.RestartJob{Job: "j", Services: []string{"db"}, At: w.now})
	w.pass(time.Minute, nil)
	if got := fmt.Sprint(note()); got != "[db web]" {
		t.Errorf("a restart of db replaced %s", got)
	}
	w.submit("j", svc("db", 1, image("db1"), labelled("x")), svc("web", 1, image("web"), restarting), svc("other", 1, image("o"), needs("db", job.DependStarted)))
	w.pass(time.Minute, nil)
	if got := fmt.Sprint(note()); got != "[]" {
		t.Errorf("a change of db in place replaced %s", got)
	}
}

func TestASingleTaskIsRestarted(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 3, image("i")))
	w.settle()
	before := idsOf(w.running("j", "s"))
	w.apply(state.RestartTasks{Job: "j", Tasks: before[1:2], At: w.now})
	w.pass(time.Minute, func() {
		if w.ready("j", "s") != 3 {
			t.Fatal(w.dump())
		}
	})
	after := w.running("j", "s")
	if len(after) != 3 || after[0].ID != before[0] || after[1].ID == before[1] || after[2].ID != before[2] || after[1].Cause != "this task was restarted" {
		t.Errorf("%v became %v %s", before, idsOf(after), w.dump())
	}
	if j := w.store.View().Job("j"); j.Version != 1 {
		t.Errorf("it made version %d", j.Version)
	}
	if r := w.tryApply(state.RestartTasks{Job: "j", Tasks: before[1:2], At: w.now}); job.KindOf(r.Err) == "" {
		t.Error("a task that is gone was restarted")
	}
}
