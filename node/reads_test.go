package node

import (
	"context"
	"errors"
	"testing"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
)

func TestTallyCountsWhatIsMeantToRunAndWhatServes(t *testing.T) {
	ready := func(w *world, id job.TaskID) { w.runs(id, 50) }
	for name, c := range map[string]struct {
		service     job.Service
		prepare     func(*world)
		want, ready int
	}{
		"nothing placed yet": {job.Service{Replicas: 3}, func(*world) {}, 3, 0},
		"some run": {job.Service{Replicas: 3}, func(w *world) {
			w.place(1, "t1", 1, nodeIDs[1], "")
			w.place(2, "t2", 2, nodeIDs[1], "")
			ready(w, "t1")
		}, 3, 1},
		"unhealthy is not ready": {job.Service{Replicas: 1}, func(w *world) {
			w.place(1, "t1", 1, nodeIDs[1], "")
			w.report("t1", job.Status{State: job.Running, Health: job.Unhealthy}, nil)
		}, 1, 0},
		"on a node that is down": {job.Service{Replicas: 1}, func(w *world) {
			w.place(1, "t1", 1, nodeIDs[2], "")
			ready(w, "t1")
			w.apply(state.NodeDown{Node: nodeIDs[2], At: at(5)})
		}, 1, 0},
		"of an older version": {job.Service{Replicas: 1}, func(w *world) {
			w.place(1, "t1", 1, nodeIDs[1], "")
			ready(w, "t1")
			w.submit(10, job.Service{Replicas: 1, Command: []string{"other"}})
		}, 1, 0},
		"run once and complete": {job.Service{Replicas: 1, Restart: job.Restart{Policy: job.RestartNever}}, func(w *world) {
			w.place(1, "t1", 1, nodeIDs[1], "")
			w.report("t1", job.Status{State: job.Complete}, nil)
		}, 1, 1},
		"global, before the first plan": {job.Service{Mode: job.Global}, func(*world) {}, 1, 0},
		"global, one of two": {job.Service{Mode: job.Global}, func(w *world) {
			w.place(1, "t1", 0, nodeIDs[1], "")
			w.place(1, "t2", 0, nodeIDs[2], "")
			ready(w, "t2")
		}, 2, 1},
		"global, one held back": {job.Service{Mode: job.Global}, func(w *world) {
			w.place(1, "t1", 0, nodeIDs[1], "")
			ready(w, "t1")
			w.apply(state.Plan{Base: w.View().Index(), Block: []job.Blocked{{Job: "shop", Service: "web", Slots: 1}}, At: at(9)})
		}, 2, 1},
		"stopped": {job.Service{Replicas: 2}, func(w *world) {
			w.place(1, "t1", 1, nodeIDs[1], "")
			ready(w, "t1")
			w.apply(state.StopJob{Job: "shop", At: at(9)})
		}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.submit(0, c.service)
			c.prepare(w)
			if want, ready := tally(w.View(), w.View().Job("shop")); want != c.want || ready != c.ready {
				t.Errorf("%d of %d ready, want %d of %d", ready, want, c.ready, c.want)
			}
		})
	}
}

func TestTasksAreFoundByIDPrefixAndName(t *testing.T) {
	w := newWorld(t)
	w.submit(0, job.Service{Replicas: 2})
	w.submitAs("other", 0, job.Service{Replicas: 2})
	w.submitAs("every", 0, job.Service{Mode: job.Global})
	w.place(1, "abc1", 1, nodeIDs[1], "")
	w.place(2, "abd2", 1, nodeIDs[2], "abc1") // of one slot the one that is meant to run counts
	w.place(3, "xyz3", 2, nodeIDs[1], "")
	w.placeOf("other", 3, "oth1", 1, nodeIDs[1], "")
	w.placeOf("every", 4, "glo1", 0, nodeIDs[2], "")
	for ref, want := range map[string]job.TaskID{
		"abc1": "abc1", "abc": "abc1", "x": "xyz3", "shop/web.1": "abd2", "web.2": "xyz3", "every/web.beta": "glo1", "web.beta": "glo1",
	} {
		if got, err := findTask(w.View(), ref); err != nil || got.ID != want {
			t.Errorf("find %q: %v, %v; want %s", ref, got, err, want)
		}
	}
	for ref, want := range map[string]job.Kind{
		"ab": job.Conflict, "web.1": job.Conflict, "": job.Invalid, "nope": job.NotFound, "shop/web.9": job.NotFound, "none/web.1": job.NotFound,
		"../etc/passwd": job.NotFound, "shop/": job.NotFound, "/": job.NotFound, ".": job.NotFound, "shop/web.1\x00": job.NotFound,
	} {
		if got, err := findTask(w.View(), ref); !errors.Is(err, want) {
			t.Errorf("find %q: %v, %v; want %s", ref, got, err, want)
		}
	}
}

func TestNodesAreFoundByNameIDAndPrefix(t *testing.T) {
	w := newWorld(t)
	third := w.node(3, "n2bbbbbb") // a name that looks like another's id
	third.ID = "n2bbzzzz"
	w.apply(state.PutNode{Node: third, At: day})
	for ref, want := range map[string]job.NodeID{"alpha": nodeIDs[1], "n1aa": nodeIDs[1], "n1aaaaaa": nodeIDs[1], "n2bbbbbb": "n2bbzzzz", "n2bbz": "n2bbzzzz"} {
		if got, err := findNode(w.View(), ref); err != nil || got.ID != want {
			t.Errorf("find %q: %v, %v; want %s", ref, got, err, want)
		}
	}
	for ref, want := range map[string]job.Kind{"n2bb": job.Conflict, "n1a": job.NotFound, "": job.NotFound, "gamma": job.NotFound} {
		if got, err := findNode(w.View(), ref); !errors.Is(err, want) {
			t.Errorf("find %q: %v, %v; want %s", ref, got, err, want)
		}
	}
}

func TestTaskListsShowWhatRunsAndOnRequestWhatEnded(t *testing.T) {
	w := newWorld(t)
	n := &Node{state: w.Store}
	w.submit(0, job.Service{Replicas: 1})
	w.place(1, "t1", 1, nodeIDs[1], "")
	w.report("t1", job.Status{State: job.Failed}, nil)
	w.place(2, "t2", 1, nodeIDs[2], "t1")
	for _, c := range []struct {
		q    api.TaskQuery
		want int
	}{
		{api.TaskQuery{}, 1}, {api.TaskQuery{All: true}, 2}, {api.TaskQuery{Node: nodeIDs[1], All: true}, 1}, {api.TaskQuery{Job: "shop", Service: "db"}, 0},
	} {
		if got, err := n.Tasks(context.Background(), c.q); err != nil || len(got.Tasks) != c.want {
			t.Errorf("%+v: %d tasks, %v; want %d", c.q, len(got.Tasks), err, c.want)
		}
	}
	if _, err := n.Tasks(context.Background(), api.TaskQuery{Job: "none"}); !errors.Is(err, job.NotFound) {
		t.Errorf("tasks of no job: %v", err)
	}
}
