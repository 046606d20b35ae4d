package state

import (
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
)

// updated is a cluster whose job shop runs web.1 (task "old", on a) and has just got another content.
func updated(t *testing.T) (*log, *job.Job) {
	l := newLog(t).cluster().nodes("a", "b")
	l.place(aTask(l.job("shop", 1), 1, "old", "a"))
	l.report("a", "old", 1, job.Running)
	s := aSpec("shop", 1)
	s.Services[0].Image = "two"
	return l, l.do(PutJob{Spec: s, At: t0}).Value.(*job.Job)
}

func TestASecondTaskInASlotMustBeAHandOver(t *testing.T) {
	l, j := updated(t)
	k := aTask(j, 1, "new", "b")
	if why := l.place(k)["new"]; why != "slot has task old already" {
		t.Errorf("it names nobody: %q", why)
	}
	k.Replaces = "other"
	if why := l.place(k)["new"]; why != "slot has task old already" {
		t.Errorf("it names another: %q", why)
	}
	k.Replaces = "old"
	if why := l.place(k)["new"]; why != "" {
		t.Errorf("a hand-over was refused: %q", why)
	}
	third := aTask(j, 1, "third", "b")
	for _, of := range []job.TaskID{"old", "new"} {
		third.Replaces = of
		if why := l.place(third)["third"]; !strings.HasPrefix(why, "slot has task") {
			t.Errorf("a third task in the place of %s: %q", of, why)
		}
	}
	if v := l.s.View(); v.Task("old").Desired != job.DesiredRun || v.Task("new").Desired != job.DesiredRun {
		t.Error("a hand-over changed what is wanted of the former task")
	}
	// With the same content it is no hand-over.
	l, j = updated(t)
	k = aTask(j, 1, "new", "b")
	k.Replaces = "old"
	l.place(k)
	l.plan(Plan{Stop: []TaskStop{{ID: "old", Desired: job.DesiredStop}}})
	same := aTask(j, 1, "same", "a")
	same.Replaces = "new"
	if why := l.place(same)["same"]; why != "slot has task new already" {
		t.Errorf("a second task of the same content: %q", why)
	}
}

func TestTheFormerTaskStopsOnlyForOneThatIsReady(t *testing.T) {
	l, j := updated(t)
	k := aTask(j, 1, "new", "b")
	k.Replaces = "old"
	l.place(k)
	stop := func() string {
		return l.plan(Plan{Stop: []TaskStop{{ID: "old", Desired: job.DesiredStop, For: "new"}}})["old"]
	}
	if why := stop(); why != "task new is not ready to take over" {
		t.Errorf("placed: %q", why)
	}
	l.report("b", "new", 1, job.Running)
	if why := stop(); why != "" || l.s.View().Task("old").Desired != job.DesiredStop {
		t.Errorf("ready: %q", why)
	}
}

func TestAPlacementThatGivesUpATaskIsRefusedWhenItsNodeIsBack(t *testing.T) {
	l := newLog(t).cluster().nodes("a", "b")
	j := l.job("shop", 1)
	l.place(aTask(j, 1, "old", "a"))
	l.do(NodeDown{Node: "id-a", At: t0})
	l.do(NodeUp{Node: "id-a", At: t0})
	k := aTask(j, 1, "new", "b")
	k.Replaces = "old"
	why := l.plan(Plan{Place: []job.Task{k}, Stop: []TaskStop{{ID: "old", Desired: job.DesiredLost}}})
	if why["new"] != "node a is back" || l.s.View().Task("old").Desired != job.DesiredRun || l.s.View().Task("new") != nil {
		t.Errorf("%v, old is to %s", why, l.s.View().Task("old").Desired)
	}
}

func TestRolloutRowsFollowTheJob(t *testing.T) {
	l, _ := updated(t)
	r := l.s.View().Rollout("shop", "web")
	if r == nil || r.Version != 2 || r.From != 1 || r.Status != job.RolloutRunning || r.RollbackOf != 0 || r.Index != l.index {
		t.Fatalf("after an update: %+v", r)
	}
	l.do(ScaleJob{Job: "shop", Replicas: map[string]int{"web": 3}, At: t0})
	tuned := l.s.View().Job("shop").Spec
	tuned.Services = append([]job.Service(nil), tuned.Services...)
	tuned.Services[0].Update = &job.Update{Parallelism: 2}
	if res := l.do(PutJob{Spec: tuned, At: t0}); res.Unchanged || res.Value.(*job.Job).Version != 4 {
		t.Errorf("another way to update: %+v", res)
	}
	if now := l.s.View().Rollout("shop", "web"); now.Index != r.Index || now.Version != 2 {
		t.Errorf("scale and tuning began a rollout: %+v", now)
	}
	// Another content before this one has proven itself: back is still version 1.
	s := aSpec("shop", 3)
	s.Services[0].Image = "three"
	l.do(PutJob{Spec: s, At: t0})
	if now := l.s.View().Rollout("shop", "web"); now.Version != 5 || now.From != 1 {
		t.Errorf("update of an update: %+v", now)
	}
	// The content that it would go back to, submitted by hand, has nothing to go back to.
	l.do(PutJob{Spec: aSpec("shop", 3), RollbackTo: 1, At: t0})
	if now := l.s.View().Rollout("shop", "web"); now.From != 0 || now.RollbackOf != 5 || now.RollbackTo != 1 || now.Automatic {
		t.Errorf("back by hand: %+v", now)
	}
	if got := l.s.View().Job("shop").Cause; got != "rolled back to version 1" {
		t.Errorf("cause %q", got)
	}
	l.do(RemoveJob{Job: "shop", At: t0})
	if all := l.s.View().Rollouts(""); len(all) != 0 {
		t.Errorf("rollouts of a removed job: %+v", all)
	}
}

