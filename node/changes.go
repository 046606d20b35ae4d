package node

import (
	"context"
	"slices"

	"shoal/consensus"
	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Submit makes a job be as its spec says.
func (n *Node) Submit(ctx context.Context, key string, r api.SubmitRequest) (api.SubmitResult, error) {
	r.Spec.Normalize()
	if err := r.Spec.Validate(); err != nil {
		return api.SubmitResult{}, err
	}
	if r.DryRun {
		if err := n.confirmed(ctx, "submit to see what it changes"); err != nil {
			return api.SubmitResult{}, err
		}
	}
	view := n.state.View()
	resolveImages(view, &r.Spec)
	if r.DryRun {
		return dryRun(view, r.Spec), nil
	}
	res, err := n.propose(ctx, state.PutJob{Spec: r.Spec, Key: key, IfVersion: r.IfVersion, RollbackTo: r.RollbackTo, At: n.wall()})
	return submitResult(res, err)
}

// dryRun tells what a submit would make of a job.
func dryRun(view *state.View, spec job.Spec) api.SubmitResult {
	res := api.SubmitResult{Job: job.Job{Name: spec.Name, Version: 1}, Index: view.Index()}
	was := view.Job(spec.Name)
	if was != nil {
		spec.KeepRenewals(&was.Spec)
		job.RenewDependents(&was.Spec, &spec)
		changes := job.Diff(&was.Spec, &spec)
		res.Unchanged = changes.Empty() && !was.Stopped
		res.Job.Version = was.Version
		if !res.Unchanged {
			res.Job.Version++
		}
	}
	res.Job.Spec = spec
	return res
}

// Scale sets replicas of some services.
func (n *Node) Scale(ctx context.Context, key, name string, r api.ScaleRequest) (api.SubmitResult, error) {
	for svc, k := range r.Replicas {
		if k < 0 || k > job.MaxReplicas {
			return api.SubmitResult{}, job.Errorf(job.Invalid, "scale %s/%s=%d: it takes 0 to %d", name, svc, k, job.MaxReplicas)
		}
	}
	res, err := n.propose(ctx, state.ScaleJob{Job: name, Replicas: r.Replicas, Key: key, At: n.wall()})
	return submitResult(res, err)
}

func submitResult(res state.Result, err error) (api.SubmitResult, error) {
	if err != nil {
		return api.SubmitResult{}, err
	}
	j, ok := res.Value.(*job.Job)
	if res.Value == nil { // the second answer to a key
		return api.SubmitResult{}, job.Errorf(job.Conflict, "it was done at an earlier try, and the job has been removed since; see `shoal events`")
	}
	if !ok {
		return api.SubmitResult{}, job.Errorf(job.Internal, "the log answered a submit with %T", res.Value)
	}
	return api.SubmitResult{Job: *j, Unchanged: res.Unchanged, Index: res.Index}, nil
}

// StopJob stops a job's tasks and keeps the job.
func (n *Node) StopJob(ctx context.Context, name string) error {
	_, err := n.propose(ctx, state.StopJob{Job: name, At: n.wall()})
	return err
}

// StartJob wants the tasks of a stopped job again.
func (n *Node) StartJob(ctx context.Context, key, name string) (api.SubmitResult, error) {
	res, err := n.propose(ctx, state.StartJob{Job: name, Key: key, At: n.wall()})
	return submitResult(res, err)
}

// RemoveJob stops a job's tasks and forgets the job.
func (n *Node) RemoveJob(ctx context.Context, name string) error {
	_, err := n.propose(ctx, state.RemoveJob{Job: name, At: n.wall()})
	return err
}

// SetLabels sets and removes labels of a node.
func (n *Node) SetLabels(ctx context.Context, ref string, r api.LabelsRequest) error {
	node, err := findNode(n.state.View(), ref)
	if err != nil {
		return err
	}
	cmd := state.SetNodeLabels{Node: node.ID, Set: map[string]string{}, At: n.wall()}
	for k, v := range r.Labels {
		if v == "" {
			cmd.Remove = append(cmd.Remove, k)
		} else {
			cmd.Set[k] = v
		}
	}
	_, err = n.propose(ctx, cmd)
	return err
}

// RemoveNode forgets a node.
func (n *Node) RemoveNode(ctx context.Context, ref string, force bool) error {
	node, err := findNode(n.state.View(), ref)
	if err != nil {
		return err
	}
	if node.ID == n.id {
		return n.refuseToGo(node.Name)
	}
	if _, err := n.propose(ctx, state.RemoveNode{Node: node.ID, Force: force, At: n.wall()}); err != nil {
		return err
	}
	n.pool.Forget(string(node.ID))
	return nil
}

// refuseToGo says why the leader does not remove itself, and what to do. Where it has the only vote, to stop it would leave
// nobody to ask.
func (n *Node) refuseToGo(name string) error {
	holders, err := n.raft.Holders()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(holders, func(h consensus.Holder) bool { return h.Voter && !h.Leader }) {
		return job.Errorf(job.Conflict, "node %s leads the cluster at the moment: stop its agent first, then ask another node", name)
	}
	if len(n.state.View().Nodes()) == 1 {
		return job.Errorf(job.Conflict, "node %s is the only one: without it there is no cluster", name)
	}
	return job.Errorf(job.Conflict, "node %s leads the cluster and has the only vote: without it nothing can be changed. Start its agent again with --voter never, "+
		"and wait until another node leads (shoal node ls); then stop its agent and ask that node", name)
}

// findNode takes a name, an id or a unique prefix of one (of at least four characters).
func findNode(view *state.View, ref string) (*job.Node, error) {
	if node := view.NodeByName(ref); node != nil {
		return node, nil
	}
	var found *job.Node
	for _, node := range view.Nodes() {
		switch {
		case string(node.ID) == ref:
			return node, nil
		case len(ref) >= 4 && len(ref) < len(node.ID) && string(node.ID[:len(ref)]) == ref:
			if found != nil {
				return nil, job.Errorf(job.Conflict, "node %q: both %s and %s begin so; give more of the id", ref, found.ID, node.ID)
			}
			found = node
		}
	}
	if found == nil {
		return nil, job.Errorf(job.NotFound, "node %q: there is none of that name or id; `shoal node ls` lists them", ref)
	}
	return found, nil
}

// propose writes a command to the log; what the state refuses is an error like any other.
func (n *Node) propose(ctx context.Context, cmd state.Command) (state.Result, error) {
	res, err := n.raft.Propose(ctx, cmd)
	if err == nil {
		err = res.Err
	}
	return res, err
}
