package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

func image(name string) func(*job.Service) { return func(s *job.Service) { s.Image = name } }

func updating(u job.Update) func(*job.Service) { return func(s *job.Service) { s.Update = &u } }

// pass runs planner and nodes for d of the world's time; look is called after each step.
func (w *world) pass(d time.Duration, look func()) {
	w.t.Helper()
	end := w.now.Add(d)
	for i := 0; ; i++ {
		if i > 20_000 {
			w.t.Fatalf("busy: %s", w.dump())
		}
		pl, next := w.plan()
		if look != nil {
			look()
		}
		did := w.act()
		if look != nil {
			look()
		}
		if !pl.Empty() || did || next.Dirty {
			continue
		}
		if next.At.IsZero() || next.At.After(end) {
			w.now = end
			return
		}
		w.now = next.At
	}
}

// ready counts the slots of a service with a task that serves.
func (w *world) ready(jobName, service string) int {
	slots := map[int]bool{}
	for _, k := range w.running(jobName, service) {
		if w.store.View().Status(k.ID).Ready() {
			slots[k.Slot] = true
		}
	}
	return len(slots)
}

// started lists live tasks but for those that wait for another's end.
func (w *world) started(jobName, service string) []*job.Task {
	return slices.DeleteFunc(w.running(jobName, service), func(k *job.Task) bool { return k.Wait != job.WaitNone })
}

// allRun fails the test unless each of n slots has exactly one live task, of this image.
func (w *world) allRun(jobName, service string, n int, img string) {
	w.t.Helper()
	got := w.running(jobName, service)
	for _, k := range got {
		if s := w.store.View().Service(k.Digest); s.Image != img {
			w.t.Errorf("%s runs %s, want %s", k.Name(), s.Image, img)
		}
	}
	if len(got) != n || w.ready(jobName, service) != n {
		w.t.Errorf("%d tasks, want %d", len(got), n)
	}
	if w.t.Failed() {
		w.t.Fatal(w.dump())
	}
}

func (w *world) status(service string) job.RolloutStatus {
	if r := w.store.View().Rollout("j", service); r != nil {
		return r.Status
	}
	return ""
}

func TestHealthyUpdate(t *testing.T) {
	port := func(s *job.Service) { s.Ports = []job.Port{{Published: 80, Target: 80, Protocol: "tcp"}} }
	for _, tt := range []struct {
		name  string
		opts  []func(*job.Service)
		least int           // slots that serve at any time
		most  int           // live tasks at any time
		takes time.Duration // at least
	}{
		{"default", nil, 4, 5, 20 * time.Second},
		{"two at a time", []func(*job.Service){updating(job.Update{Parallelism: 2})}, 4, 6, 10 * time.Second},
		{"all at once", []func(*job.Service){updating(job.Update{Parallelism: job.AllAtOnce, Monitor: time.Second})}, 4, 8, time.Second},
		{"stop first", []func(*job.Service){updating(job.Update{Order: job.StopFirst, Parallelism: 2})}, 2, 4, 10 * time.Second},
		{"delay", []func(*job.Service){updating(job.Update{Delay: 10 * time.Second})}, 4, 5, 50 * time.Second},
		{"host port", []func(*job.Service){port}, 3, 4, 20 * time.Second},
		{"no room for two", []func(*job.Service){wantMemory(1000)}, 3, 4, 20 * time.Second},
		{"volume", []func(*job.Service){func(s *job.Service) {
			s.Mounts = []job.Mount{{Type: job.MountVolume, Source: "v", Target: "/v"}}
		}}, 3, 4, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			for i := range 4 {
				w.node(fmt.Sprint("n", i), memory(1500))
			}
			w.submit("j", svc("s", 4, append(tt.opts, image("old"))...))
			w.settle()
			w.submit("j", svc("s", 4, append(tt.opts, image("new"))...))
			begun, ended := w.now, time.Time{}
			w.pass(5*time.Minute, func() {
				if n := w.ready("j", "s"); n < tt.least {
					t.Fatalf("only %d slots serve %s", n, w.dump())
				}
				if n := len(w.started("j", "s")); n > tt.most {
					t.Fatalf("%d tasks at a time %s", n, w.dump())
				}
				if w.status("s") == job.RolloutComplete && ended.IsZero() {
					ended = w.now
				}
			})
			w.allRun("j", "s", 4, "new")
			if took := ended.Sub(begun); ended.IsZero() || took < tt.takes || took > tt.takes+2*time.Second {
				t.Errorf("took %v, want %v: %+v", took, tt.takes, w.store.View().Rollout("j", "s"))
			}
			if b := w.blocked("j", "s"); b != "" {
				t.Errorf("blocked: %s", b)
			}
		})
	}
}

