package game

import (
	"fmt"
	"slices"
	"strings"

	"shoal/consensus/job"
	"shoal/node/api"
)

// view is the cluster at one moment, as the game's client sees it.
type view struct {
	nodes api.NodeList
	jobs  api.JobList
}

// unwell says what keeps the cluster from being whole, nil if nothing does: nodes that are not ready, no leader, jobs among
// watched that do not fully run.
func (v *view) unwell(watched []string) []string {
	var out []string
	if v.nodes.Stale || v.jobs.Stale {
		out = append(out, "no leader answers")
	}
	leads := false
	for i := range v.nodes.Nodes {
		n := &v.nodes.Nodes[i]
		leads = leads || n.Leader
		switch {
		case n.State == job.NodeLeft:
		case n.State != job.NodeReady:
			out = append(out, fmt.Sprintf("node %s is %s", n.Name, n.State))
		case n.Gossip != "" && n.Gossip != "alive":
			out = append(out, fmt.Sprintf("node %s is %s in gossip's eyes", n.Name, n.Gossip))
		}
	}
	if !leads && len(out) == 0 {
		out = append(out, "no node leads")
	}
	for i := range v.jobs.Jobs {
		j := &v.jobs.Jobs[i]
		if slices.Contains(watched, j.Name) && !j.Stopped && j.Ready < j.Want {
			out = append(out, fmt.Sprintf("job %s has %d of %d tasks running", j.Name, j.Ready, j.Want))
		}
	}
	for _, name := range watched {
		if !slices.ContainsFunc(v.jobs.Jobs, func(j api.JobSummary) bool { return j.Name == name }) {
			out = append(out, fmt.Sprintf("job %s is gone", name))
		}
	}
	return out
}

// watchable are the jobs that a game watches when nobody names any: those that serve.
func (v *view) watchable() []string {
	var out []string
	for i := range v.jobs.Jobs {
		if j := &v.jobs.Jobs[i]; !j.Stopped && j.Batches < j.Services && j.Want > 0 {
			out = append(out, j.Name)
		}
	}
	return out
}

// breaksQuorum tells why the voters that are left would be no majority if the nodes in silent were silent, "" if they would.
func breaksQuorum(nodes []api.NodeView, silent []string) string {
	var voters, left int
	for i := range nodes {
		n := &nodes[i]
		if n.Role != "voter" {
			continue
		}
		voters++
		if n.State == job.NodeReady && (n.Gossip == "" || n.Gossip == "alive") && !slices.Contains(silent, n.Name) {
			left++
		}
	}
	if voters == 0 || left > voters/2 {
		return ""
	}
	return fmt.Sprintf("with %s silent only %d of %s would be left, which is no majority", strings.Join(silent, " and "), left, plural(voters, "voter"))
}

// hittable are the names of nodes that may be hit, sorted as the schedule wants them; an error names one that is not there.
func hittable(nodes []api.NodeView, named []string) ([]string, error) {
	var all []string
	for i := range nodes {
		if nodes[i].State != job.NodeLeft {
			all = append(all, nodes[i].Name)
		}
	}
	slices.Sort(all)
	if len(named) == 0 {
		return all, nil
	}
	var out []string
	for _, name := range named {
		if !slices.Contains(all, name) {
			return nil, job.Errorf(job.NotFound, "--nodes: there is no node %q; there are %s", name, strings.Join(all, ", "))
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
