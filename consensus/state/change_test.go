package state

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

// scriptedChange is what the golden logs before it have not: changes in place, tasks that wait, canaries, single restarts.
// It is the golden log "change", so it is never changed.
func scriptedChange(l *log) {
	l.cluster().nodes("a", "b")
	spec := func(img, label string, canaries int) job.Spec {
		s := aSpec("shop", 2)
		w := &s.Services[0]
		w.Image, w.Labels, w.Drain = img, map[string]string{"v": label}, time.Second
		w.Update = &job.Update{Canaries: canaries, AutoPromote: canaries == 2}
		s.Services = append(s.Services, job.Service{Name: "api", Image: "api", Replicas: 1, DependsOn: []job.Dependency{{Service: "web", Condition: job.DependStarted, Restart: true}}})
		return s
	}
	submit := func(s job.Spec) *job.Job { return l.do(PutJob{Spec: s, At: t0}).Value.(*job.Job) }
	digest := func() job.Digest { return l.s.View().Job("shop").Spec.Service("web").Digest() }
	j := submit(spec("one", "1", 0))
	web := func(slot int, id, node, replaces string, wait job.Wait) job.Task {
		k := aTask(l.s.View().Job("shop"), slot, id, node)
		s := l.s.View().Job("shop").Spec.Service("web")
		k.Service, k.Digest, k.Replaces, k.Wait = "web", s.Digest(), job.TaskID(replaces), wait
		return k
	}
	_ = j
	l.place(web(1, "w1", "a", "", ""), web(2, "w2", "b", "", ""))
	l.report("a", "w1", 1, job.Running)
	l.report("b", "w2", 1, job.Running)
	submit(spec("one", "2", 0)) // in place
	l.plan(Plan{Tune: []TaskTune{{ID: "w1", Digest: digest(), Cause: "updated to version 2"}, {ID: "w2", Digest: digest(), Watched: true}, {ID: "no", Digest: digest()}}})
	l.do(Report{Node: "id-a", At: t0, Statuses: []job.Status{{Task: "w1", Seq: 2, State: job.Running, Tuned: l.index}}})
	l.do(Report{Node: "id-b", At: t0, Statuses: []job.Status{{Task: "w2", Seq: 2, State: job.Running, Untuned: l.s.View().Task("w2").Tuned, Message: "no room"}}})
	l.place(web(2, "w2b", "b", "w2", job.WaitRoom))
	l.report("b", "w2b", 1, job.Created)
	l.plan(Plan{Begin: []job.TaskID{"w2b"}}) // too early
	l.plan(Plan{Stop: []TaskStop{{ID: "w2", Desired: job.DesiredStop, For: "w2b"}}})
	l.report("b", "w2", 3, job.Complete)
	l.plan(Plan{Begin: []job.TaskID{"w2b"}})
	l.report("b", "w2b", 2, job.Running)
	l.do(RestartTasks{Job: "shop", Tasks: []job.TaskID{"w1"}, Key: "k1", At: t0})
	l.place(web(1, "w1b", "b", "w1", job.WaitTurn))
	l.report("b", "w1b", 1, job.Created)
	l.plan(Plan{Stop: []TaskStop{{ID: "w1", Desired: job.DesiredStop, For: "w1b"}}})
	l.report("a", "w1", 3, job.Complete)
	l.plan(Plan{Begin: []job.TaskID{"w1b"}})
	l.report("b", "w1b", 2, job.Running)
	l.plan(Plan{Rollouts: []RolloutStep{{Job: "shop", Service: "web", Version: 2, Status: job.RolloutComplete}}})
	submit(spec("two", "2", 1)) // with a canary, and api restarts with it
	l.place(web(1, "w1c", "a", "w1b", ""))
	l.report("a", "w1c", 1, job.Running)
	l.plan(Plan{Stop: []TaskStop{{ID: "w1b", Desired: job.DesiredStop, For: "w1c"}}, Rollouts: []RolloutStep{{Job: "shop", Service: "web", Version: 3, Status: job.RolloutCanary}}})
	l.do(PromoteJob{Job: "shop", Services: []string{"web"}, Key: "k2", At: t0})
	l.do(FailJob{Job: "shop", Services: []string{"web"}, Reason: "slow", Key: "k3", At: t0})
	submit(spec("three", "2", 2))
	l.plan(Plan{Rollouts: []RolloutStep{{Job: "shop", Service: "web", Version: 5, Promote: true}}})
	l.do(FailJob{Job: "shop", At: t0})
	l.do(RemoveJob{Job: "shop", At: t0})
	submit(spec("one", "1", 1))
}

