package node

import (
	"net/netip"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// day is when the tests' clusters live: their clocks are what the commands say.
var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return day.Add(time.Duration(ms) * time.Millisecond) }

// world is a state that commands were applied to, as the log does it.
type world struct {
	t *testing.T
	*state.Store
	index uint64
}

// newWorld has the nodes n1 and n2 of the names "alpha" and "beta", and no job.
func newWorld(t *testing.T) *world {
	w := &world{t: t, Store: state.New()}
	w.apply(state.InitCluster{Cluster: job.Cluster{ID: "c1", Pool: DefaultPool, SubnetBits: subnetBits, Rules: state.Rules}, At: day})
	for i, name := range []string{"alpha", "beta"} {
		w.apply(state.PutNode{Node: w.node(i+1, name), At: day})
	}
	return w
}

func (w *world) node(i int, name string) job.Node {
	return job.Node{
		ID: nodeIDs[i], Name: name, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), DefaultPort), KeyPin: "pin of " + name, Rules: state.Rules,
		Capacity: job.Resources{NanoCPUs: 4e9, MemoryBytes: 8 << 30, PIDs: 1000},
	}
}

var nodeIDs = []job.NodeID{"", "n1aaaaaa", "n2bbbbbb", "n3cccccc"}

func (w *world) apply(c state.Command) state.Result {
	w.t.Helper()
	raw, err := state.Encode(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.index++
	res := w.Apply(w.index, raw)
	if res.Err != nil {
		w.t.Fatalf("apply %T: %v", c, res.Err)
	}
	return res
}

// submit makes job "shop" with one service "web".
func (w *world) submit(ms int, s job.Service) {
	w.t.Helper()
	w.submitAs("shop", ms, s)
}

func (w *world) submitAs(name string, ms int, s job.Service) {
	w.t.Helper()
	s.Name, s.Image = "web", "web:1"
	spec := job.Spec{Name: name, Services: []job.Service{s}}
	spec.Normalize()
	w.apply(state.PutJob{Spec: spec, Key: name + at(ms).String(), At: at(ms)})
}

// place puts a task of shop/web on a node, for a predecessor that is given up if that is not "".
func (w *world) place(ms int, id job.TaskID, slot int, node job.NodeID, replaces job.TaskID) {
	w.t.Helper()
	w.placeOf("shop", ms, id, slot, node, replaces)
}

func (w *world) placeOf(jobName string, ms int, id job.TaskID, slot int, node job.NodeID, replaces job.TaskID) {
	w.t.Helper()
	s := w.View().Job(jobName).Spec.Services[0]
	p := state.Plan{Base: w.View().Index(), At: at(ms), Place: []job.Task{{
		ID: id, Job: jobName, Service: "web", Digest: s.Digest(), Slot: slot, Node: node, Desired: job.DesiredRun, Placed: at(ms), Replaces: replaces, Cause: "because",
	}}}
	if replaces != "" {
		gone := job.DesiredLost
		if old := w.View().Task(replaces); w.View().Node(old.Node).State == job.NodeReady {
			gone = job.DesiredStop // a node that is there stops its tasks itself
		}
		p.Stop = []state.TaskStop{{ID: replaces, Desired: gone, Cause: "gone"}}
	}
	res := w.apply(p)
	if pr := res.Value.(*state.PlanResult); len(pr.Refused) > 0 {
		w.t.Fatalf("place %s: %+v", id, pr.Refused)
	}
}

// report says that a task has reached the last of the states, each at its time.
func (w *world) report(id job.TaskID, st job.Status, reached map[job.State]time.Time) {
	w.t.Helper()
	task := w.View().Task(id)
	st.Task, st.At = id, reached
	st.Seq = w.index
	w.apply(state.Report{Node: task.Node, Statuses: []job.Status{st}, At: day})
}

func (w *world) runs(id job.TaskID, ms int) {
	w.t.Helper()
	w.report(id, job.Status{State: job.Running}, map[job.State]time.Time{job.Pulling: at(ms), job.Created: at(ms + 10), job.Running: at(ms + 30)})
}
