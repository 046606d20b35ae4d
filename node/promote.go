package node

import (
	"context"
	"strings"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Promote lets updates go on whose canaries wait.
func (n *Node) Promote(ctx context.Context, key, name string, r api.PromoteRequest) (api.SubmitResult, error) {
	res, err := n.propose(ctx, state.PromoteJob{Job: name, Services: r.Services, Key: key, At: n.wall()})
	return submitResult(res, err)
}

// Fail gives updates up that are under way.
func (n *Node) Fail(ctx context.Context, key, name string, r api.FailRequest) (api.SubmitResult, error) {
	res, err := n.propose(ctx, state.FailJob{Job: name, Services: r.Services, Reason: r.Reason, Key: key, At: n.wall()})
	return submitResult(res, err)
}

// RestartJob has all tasks of a job, or of some of its services, or single ones, replaced as by an update.
func (n *Node) RestartJob(ctx context.Context, key, name string, r api.RestartRequest) (api.SubmitResult, error) {
	if len(r.Tasks) == 0 {
		res, err := n.propose(ctx, state.RestartJob{Job: name, Services: r.Services, Key: key, At: n.wall()})
		return submitResult(res, err)
	}
	if len(r.Services) > 0 {
		return api.SubmitResult{}, job.Errorf(job.Invalid, "restart job %s: it takes services or tasks, not both at once", name)
	}
	c := state.RestartTasks{Job: name, Key: key, At: n.wall()}
	view := n.state.View()
	for _, ref := range r.Tasks {
		if strings.Contains(ref, ".") {
			ref = name + "/" + ref
		}
		t, err := findTask(view, ref)
		if err != nil {
			return api.SubmitResult{}, err
		}
		c.Tasks = append(c.Tasks, t.ID)
	}
	res, err := n.propose(ctx, c)
	return submitResult(res, err)
}
