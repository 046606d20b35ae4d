package node

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

func TestMarkIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mark
		m.reach(5)
		m.reach(3) // never back
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if at := m.wait(ctx, 5); at != 5 {
			t.Errorf("at %d, want 5 at once", at)
		}
		begun := time.Now()
		time.AfterFunc(time.Second, func() { m.reach(6); m.reach(8) })
		if at, d := m.wait(ctx, 7), time.Since(begun); at != 8 || d != time.Second {
			t.Errorf("at %d after %v, want 8 after 1s", at, d)
		}
		if at := m.wait(ctx, 9); at != 8 || ctx.Err() == nil {
			t.Errorf("at %d with the context %v, want 8 when it has ended", at, ctx.Err())
		}
	})
}

func TestRoutersAreTheOtherNodesOfTheJob(t *testing.T) {
	tasks := []*job.Task{{ID: "1", Node: "c"}, {ID: "2", Node: "a"}, {ID: "3", Node: "self"}, {ID: "4", Node: "a"}, {ID: "5", Node: "d"}}
	got := routersOf(tasks, func(id job.TaskID) bool { return id == "5" }, "self")
	if fmt.Sprint(got) != "[a c]" {
		t.Errorf("%v", got)
	}
}

func TestNobodyWaitsWhenAServiceEndsAsAWhole(t *testing.T) {
	full := &api.FeedFull{Services: []api.FeedService{{Job: "j", Name: "web"}, {Job: "j", Name: "db", Endpoints: []api.FeedEndpoint{{Task: "db.2"}}}}}
	for service, want := range map[string]bool{"web": false, "db": true, "gone": false} {
		if got := servedElsewhere(full, &job.Task{Job: "j", Service: service}); got != want {
			t.Errorf("%s: %v", service, got)
		}
	}
}
