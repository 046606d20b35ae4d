package e2e

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// replicas is how many tasks the tests of failure watch: two a machine.
const replicas = 6

// calm is how long a state must last to count as settled: longer than reports, feeds and gossip take to disturb it.
const calm = 3 * time.Second

// scene is a cluster of three with a job on it; each fault is played and must end as it began.
type scene struct {
	n   *machines.Net
	job string
}

// TestFailures: after every fault exactly so many tasks run as were asked for, each slot once. Each group has a cluster of
// its own, and no machine comes and goes often enough in it to count as flapping: it would get no new tasks.
func TestFailures(t *testing.T) {
	type fault struct {
		name  string
		smoke bool // also in a short run
		play  func(*testing.T, *scene)
	}
	for _, group := range []struct {
		name   string
		faults []fault
	}{
		{"power", []fault{
			{"worker loses power", false, func(t *testing.T, s *scene) { s.powerCut(t, s.worker(t)) }},
			{"leader loses power", true, func(t *testing.T, s *scene) { s.powerCut(t, s.leader(t)) }},
			{"all machines lose power", true, allOff},
		}},
		{"network", []fault{
			{"worker is cut off", false, func(t *testing.T, s *scene) { s.cutOff(t, s.worker(t)) }},
			{"leader is cut off", false, func(t *testing.T, s *scene) { s.cutOff(t, s.leader(t)) }},
			{"worker is not heard by the leader", false, oneWay},
		}},
		{"agents", []fault{
			{"worker is reached by gossip alone", false, tcpCut},
			{"agent of the leader is frozen", false, frozenLeader},
			{"machine is drained", false, drain},
		}},
	} {
		faults := slices.DeleteFunc(group.faults, func(f fault) bool { return testing.Short() && !f.smoke })
		if len(faults) == 0 {
			continue
		}
		t.Run(group.name, func(t *testing.T) {
			s := &scene{n: cluster(t, 3), job: "web"}
			loadBusybox(t, s.n.Machines()[0])
			sleepers(t, s.n.Machines()[0], s.job, replicas)
			for _, f := range faults {
				if !t.Run(f.name, func(t *testing.T) { s.endsAsItBegan(t, f.play) }) {
					return // what follows would fail for this fault
				}
			}
		})
	}
}

func (s *scene) endsAsItBegan(t *testing.T, play func(*testing.T, *scene)) {
	settled(t, s.n, s.leader(t), s.job, replicas)
	play(t, s)
	m := s.leader(t)
	settled(t, s.n, m, s.job, replicas)
	always(t, "it must stay so", calm, func() error { return settledNow(s.n, m, s.job, replicas) })
}

func (s *scene) leader(t *testing.T) *machines.Machine {
	t.Helper()
	return s.leaderWithout(t, nil)
}

// leaderWithout waits for a leader among the others.
func (s *scene) leaderWithout(t *testing.T, lost *machines.Machine) *machines.Machine {
	t.Helper()
	var found *machines.Machine
	eventually(t, "a leader", func() error {
		for _, m := range s.n.Machines() {
			if m != lost && m.Leads() {
				found = m
				return nil
			}
		}
		return fmt.Errorf("none leads")
	})
	return found
}

// worker is a machine with tasks that does not lead.
func (s *scene) worker(t *testing.T) *machines.Machine {
	t.Helper()
	leader := s.leader(t)
	for _, m := range s.n.Machines() {
		if m != leader && len(m.Tasks(s.job)) > 0 {
			return m
		}
	}
	t.Fatal("no machine but the leader's has tasks")
	return nil
}

// powerCut: a lost machine's tasks run elsewhere, and `why` tells how that came; the machine returns and nothing runs
// twice.
func (s *scene) powerCut(t *testing.T, lost *machines.Machine) {
	before, err := tasks(s.leader(t), s.job)
	must(t, err)
	must(t, lost.PowerOff())
	m := s.leaderWithout(t, lost)
	settled(t, s.n, m, s.job, replicas)
	after, err := tasks(m, s.job)
	must(t, err)
	var replaced int
	for _, k := range after.Tasks {
		old := slices.IndexFunc(before.Tasks, func(b api.Task) bool { return b.ID == k.Replaces && b.NodeName == lost.Name })
		if old >= 0 {
			replaced++
			whyReplaced(t, m, string(k.ID), lost.Name)
		}
	}
	if replaced == 0 {
		t.Errorf("no task says that it replaces one of %s", lost.Name)
	}
	s.back(t, lost)
}