// failing makes tasks of an image fail.
func (w *world) failing(img string) {
	w.behave = func(k *job.Task) job.State {
		if s := w.store.View().Service(k.Digest); s != nil && s.Image == img {
			return job.Failed
		}
		return job.Running
	}
}

func TestFailingUpdateRollsBack(t *testing.T) {
	for _, order := range []job.UpdateOrder{job.OrderAuto, job.StopFirst} {
		w := newWorld(t, 1)
		w.node("a")
		w.node("b")
		w.submit("j", svc("s", 3, image("old")), svc("other", 1))
		w.settle()
		w.failing("bad")
		before := w.running("j", "s")
		w.submit("j", svc("s", 3, image("bad"), updating(job.Update{Order: order})), svc("other", 1, image("better")))
		w.pass(3*time.Minute, func() {
			if n := w.ready("j", "s"); n < 2 || order == job.OrderAuto && n < 3 {
				t.Fatalf("%d slots serve %s", n, w.dump())
			}
		})
		w.allRun("j", "s", 3, "old")
		w.allRun("j", "other", 1, "better") // each service goes its own way
		j := w.store.View().Job("j")
		if j.Version != 3 || !strings.HasPrefix(j.Cause, "rolled back from version 2: s.1 failed: exit code 1") {
			t.Errorf("version %d: %q", j.Version, j.Cause)
		}
		for _, k := range w.store.View().TasksOfService("j", "s") {
			if st := w.store.View().Status(k.ID); k.Desired == job.DesiredRun && st != nil && st.State.Terminal() {
				t.Errorf("%s (task %s) is still meant to run, although it failed and %s has its place", k.Name(), k.ID, before[0].ID)
			}
		}
		if r := w.store.View().Rollout("j", "s"); r.Status != job.RolloutComplete || r.RollbackOf != 2 || !r.Automatic {
			t.Errorf("rollout: %+v", r)
		}
		if order == job.OrderAuto {
			for i, k := range w.running("j", "s") {
				if k.ID != before[i].ID {
					t.Errorf("%s was replaced although nothing was wrong with it", k.Name())
				}
			}
		}
	}
}

func TestRollbackThatFailsPausesAndGoesNoFurther(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 2, image("old"), updating(job.Update{Order: job.StopFirst})))
	w.settle()
	w.behave = func(*job.Task) job.State { return job.Failed }
	for _, k := range w.running("j", "s")[:1] { // the old content is broken too by now
		w.seq++
		one := 1
		w.apply(state.Report{Node: k.Node, At: w.now, Statuses: []job.Status{{Task: k.ID, Seq: w.seq, State: job.Failed, ExitCode: &one}}})
	}
	w.submit("j", svc("s", 2, image("bad"), updating(job.Update{Order: job.StopFirst})))
	w.pass(30*time.Minute, nil)
	j := w.store.View().Job("j")
	if r := w.store.View().Rollout("j", "s"); j.Version != 3 || r.Status != job.RolloutPaused || !strings.Contains(r.Reason, "exit code 1") {
		t.Errorf("version %d, rollout %+v", j.Version, r)
	}
	if b := w.blocked("j", "s"); !strings.Contains(b, "the rollback from version 2 is paused") && !strings.Contains(b, "times in a row") {
		t.Errorf("blocked: %q", b)
	}
}

func TestPausedUpdateGoesOnWhenSubmittedAgain(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 3, image("old")))
	w.settle()
	w.failing("bad")
	pause := updating(job.Update{Failure: job.FailPause})
	w.submit("j", svc("s", 3, image("bad"), pause))
	w.pass(time.Hour, nil)
	w.allRun("j", "s", 3, "old")
	if b := w.blocked("j", "s"); w.status("s") != job.RolloutPaused || !strings.HasPrefix(b, "3: the update to version 2 is paused: s.1 failed: exit code 1; go back with `shoal rollback j`") {
		t.Errorf("%s, blocked: %q", w.status("s"), b)
	}
	w.behave = nil
	if r := w.apply(state.PutJob{At: w.now, Spec: job.Spec{Name: "j", Services: []job.Service{svc("s", 3, image("bad"), pause)}}}); r.Unchanged {
		t.Error("a submit that makes an update go on said that nothing changed")
	}
	w.pass(time.Minute, nil)
	w.allRun("j", "s", 3, "bad")
	if w.status("s") != job.RolloutComplete || w.blocked("j", "s") != "" || w.store.View().Job("j").Version != 2 {
		t.Error(w.dump())
	}
}

