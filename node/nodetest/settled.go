package nodetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// awaitQuiet waits until all is as it should be and stays so for a while without anything being written to the log.
func (c *Cluster) awaitQuiet(limit, quiet time.Duration) error {
	start := time.Now()
	why := "it was not looked at"
	for time.Since(start) < limit {
		if why = c.unsettled(); why != "" {
			time.Sleep(250 * time.Millisecond)
			continue
		}
		leader := c.Leader()
		if leader == nil {
			continue
		}
		from, starts := leader.node.State().View().Index(), c.starts()
		time.Sleep(quiet)
		v := leader.node.State().View()
		switch {
		case v.Index() != from:
			var events []string
			for _, e := range v.Events(state.EventFilter{Since: from}) {
				events = append(events, fmt.Sprintf("%d %s %s/%s task %s node %.6s: %s", e.Index, e.Kind, e.Job, e.Service, e.Task, e.Node, e.Message))
			}
			why = fmt.Sprintf("not quiet: index %d became %d\n%s", from, v.Index(), strings.Join(events, "\n"))
		case c.starts() != starts:
			why = "not quiet: containers were started"
		default:
			if why = c.unsettled(); why == "" {
				return nil
			}
		}
	}
	return fmt.Errorf("not settled %v after all faults ended: %s", limit, why)
}

// unsettled says the first thing that is not as it should be when nothing is wrong any more; "" when all is.
func (c *Cluster) unsettled() string {
	leader := c.Leader()
	if leader == nil {
		return "nobody leads"
	}
	s := shadowOf(leader.node.State().View())
	if len(s.nodes) != len(c.Machines) {
		return fmt.Sprintf("%d nodes of %d machines", len(s.nodes), len(c.Machines))
	}
	for _, n := range s.nodes {
		if n.State != job.NodeReady {
			return fmt.Sprintf("node %s is %s: %s", n.Name, n.State, n.Reason)
		}
	}
	s.shut = c.flapping(leader)
	if why := c.wrongHolders(leader, len(s.nodes)); why != "" {
		return why
	}
	if why := c.wrongOthers(s, leader.node.State().View().Runs("", "")); why != "" {
		return why
	}
	return c.wrongContainers(s)
}

// flapping lists the nodes that the leader says are.
func (c *Cluster) flapping(leader *Machine) map[job.NodeID]bool {
	out := map[job.NodeID]bool{}
	list, _ := leader.node.Nodes(c.t.Context()) // an error is found by wrongHolders
	for _, n := range list.Nodes {
		if n.Flapping != "" {
			out[n.ID] = true
		}
	}
	return out
}

// wrongHolders compares who holds the log with what the cluster's size asks for.
func (c *Cluster) wrongHolders(leader *Machine, nodes int) string {
	list, err := leader.node.Nodes(c.t.Context())
	if err != nil {
		return "list nodes: " + err.Error()
	}
	count := map[string]int{}
	for _, n := range list.Nodes {
		count[n.Role]++
	}
	want := 1
	if nodes >= 3 {
		want = 3
	}
	if nodes >= 7 {
		want = 5
	}
	if count["voter"] != want || count["standby"] != min(2, nodes-want) {
		return fmt.Sprintf("%d voters and %d standbys of %d nodes", count["voter"], count["standby"], nodes)
	}
	return ""
}

type place struct {
	job, service, slot string
}

// wrongContainers compares the containers of all machines with what the agreed jobs ask for.
func (c *Cluster) wrongContainers(s *shadow) string {
	want := map[place]*job.Service{}
	for _, j := range s.jobs {
		if j.Stopped {
			continue
		}
		for i := range j.Spec.Services {
			sv := &j.Spec.Services[i]
			if sv.IsBatch() {
				continue // none runs in the end: see wrongOthers
			}
			for k := 1; k <= sv.Replicas && sv.Mode != job.Global; k++ {
				want[place{j.Name, sv.Name, fmt.Sprint(k)}] = sv
			}
			for _, n := range s.nodes {
				if sv.Mode == job.Global && !n.Drained && admits(sv, n) {
					want[place{j.Name, sv.Name, "at " + string(n.ID)}] = sv
				}
			}
		}
	}
	have := map[place]string{}
	for _, m := range c.Machines {
		list, err := m.Runtime.List(c.t.Context())
		if err != nil {
			return "list containers: " + err.Error()
		}
		for _, i := range list {
			if i.State != "running" {
				continue
			}
			p := place{i.Labels["shoal.job"], i.Labels["shoal.service"], i.Labels["shoal.slot"]}
			if p.slot == "0" {
				p.slot = "at " + i.Labels["shoal.node"]
			}
			sv := want[p]
			switch {
			case sv == nil:
				return fmt.Sprintf("%s runs %s of %v, which nobody asked for", m.Name, i.ID, p)
			case i.Labels["shoal.digest"] != string(sv.Digest()) && (s.stuck(job.TaskID(i.ID), sv) || s.behind(s.jobs[p.job], sv)):
			case i.Labels["shoal.digest"] != string(sv.Digest()):
				return fmt.Sprintf("%s runs %s of %v, of another version", m.Name, i.ID, p)
			case have[p] != "":
				return fmt.Sprintf("%v runs on %s and on %s", p, have[p], m.Name)
			}
			have[p] = m.Name
		}
	}
	for p, sv := range want {
		if have[p] != "" {
			continue
		}
		if why := s.excused(p, sv); why != "" {
			return fmt.Sprintf("%v does not run: %s", p, why)
		}
	}
	return ""
}