// back switches a machine on again and waits until it is a ready node.
func (s *scene) back(t *testing.T, m *machines.Machine) {
	t.Helper()
	must(t, m.PowerOn())
	must(t, m.Start())
	s.awaitState(t, m, job.NodeReady)
}

// awaitState waits until another machine takes m for ready or down.
func (s *scene) awaitState(t *testing.T, m *machines.Machine, want job.NodeState) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s to be %s", m.Name, want), func() error {
		lost := m
		if want == job.NodeReady {
			lost = nil // it may lead itself
		}
		other := s.leaderWithout(t, lost)
		list, err := nodes(other)
		if err != nil {
			return err
		}
		for _, v := range list.Nodes {
			if v.Name == m.Name && v.State == want {
				return nil
			}
		}
		return fmt.Errorf("the nodes are %+v", list.Nodes)
	})
}

// whyReplaced checks the timeline of a replacement.
func whyReplaced(t *testing.T, m *machines.Machine, id, lost string) {
	t.Helper()
	var why api.Why
	must(t, m.JSON(&why, "why", id))
	var steps []string
	for _, s := range why.Steps {
		steps = append(steps, s.What)
		if s.Since < 0 {
			t.Errorf("why %s: %s comes %v after the step before", id, s.What, s.Since)
		}
		if onLost := s.Node == lost; onLost != slices.Contains([]string{"suspect", "dead", "node down"}, s.What) {
			t.Errorf("why %s: %s is told of node %s", id, s.What, s.Node)
		}
	}
	want := []string{"suspect", "dead", "node down", "placed", "pulling", "created", "running"}
	if !slices.Equal(steps, want) {
		t.Errorf("why %s: %q, want %q", id, steps, want)
	}
	t.Logf("%s", shoal(t, m, "why", id))
}

// cutOff: the others replace what is behind the cut; there it runs on, and what is told there is marked stale.
func (s *scene) cutOff(t *testing.T, lost *machines.Machine) {
	mine := lost.Tasks(s.job)
	must(t, s.n.Isolate(lost))
	m := s.leaderWithout(t, lost)
	eventually(t, "all tasks on the others", func() error {
		// Before the others have judged, the log still has all of them running where they were.
		list, err := tasks(m, s.job)
		if err != nil {
			return err
		}
		for _, k := range list.Tasks {
			if k.NodeName == lost.Name {
				return fmt.Errorf("%s (%s) is still meant to be on %s", k.Name, k.ID, lost.Name)
			}
		}
		return exactly(m, s.job, replicas)
	})
	s.keptAlone(t, lost, mine)
	must(t, s.n.Heal())
	s.awaitState(t, lost, job.NodeReady)
}

// keptAlone checks a node that is out of touch: its containers run on untouched, and it says that it may be wrong.
func (s *scene) keptAlone(t *testing.T, m *machines.Machine, before map[string][]int) {
	t.Helper()
	now := m.Tasks(s.job)
	for id, pids := range before {
		if len(now[id]) == 0 || now[id][0] != pids[0] {
			t.Errorf("%s had the container of %s as process %v and has it as %v", m.Name, id, pids, now[id])
		}
	}
	eventually(t, m.Name+" to say that it is out of touch", func() error {
		var list api.TaskList
		if err := m.JSON(&list, "ps", s.job); err != nil {
			return err
		}
		if !list.Stale || len(list.Tasks) == 0 {
			return fmt.Errorf("ps says stale: %v, with %d tasks", list.Stale, len(list.Tasks))
		}
		return nil
	})
}