func TestFailureRatioAndContinue(t *testing.T) {
	for _, tt := range []struct {
		u    job.Update
		want job.RolloutStatus
	}{
		{job.Update{MaxFailureRatio: 0.25, Parallelism: 4}, job.RolloutComplete},
		{job.Update{MaxFailureRatio: 0.24, Parallelism: 4, Failure: job.FailPause}, job.RolloutPaused},
		{job.Update{Failure: job.FailContinue}, job.RolloutComplete},
	} {
		w := newWorld(t, 1)
		w.node("a")
		w.submit("j", svc("s", 4, image("old"), updating(tt.u)))
		w.settle()
		failed := map[int]bool{}
		w.behave = func(k *job.Task) job.State {
			if s := w.store.View().Service(k.Digest); s.Image == "new" && k.Slot == 2 && k.Attempt == 0 {
				failed[k.Slot] = true // its first try only
				return job.Failed
			}
			return job.Running
		}
		w.submit("j", svc("s", 4, image("new"), updating(tt.u)))
		w.pass(5*time.Minute, nil)
		if w.status("s") != tt.want || len(failed) == 0 {
			t.Errorf("%+v: %s, want %s %s", tt.u, w.status("s"), tt.want, w.dump())
		}
		if tt.want == job.RolloutComplete {
			w.allRun("j", "s", 4, "new")
		} else if n := len(w.running("j", "s")); n != 4 {
			t.Errorf("%+v: %d tasks live", tt.u, n)
		}
	}
}

func TestUpdateThatNeverGetsReadySaysWhyAndRollsBackInTheEnd(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 3, image("old")))
	w.settle()
	w.behave = func(k *job.Task) job.State {
		if w.store.View().Service(k.Digest).Image == "slow" {
			return job.Pulling
		}
		return job.Running
	}
	w.submit("j", svc("s", 3, image("slow")))
	w.pass(time.Minute, nil)
	if got := w.blocked("j", "s"); w.ready("j", "s") != 3 || !strings.HasPrefix(got, "2: the update to version 2 waits for s.1") {
		t.Errorf("%d ready, blocked: %q", w.ready("j", "s"), got)
	}
	w.pass(progressDeadline, nil)
	w.allRun("j", "s", 3, "old")
	if got := w.store.View().Job("j").Cause; !strings.Contains(got, "s.1 was not ready after 10m0s") || w.blocked("j", "s") != "" {
		t.Errorf("cause %q, blocked %q", got, w.blocked("j", "s"))
	}
}

func TestUpdateThatFitsNowhereKeepsWhatRuns(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1000))
	w.submit("j", svc("s", 1, wantMemory(200)))
	w.settle()
	w.submit("j", svc("s", 1, wantMemory(2000)))
	w.pass(time.Hour, nil)
	if n, b := w.ready("j", "s"), w.blocked("j", "s"); n != 1 || !strings.HasPrefix(b, "1: the update to version 2 waits: no node fits: 1 lacks memory") {
		t.Errorf("%d ready, blocked %q", n, b)
	}
}

func TestRestartReplacesAllOfAServiceAndNothingElse(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a")
	w.submit("j", svc("s", 2), svc("other", 1))
	w.settle()
	other, was := w.running("j", "other")[0].ID, w.running("j", "s")
	w.apply(state.RestartJob{Job: "j", Services: []string{"s"}, At: w.now})
	w.pass(time.Minute, func() {
		if w.ready("j", "s") != 2 {
			t.Fatal("a restart left a gap" + w.dump())
		}
	})
	w.allRun("j", "s", 2, "s")
	for i, k := range w.running("j", "s") {
		if k.ID == was[i].ID {
			t.Errorf("%s was not replaced", k.Name())
		}
	}
	if w.running("j", "other")[0].ID != other {
		t.Error("the other service was touched")
	}
	v := w.store.View().Job("j").Version
	w.submit("j", svc("s", 2), svc("other", 1)) // the file knows of no restart
	w.pass(time.Minute, nil)
	if now := w.store.View().Job("j").Version; now != v {
		t.Errorf("the same file made version %d of %d", now, v)
	}
}

// TestUpdatesSurviveTrouble changes jobs while nodes go, come and drain and leaders change (a planner made anew): in the
// end each slot has one task, of the content that the job has.
func TestUpdatesSurviveTrouble(t *testing.T) {
	for i := range 40 {
		seed := rand.Uint64()
		if *seedFlag != 0 {
			seed = *seedFlag
		}
		if !t.Run(fmt.Sprint(i), func(t *testing.T) { troubledUpdate(t, seed) }) {
			t.Fatalf("again with: go test ./consensus/scheduler -run TestUpdatesSurviveTrouble -seed %d", seed)
		}
	}
}