// excused says why a slot that does not run should, "" if it need not: it has ended for good, or fits nowhere, or waits
// for a service of which the same is true.
func (s *shadow) excused(p place, sv *job.Service) string {
	var last *job.Task
	for _, t := range s.tasks {
		slot := fmt.Sprint(t.Slot)
		if t.Slot == 0 {
			slot = "at " + string(t.Node)
		}
		if (place{t.Job, t.Service, slot}) == p && (last == nil || t.Index > last.Index) {
			last = t
		}
	}
	if last != nil {
		st := s.statuses[last.ID]
		if st != nil && last.Digest == sv.Digest() && last.Desired == job.DesiredRun {
			if st.State == job.Complete && sv.Restart.Policy != job.RestartAny || st.State == job.Failed && sv.Restart.Policy == job.RestartNever {
				return ""
			}
		}
		if !s.ended(last.ID) {
			return fmt.Sprintf("task %s on node %.6s should %s, %+v", last.ID, last.Node, last.Desired, st)
		}
	}
	if last == nil || last.Digest != sv.Digest() { // what ran before with the same content waits for nobody
		for _, d := range sv.DependsOn {
			o := s.jobs[p.job].Spec.Service(d.Service)
			for k := 1; k <= o.Replicas; k++ {
				if !s.started(p.job, o, k) {
					return ""
				}
			}
		}
	}
	var nodes []*job.Node
	for _, n := range s.nodes {
		if sv.Mode != job.Global || p.slot == "at "+string(n.ID) {
			nodes = append(nodes, n)
		}
	}
	i := slices.IndexFunc(nodes, func(n *job.Node) bool { return !s.tooMuch(sv, n) })
	if i < 0 {
		return ""
	}
	if last == nil {
		return "it has no task, and fits on " + nodes[i].Name
	}
	return fmt.Sprintf("its last task %s has ended (%+v), and it fits on %s", last.ID, s.statuses[last.ID], nodes[i].Name)
}

// started tells whether a slot runs, or ran to its end, with the content that is asked for.
func (s *shadow) started(jobName string, sv *job.Service, slot int) bool {
	for _, t := range s.tasks {
		if t.Job == jobName && t.Service == sv.Name && t.Slot == slot && t.Desired == job.DesiredRun && t.Digest == sv.Digest() {
			if st := s.statuses[t.ID]; st != nil && (st.State == job.Running || st.State.Terminal()) {
				return true
			}
		}
	}
	return false
}

// stuck tells whether the new content of a service fits nowhere even in the place of a task: then that one runs on.
func (s *shadow) stuck(id job.TaskID, sv *job.Service) bool {
	t := s.tasks[id]
	if t == nil {
		return false
	}
	delete(s.tasks, id)
	defer func() { s.tasks[id] = t }()
	for _, n := range s.nodes {
		if (sv.Mode != job.Global || n.ID == t.Node) && !s.tooMuch(sv, n) {
			return false
		}
	}
	return true
}

// behind tells whether a service keeps its former content because one that it depends on is stuck with its own: updates go in
// that order.
func (s *shadow) behind(j *job.Job, sv *job.Service) bool {
	for _, d := range sv.DependsOn {
		on := j.Spec.Service(d.Service)
		if on == nil {
			continue
		}
		var old []job.TaskID
		for id, t := range s.tasks {
			if t.Job == j.Name && t.Service == on.Name && t.Digest != on.Digest() {
				old = append(old, id)
			}
		}
		if slices.ContainsFunc(old, func(id job.TaskID) bool { return s.stuck(id, on) }) || s.behind(j, on) {
			return true
		}
	}
	return false
}