// oneWay: the leader does not hear a worker, but the third machine hears both: nothing is lost meanwhile.
func oneWay(t *testing.T, s *scene) {
	leader, worker := s.leader(t), s.worker(t)
	before := slots(t, leader, s.job)
	must(t, s.n.CutOneWay(worker, leader))
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(200 * time.Millisecond) { // longer than any judgement takes
		list, err := nodes(leader)
		must(t, err)
		for _, v := range list.Nodes {
			if v.State != job.NodeReady {
				t.Fatalf("%s is %s although another machine hears it", v.Name, v.State)
			}
		}
	}
	m := s.leader(t)
	eventually(t, "all tasks in spite of the cut", func() error { return exactly(m, s.job, replicas) })
	for name, is := range slots(t, m, s.job) {
		if was := before[name]; is.ID != was.ID {
			t.Errorf("%s was task %s on %s and is task %s on %s", name, was.ID, was.NodeName, is.ID, is.NodeName)
		}
	}
	must(t, s.n.Heal())
	s.awaitState(t, worker, job.NodeReady)
}

// tcpCut: a node that gossip hears but nobody can use is down until it can be used again.
func tcpCut(t *testing.T, s *scene) {
	worker := s.worker(t)
	mine := worker.Tasks(s.job)
	for _, m := range s.n.Machines() {
		if m != worker {
			must(t, s.n.CutTCP(worker, m))
		}
	}
	s.awaitState(t, worker, job.NodeDown)
	m := s.leaderWithout(t, worker)
	eventually(t, "all tasks on the others", func() error { return exactly(m, s.job, replicas) })
	s.keptAlone(t, worker, mine)
	must(t, s.n.Heal())
	s.awaitState(t, worker, job.NodeReady)
}

// frozenLeader: the others go on without a leader that does not answer, and it finds its place when it thaws.
func frozenLeader(t *testing.T, s *scene) {
	frozen := s.leader(t)
	mine := frozen.Tasks(s.job)
	must(t, frozen.Signal(syscall.SIGSTOP))
	thaw := time.After(5 * time.Second)
	m := s.leaderWithout(t, frozen)
	shoal(t, m, "run", "--detach", "--name", "meanwhile", "--stop-timeout", "1s", busyboxImage, "sleep", "100000")
	<-thaw
	must(t, frozen.Signal(syscall.SIGCONT))
	s.awaitState(t, frozen, job.NodeReady)
	eventually(t, "one leader", func() error {
		leads := 0
		for _, m := range s.n.Machines() {
			if m.Leads() {
				leads++
			}
		}
		if leads != 1 {
			return fmt.Errorf("%d machines lead", leads)
		}
		return nil
	})
	now := frozen.Tasks(s.job)
	for id, pids := range mine {
		if len(now[id]) == 0 || now[id][0] != pids[0] {
			t.Errorf("the frozen agent's container of %s was process %v and is %v", id, pids, now[id])
		}
	}
	settled(t, s.n, m, "meanwhile", 1)
	shoal(t, m, "rm", "meanwhile")
}

// allOff: everything returns by itself when the power does.
func allOff(t *testing.T, s *scene) {
	all := s.n.Machines()
	for _, m := range all {
		must(t, m.PowerOff())
	}
	for _, m := range all {
		must(t, m.PowerOn())
		must(t, m.Start())
	}
	for _, m := range all {
		s.awaitState(t, m, job.NodeReady)
	}
}

// drain: a drained node is emptied and stays empty until it is activated.
func drain(t *testing.T, s *scene) {
	worker, m := s.worker(t), s.leader(t)
	shoal(t, m, "node", "drain", worker.Name)
	settled(t, s.n, m, s.job, replicas)
	empty := func() error {
		if left := worker.Tasks(s.job); len(left) > 0 {
			return fmt.Errorf("%s still runs %v", worker.Name, left)
		}
		return nil
	}
	must(t, empty())
	shoal(t, m, "scale", s.job+"/web="+fmt.Sprint(replicas+2))
	settled(t, s.n, m, s.job, replicas+2)
	must(t, empty())
	shoal(t, m, "node", "activate", worker.Name)
	shoal(t, m, "scale", s.job+"/web="+fmt.Sprint(replicas+4))
	settled(t, s.n, m, s.job, replicas+4)
	if empty() == nil {
		t.Errorf("%s is active again but gets no task", worker.Name)
	}
	shoal(t, m, "scale", s.job+"/web="+fmt.Sprint(replicas))
}