func troubledUpdate(t *testing.T, seed uint64) {
	r := newRand(seed)
	w := newWorld(t, seed)
	for i := range 3 + r.IntN(3) {
		w.node(fmt.Sprint("n", i), memory(4000))
	}
	n := 1 + r.IntN(5)
	u := job.Update{
		Parallelism: r.IntN(3), Order: []job.UpdateOrder{job.OrderAuto, job.StartFirst, job.StopFirst}[r.IntN(3)],
		Failure:         []job.FailureAction{job.FailRollback, job.FailPause, job.FailContinue}[r.IntN(3)],
		MaxFailureRatio: []float64{0, 0.3, 0.6}[r.IntN(3)],
	}
	opts := func(img string) []func(*job.Service) {
		return []func(*job.Service){image(img), updating(u), wantMemory(100 + int64(r.IntN(2))*500)}
	}
	w.submit("j", svc("s", n, opts("a")...))
	w.settle()
	bad := r.IntN(2) == 0
	w.behave = func(k *job.Task) job.State {
		if s := w.store.View().Service(k.Digest); bad && s != nil && s.Image == "b" {
			return job.Failed
		}
		return job.Running
	}
	for range 12 {
		nodes := w.store.View().Nodes()
		nd := nodes[r.IntN(len(nodes))].ID
		switch r.IntN(9) {
		case 0, 1:
			w.submit("j", svc("s", n, opts(string("abc"[r.IntN(3)]))...))
		case 2:
			w.cut[nd] = true
			w.apply(state.NodeDown{Node: nd, At: w.now})
		case 3:
			w.cut[nd] = false
			w.apply(state.NodeUp{Node: nd, At: w.now})
		case 4:
			w.apply(state.SetDrain{Node: nd, Drained: r.IntN(2) == 0, At: w.now})
		case 5: // another leader
			w.p = New(w.store.View())
			w.p.NewID = SeededIDs([32]byte{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
		case 6: // the world moves on between plan and proposal
			pl, _ := w.p.Plan(w.now, 1+r.IntN(4))
			w.act()
			w.tryApply(state.RestartJob{Job: "j", At: w.now})
			if !pl.Empty() {
				w.apply(pl)
			}
		case 7:
			w.tryApply(state.StopJob{Job: "j", At: w.now})
			w.tryApply(state.StartJob{Job: "j", At: w.now})
		}
		w.pass(time.Duration(r.IntN(12_000))*time.Millisecond, func() { w.atMostTwo("j", "s") })
	}
	for _, nd := range w.store.View().Nodes() {
		w.cut[nd.ID] = false
		w.tryApply(state.NodeUp{Node: nd.ID, At: w.now})
		w.apply(state.SetDrain{Node: nd.ID, At: w.now})
	}
	w.pass(time.Hour, func() { w.atMostTwo("j", "s") })
	live := w.running("j", "s")
	slots := map[int]int{}
	for _, k := range live {
		slots[k.Slot]++
	}
	paused := w.status("s") == job.RolloutPaused
	for slot := 1; slot <= n; slot++ {
		broken := bad && w.store.View().Job("j").Spec.Services[0].Image == "b" // it ends again and again
		if slots[slot] > 1 || slots[slot] == 0 && !broken {
			t.Fatalf("slot %d has %d tasks %s", slot, slots[slot], w.dump())
		}
	}
	if r := w.store.View().Rollout("j", "s"); r != nil && !paused && (!bad || u.Failure != job.FailContinue) && r.Status != job.RolloutComplete {
		t.Fatalf("the rollout did not end: %+v %s", r, w.dump())
	}
	for _, k := range live {
		if d := w.store.View().Job("j").Spec.Services[0].Digest(); k.Digest != d && !paused && !bad {
			t.Fatalf("%s has a former content %s", k.Name(), w.dump())
		}
	}
}

// atMostTwo checks that two live tasks in a slot are a hand-over.
func (w *world) atMostTwo(jobName, service string) {
	w.t.Helper()
	slots := map[int][]*job.Task{}
	for _, k := range w.running(jobName, service) {
		slots[k.Slot] = append(slots[k.Slot], k)
	}
	for _, ks := range slots {
		if len(ks) > 2 || len(ks) == 2 && (ks[1].Replaces != ks[0].ID || ks[1].Digest == ks[0].Digest && !ks[1].Move) {
			w.t.Fatalf("%s has %d live tasks %s", ks[0].Name(), len(ks), w.dump())
		}
	}
}