func TestWaitingTasksTakeTheRoomOfTheOneThatTheyReplace(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	n := l.s.View().Node("id-a")
	spec := func(img string) job.Spec {
		s := aSpec("shop", 1)
		s.Services[0].Image, s.Services[0].Limits.MemoryBytes = img, n.Capacity.MemoryBytes
		return s
	}
	j := l.do(PutJob{Spec: spec("one"), At: t0}).Value.(*job.Job)
	l.place(aTask(j, 1, "old", "a"))
	l.report("a", "old", 1, job.Running)
	j = l.do(PutJob{Spec: spec("two"), At: t0}).Value.(*job.Job)
	k := aTask(j, 1, "new", "a")
	k.Replaces = "old"
	if why := l.place(k)["new"]; !strings.Contains(why, "lacks memory") {
		t.Errorf("placed beside what fills the node: %q", why)
	}
	k.Wait = job.WaitRoom
	if why := l.place(k)["new"]; why != "" {
		t.Fatal(why)
	}
	if why := l.plan(Plan{Stop: []TaskStop{{ID: "old", Desired: job.DesiredStop, For: "new"}}})["old"]; !strings.Contains(why, "not ready to take over") {
		t.Errorf("stopped for a task that is not made yet: %q", why)
	}
	l.report("a", "new", 1, job.Created)
	l.plan(Plan{Stop: []TaskStop{{ID: "old", Desired: job.DesiredStop, For: "new"}}})
	if why := l.plan(Plan{Begin: []job.TaskID{"new"}})["new"]; !strings.Contains(why, "has not ended") {
		t.Errorf("begun beside the old one: %q", why)
	}
	l.report("a", "old", 2, job.Complete)
	if why := l.plan(Plan{Begin: []job.TaskID{"new"}})["new"]; why != "" {
		t.Error(why)
	}
	if got := l.s.derived.use["id-a"].demand.MemoryBytes; got != n.Capacity.MemoryBytes {
		t.Errorf("%d bytes are used of %d", got, n.Capacity.MemoryBytes)
	}
}

func TestOnlyTheSameShapeIsTuned(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	n := l.s.View().Node("id-a")
	spec := func(img string, memory int64) job.Spec {
		s := aSpec("shop", 1)
		s.Services[0].Image, s.Services[0].Limits.MemoryBytes = img, memory
		return s
	}
	j := l.do(PutJob{Spec: spec("one", 64<<20), At: t0}).Value.(*job.Job)
	l.place(aTask(j, 1, "w", "a"))
	l.report("a", "w", 1, job.Running)
	for _, tt := range []struct {
		spec job.Spec
		want string
	}{
		{spec("two", 64<<20), "cannot be changed in place"},
		{spec("one", n.Capacity.MemoryBytes+1), "lacks memory"},
		{spec("one", n.Capacity.MemoryBytes), ""},
		{spec("one", 32<<20), ""},
	} {
		d := l.do(PutJob{Spec: tt.spec, At: t0}).Value.(*job.Job).Spec.Services[0].Digest()
		why := l.plan(Plan{Tune: []TaskTune{{ID: "w", Digest: d}}})["w"]
		if (why == "") != (tt.want == "") || !strings.Contains(why, tt.want) {
			t.Errorf("%q, want %q", why, tt.want)
		}
	}
	if k := l.s.View().Task("w"); k.Digest != l.s.View().Job("shop").Spec.Services[0].Digest() || k.Tuned == 0 {
		t.Errorf("%+v", k)
	}
	if got := l.s.derived.use["id-a"].demand.MemoryBytes; got != 32<<20 {
		t.Errorf("%d bytes are used", got)
	}
}

// randomChange makes a command of this slice that often makes sense.
func randomChange(r *rand.Rand, v *View, name, key string, at time.Time) Command {
	switch r.IntN(5) {
	case 0:
		return PromoteJob{Job: name, Key: key, At: at}
	case 1:
		return FailJob{Job: name, Key: key, At: at}
	case 2:
		c := RestartTasks{Job: name, Key: key, At: at}
		for _, k := range v.TasksOfJob(name) {
			if r.IntN(2) == 0 {
				c.Tasks = append(c.Tasks, k.ID)
			}
		}
		return c
	}
	s := aSpec(name, r.IntN(5))
	w := &s.Services[0]
	w.Image, w.Labels = fmt.Sprintf("i%d", r.IntN(2)), map[string]string{"v": fmt.Sprint(r.IntN(3))}
	w.Limits.MemoryBytes = int64(1+r.IntN(3)) * 128 << 20
	w.Update = &job.Update{Canaries: r.IntN(3)}
	s.Services = append(s.Services, job.Service{Name: "api", Image: "api", DependsOn: []job.Dependency{{Service: "web", Condition: job.DependStarted, Restart: true}}})
	return PutJob{Spec: s, Key: key, At: at}
}

// changePlan adds changes in place and waits to a random plan.
func changePlan(r *rand.Rand, v *View, p *Plan) {
	for i := range p.Place {
		p.Place[i].Wait = []job.Wait{job.WaitNone, job.WaitNone, job.WaitRoom, job.WaitTurn}[r.IntN(4)]
	}
	for _, k := range v.Tasks() {
		if j := v.Job(k.Job); j != nil && r.IntN(3) == 0 {
			if s := j.Spec.Service(k.Service); s != nil {
				p.Tune = append(p.Tune, TaskTune{ID: k.ID, Digest: s.Digest(), Watched: r.IntN(2) == 0})
			}
		}
		if k.Wait != job.WaitNone && r.IntN(2) == 0 {
			p.Begin = append(p.Begin, k.ID)
		}
	}
	for i := range p.Rollouts {
		switch r.IntN(6) {
		case 0:
			p.Rollouts[i].Promote = true
		case 1:
			p.Rollouts[i].Status = job.RolloutCanary
		}
	}
}