func TestRollbackIsANewVersionOfTheFormerContent(t *testing.T) {
	l, _ := updated(t)
	l.do(ScaleJob{Job: "shop", Replicas: map[string]int{"web": 5}, At: t0})
	step := func(version uint64) *PlanResult {
		return l.do(Plan{Base: l.index, At: t0, Rollouts: []RolloutStep{{Job: "shop", Service: "web", Version: version, Rollback: true, Reason: "web.1 failed: exit code 1"}}}).Value.(*PlanResult)
	}
	if res := step(1); len(res.Refused) != 1 {
		t.Errorf("a step of another rollout: %+v", res)
	}
	if res := step(2); len(res.Refused) != 0 {
		t.Fatalf("%+v", res)
	}
	j := l.s.View().Job("shop")
	if s := j.Spec.Service("web"); j.Version != 4 || s.Image != "nginx" || s.Replicas != 5 {
		t.Errorf("version %d: %+v", j.Version, s)
	}
	if j.Cause != "rolled back from version 2: web.1 failed: exit code 1" {
		t.Errorf("cause %q", j.Cause)
	}
	if r := l.s.View().Rollout("shop", "web"); r.RollbackOf != 2 || r.RollbackTo != 1 || !r.Automatic || r.From != 0 {
		t.Errorf("%+v", r)
	}
	if res := step(4); len(res.Refused) != 0 || l.s.View().Job("shop").Version != 4 || l.s.View().Rollout("shop", "web").Status != job.RolloutPaused {
		t.Errorf("a rollback of a rollback must pause: %+v", l.s.View().Rollout("shop", "web"))
	}
}

func TestRollbackOfTwoServicesIsOneVersion(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	spec := func(img string) job.Spec {
		s := aSpec("shop", 1)
		s.Services = append(s.Services, job.Service{Name: "api", Replicas: 1})
		for i := range s.Services {
			s.Services[i].Image = img
		}
		s.Source = img
		return s
	}
	l.do(PutJob{Spec: spec("one"), At: t0})
	l.do(PutJob{Spec: spec("two"), At: t0})
	l.plan(Plan{Rollouts: []RolloutStep{
		{Job: "shop", Service: "web", Version: 2, Rollback: true, Reason: "x"}, {Job: "shop", Service: "api", Version: 2, Rollback: true, Reason: "y"},
	}})
	j := l.s.View().Job("shop")
	if j.Version != 3 || j.Spec.Source != "one" || j.Spec.Service("api").Image != "one" || j.Spec.Service("web").Image != "one" || j.Cause != "rolled back from version 2: x; y" {
		t.Errorf("%+v", j)
	}
}

func TestAStoppedJobIsChangedWithoutARollout(t *testing.T) {
	l, _ := updated(t)
	l.do(StopJob{Job: "shop", At: t0})
	l.fails(job.Conflict, RestartJob{Job: "shop", At: t0})
	s := aSpec("shop", 1)
	s.Services[0].Image = "three"
	l.do(PutJob{Spec: s, At: t0.Add(time.Second)})
	if r := l.s.View().Rollout("shop", "web"); r != nil {
		t.Errorf("%+v", r)
	}
	l.fails(job.NotFound, RestartJob{Job: "shop", Services: []string{"nope"}, At: t0})
	l.fails(job.NotFound, StartJob{Job: "nope", At: t0})
}

func TestASubmitDoesNotUndoARestart(t *testing.T) {
	l := newLog(t).cluster()
	l.job("shop", 1)
	j := l.do(RestartJob{Job: "shop", Key: "k", At: t0}).Value.(*job.Job)
	if again := l.do(RestartJob{Job: "shop", Key: "k", At: t0}).Value.(*job.Job); again.Version != j.Version || j.Version != 2 {
		t.Errorf("a restart that is sent twice gave versions %d and %d", j.Version, again.Version)
	}
	if res := l.do(PutJob{Spec: aSpec("shop", 1), At: t0}); !res.Unchanged {
		t.Errorf("the same file changed something: %+v", res.Value)
	}
}
