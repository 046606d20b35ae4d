package state

import (
	"fmt"
	"reflect"
	"testing"

	"shoal/consensus/job"
)

// placeSpec asks for everything that a placement is checked for.
func placeSpec(replicas int) job.Spec {
	s := aSpec("shop", replicas)
	w := &s.Services[0]
	w.Limits = job.Resources{}
	w.Placement = &job.Placement{MaxPerNode: 2, Spread: []string{"node.labels.rack"}}
	w.Generic = []job.GenericRequest{{Kind: "gpu", Count: 1}, {Kind: "lic", Count: 2}}
	w.Mounts = []job.Mount{{Type: job.MountVolume, Source: "shop_data", Target: "/data"}}
	s.Volumes = []job.Volume{{Name: "shop_data"}}
	return s
}

func gpuNode(name string, gpus ...string) job.Node {
	n := aNode(name)
	n.Attributes = map[string]string{"cpu.count": "4"}
	n.Generic = []job.Generic{{Kind: "gpu", IDs: gpus}, {Kind: "lic", Count: 10}}
	return n
}

func placeTask(j *job.Job, slot int, id, node string, gpus ...string) job.Task {
	k := aTask(j, slot, id, node)
	k.Generic = []job.Generic{{Kind: "gpu", IDs: gpus}, {Kind: "lic", Count: 2}}
	k.Volumes = []string{"shop_data"}
	return k
}

func scriptedPlace(l *log) {
	l.cluster()
	l.do(PutNode{Node: gpuNode("a", "u1", "u2", "u3"), At: t0})
	l.do(PutNode{Node: gpuNode("b", "u4"), At: t0})
	l.do(SetCluster{Set: map[string]string{"strategy": "binpack", "preemption": "off"}, At: t0})
	l.do(SetCluster{Set: map[string]string{"preemption": ""}, At: t0})
	l.do(SetOvercommit{Node: "id-a", Overcommit: &job.Overcommit{CPUPercent: 200, MemoryPercent: 150}, At: t0})
	j := l.do(PutJob{Spec: placeSpec(3), At: t0}).Value.(*job.Job)
	l.place(placeTask(j, 1, "one", "a", "u1"), placeTask(j, 2, "two", "b", "u4"))
	l.report("a", "one", 1, job.Running)
	l.plan(Plan{Stop: []TaskStop{{ID: "one", Desired: job.DesiredStop, Cause: "preempted"}}})
	l.report("a", "one", 2, job.Complete)
	l.place(placeTask(j, 1, "three", "a", "u2"))
}

func TestAPlacementIsCheckedAgainstWhatIsFree(t *testing.T) {
	l := newLog(t).cluster()
	l.do(PutNode{Node: gpuNode("a", "u1", "u2", "u3"), At: t0})
	j := l.do(PutJob{Spec: placeSpec(6), At: t0}).Value.(*job.Job)
	bare := aTask(j, 1, "bare", "a")
	got := l.plan(Plan{Place: []job.Task{
		bare, placeTask(j, 1, "many", "a", "u1", "u2"), placeTask(j, 1, "other", "a", "u9"),
		placeTask(j, 1, "one", "a", "u1"), placeTask(j, 2, "same", "a", "u1"), placeTask(j, 2, "two", "a", "u2"), placeTask(j, 3, "third", "a", "u3"),
	}})
	want := map[job.TaskID]string{
		"bare":  "task has not got the resources that its service asks for",
		"many":  "task has not got the resources that its service asks for",
		"other": "gpu u9 of the node is not free",
		"same":  "gpu u1 of the node is not free",
		"third": "node has 2 tasks of the service already",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("refused %v\nwant %v", got, want)
	}
	// What a task had is free again when it has ended, not before.
	l.plan(Plan{Stop: []TaskStop{{ID: "one", Desired: job.DesiredStop}}})
	if why := l.plan(Plan{Place: []job.Task{placeTask(j, 3, "early", "a", "u1")}})["early"]; why == "" {
		t.Error("u1 was given away before its task ended")
	}
	l.report("a", "one", 1, job.Complete)
	if why := l.plan(Plan{Place: []job.Task{placeTask(j, 3, "late", "a", "u1")}})["late"]; why != "" {
		t.Error(why)
	}
	if !reflect.DeepEqual(derive(l.s.View()).use, l.s.derived.use) {
		t.Error("what is kept differs from what is computed anew")
	}
}

func TestOvercommitGivesMoreAway(t *testing.T) {
	l := newLog(t).cluster().nodes("a")
	spec := aSpec("big", 2)
	spec.Services[0].Limits = job.Resources{MemoryBytes: 700 << 20} // of 1 GiB
	j := l.do(PutJob{Spec: spec, At: t0}).Value.(*job.Job)
	l.place(aTask(j, 1, "one", "a"))
	if why := l.plan(Plan{Place: []job.Task{aTask(j, 2, "two", "a")}})["two"]; why != "node lacks memory" {
		t.Errorf("refused with %q", why)
	}
	l.do(SetOvercommit{Node: "id-a", Overcommit: &job.Overcommit{MemoryPercent: 150}, At: t0})
	l.place(aTask(j, 2, "two", "a"))
	l.fails(job.Invalid, SetOvercommit{Node: "id-a", Overcommit: &job.Overcommit{CPUPercent: 1}, At: t0})
	l.fails(job.NotFound, SetOvercommit{Node: "id-x", At: t0})
	l.fails(job.Invalid, SetCluster{Set: map[string]string{"strategy": "tight"}, At: t0})
	l.fails(job.Invalid, SetCluster{Set: map[string]string{"colour": "red"}, At: t0})
}

func TestHomesOfVolumesOutliveTheirJob(t *testing.T) {
	l := newLog(t)
	scriptedPlace(l)
	homes := func() (out []string) {
		for _, h := range l.s.View().Homes("shop_data") {
			out = append(out, fmt.Sprintf("%s slot %d", h.Node, h.Slot))
		}
		return out
	}
	want := []string{"id-a slot 1", "id-b slot 2"}
	if got := homes(); !reflect.DeepEqual(got, want) {
		t.Errorf("homes %v, want %v", got, want)
	}
	l.do(RemoveJob{Job: "shop", At: t0})
	l.report("a", "three", 1, job.Complete)
	l.report("b", "two", 1, job.Complete)
	if n := len(l.s.View().Tasks()); n > 0 {
		t.Errorf("%d tasks are left", n)
	}
	if got := homes(); !reflect.DeepEqual(got, want) {
		t.Errorf("homes after rm %v, want %v", got, want)
	}
	l.do(NodeDown{Node: "id-a", At: t0})
	l.do(RemoveNode{Node: "id-a", At: t0})
	if got := homes(); !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("homes after node rm %v, want %v", got, want[1:])
	}
	if d := derive(l.s.View()); d.homes != l.s.derived.homes || d.homes != 1 {
		t.Errorf("%d homes counted, want %d", l.s.derived.homes, d.homes)
	}
}
