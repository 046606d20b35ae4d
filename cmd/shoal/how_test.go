package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

func TestPlanSaysHowServicesChange(t *testing.T) {
	base := func() *job.Spec {
		return &job.Spec{Name: "shop", Services: []job.Service{
			{Name: "db", Replicas: 1, Image: "db:1", Mounts: []job.Mount{{Type: job.MountVolume, Source: "data", Target: "/d"}}},
			{Name: "web", Replicas: 3, Image: "web:1", DependsOn: []job.Dependency{{Service: "db", Condition: job.DependStarted}}},
		}}
	}
	for _, tt := range []struct {
		name   string
		change func(s *job.Spec)
		want   string
	}{
		{"nothing", func(*job.Spec) {}, ""},
		{"labels", func(s *job.Spec) { s.Services[1].Labels = map[string]string{"a": "b"} }, "web: tasks take it over where they run, all at once"},
		{"limits", func(s *job.Spec) { s.Services[1].Limits.MemoryBytes = 64 << 20 }, "web: tasks take it over where they run, 1 at a time, each watched for 5s"},
		{"both", func(s *job.Spec) {
			s.Services[0].Image, s.Services[1].Image = "db:2", "web:2"
			s.Services[1].Update = &job.Update{Canaries: 2, Parallelism: job.AllAtOnce, Monitor: time.Second, MaxFailureRatio: 0.25, Failure: job.FailPause}
		}, "db: replaced 1 at a time, stop-first (two must not run beside each other), each good after 5s, rolled back when one fails\n" +
			"web: replaced all at once, start-first where there is room, 2 canaries first, then it waits for `shoal promote`, each good after 1s, pauses when more than 25 % fail; after db"},
	} {
		updated := base()
		tt.change(updated)
		c := comparison{old: base(), taken: updated, changes: job.Diff(base(), updated)}
		if got := strings.Join(c.how(), "\n"); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

func TestPlanSaysWhatIsPulledWhere(t *testing.T) {
	old := &job.Spec{Name: "shop", Services: []job.Service{{Name: "web", Image: "web:1"}}}
	taken := &job.Spec{Name: "shop", Services: []job.Service{{Name: "web", Image: "web:2@sha256:abc"}, {Name: "other", Image: "web:1"}}}
	at := map[job.State]time.Time{job.Created: time.Unix(1, 0)}
	list := api.TaskList{Tasks: []api.Task{
		{Task: job.Task{Job: "shop", Service: "web", Digest: old.Services[0].Digest()}, NodeName: "a", Status: &job.Status{Image: "sha256:old", At: at}},
		{Task: job.Task{Job: "else", Service: "x"}, NodeName: "b", Status: &job.Status{Image: "sha256:abc", At: at}},
	}}
	r := job.Rehearsal{Tasks: []job.RehearsedTask{{Service: "web", Node: "c"}, {Service: "web", Node: "a"}, {Service: "web", Node: "b"}, {Service: "web", Node: "d", Kept: true}, {Service: "other", Node: "a"}}}
	got := pulls(&comparison{old: old, taken: taken}, &r, &list)
	if want := "[image web:2: pulled before anything is stopped, unless it is there already: a, c]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestRestartTakesServicesOrTasks(t *testing.T) {
	for _, tt := range []struct{ words, want string }{
		{"shop", "shop {[] []}"},
		{"shop/web shop/db", "shop {[web db] []}"},
		{"shop/web.2 shop/web.3 x", "shop {[] [web.2 web.3]} x {[] []}"},
		{"shop/web shop/web.2", "error"}, {"shop shop/web", "error"}, {"shop shop", "error"}, {"/web", "error"}, {"shop/", "error"},
	} {
		names, asked, err := parseRestarts(strings.Fields(tt.words))
		var got []string
		for _, n := range names {
			got = append(got, fmt.Sprint(n, " ", asked[n]))
		}
		if err != nil {
			got = []string{"error"}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %s", tt.words, got, tt.want)
		}
	}
}

func TestWhoWaitsLearnsThatSomebodyGaveTheUpdateUp(t *testing.T) {
	asked := &job.Job{Name: "shop", Version: 2, Spec: job.Spec{Services: []job.Service{{Name: "web", Replicas: 1}}}}
	list := &api.TaskList{Want: 1, Ready: 1, Rollouts: []job.Rollout{{Job: "shop", Service: "web", Version: 3, RollbackOf: 2, RollbackTo: 1, Status: job.RolloutComplete, Reason: "too slow"}}}
	o := judge(&asked.Spec, list, nil)
	o.follow(asked, list)
	w := &waiter{submitted: &api.SubmitResult{Job: *asked}}
	if o.healthy() || o.turned == nil {
		t.Fatalf("%+v", o)
	}
	if got := w.turnedBack(&o).Error(); !strings.Contains(got, "web was rolled back\n  too slow") {
		t.Error(got)
	}
}
