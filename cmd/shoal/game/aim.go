package game

import (
	"context"
	"fmt"
	"slices"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/node/gameday"
)

// aim finds out whom the fault hits, or why nobody.
func (g *Game) aim(ctx context.Context, f *Played, v *view, under []*Played) {
	kind, _ := gameday.Find(f.Fault)
	n := g.nodeNamed(v, f.Node)
	if n == nil {
		f.Skipped = "node " + f.Node + " is not there"
		return
	}
	f.On, f.nodeID, f.silent = n.Name, n.ID, kind.Silences
	f.blind = kind.Silences && n.ID == g.home.Node && kind.Name != gameday.CutPair
	silent := []string{}
	for _, u := range under {
		if u.silent {
			silent = append(silent, u.On)
		}
		if u.On == f.On {
			f.Skipped = "it is hit already: one fault at a time on a node"
			return
		}
	}
	if kind.Name == gameday.PowerOff && f.blind {
		f.Skipped = "the game is played from this node, and would end with it"
		return
	}
	if kind.Name == gameday.CutPair && (f.Peer == f.On || f.Peer == "") {
		if f.Peer = otherThan(v, f.On); f.Peer == "" {
			f.Skipped = "there is no other node"
			return
		}
	}
	if kind.Silences && !g.o.NoQuorumNeeded {
		if why := breaksQuorum(v.nodes.Nodes, append(silent, f.On)); why != "" {
			f.Skipped = why + " (--allow-no-quorum)"
			return
		}
	}
	list, err := g.cl.Tasks(ctx, api.TaskQuery{})
	if err != nil {
		f.Skipped = "its tasks cannot be listed: " + err.Error()
		return
	}
	f.before = g.tasksOn(list.Tasks, n.ID)
	if kind.Scope != gameday.Task {
		return
	}
	for _, name := range g.hit { // a node without a task gives its turn to the next one with any
		if len(f.before) > 0 {
			break
		}
		if n := g.nodeNamed(v, name); n != nil && !slices.ContainsFunc(under, func(u *Played) bool { return u.On == name }) {
			f.On, f.nodeID, f.before = n.Name, n.ID, g.tasksOn(list.Tasks, n.ID)
		}
	}
	if len(f.before) == 0 {
		f.Skipped = "no task of the watched jobs runs on any node that may be hit"
		return
	}
	t := &f.before[f.Pick%len(f.before)]
	f.Task = string(t.ID)
}

// tasksOn are the tasks of watched jobs that run on a node.
func (g *Game) tasksOn(tasks []api.Task, node job.NodeID) []api.Task {
	var out []api.Task
	for _, k := range tasks {
		if k.Node == node && k.Desired == job.DesiredRun && k.State() == job.Running && slices.Contains(g.w.watched, k.Job) {
			out = append(out, k)
		}
	}
	return out
}

func (g *Game) nodeNamed(v *view, name string) *api.NodeView {
	for i := range v.nodes.Nodes {
		if n := &v.nodes.Nodes[i]; n.Name == name || name == Leader && n.Leader {
			return n
		}
	}
	return nil
}

func otherThan(v *view, name string) string {
	for i := range v.nodes.Nodes {
		if n := &v.nodes.Nodes[i]; n.Name != name && n.State == job.NodeReady {
			return n.Name
		}
	}
	return ""
}

func (f *Played) title() string {
	t := f.Fault + " on " + f.On
	if f.Node == Leader {
		t += " (" + Leader + ")"
	}
	if f.Fault == gameday.CutPair {
		t += " and " + f.Peer
	}
	for i := range f.before {
		if string(f.before[i].ID) == f.Task {
			t += ", task " + f.before[i].Job + "/" + f.before[i].Name
		}
	}
	if f.Percent > 0 {
		t += fmt.Sprintf(", %d %%", f.Percent)
	}
	if f.Hold > 0 {
		t += ", for " + round(f.Hold)
	}
	return t
}
