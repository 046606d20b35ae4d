package node

import (
	"context"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/scheduler"
	"shoal/consensus/state"
	"shoal/node/api"
)

// Settings tells what admins decided about the cluster, with defaults filled in.
func (n *Node) Settings(context.Context) (api.ClusterSettings, error) {
	view := n.state.View()
	out := api.ClusterSettings{Settings: map[string]string{}}
	out.Index = view.Index()
	for _, s := range job.Settings() {
		out.Settings[s.Name] = view.Cluster().Setting(s.Name)
	}
	return out, nil
}

// SetSettings changes some of them.
func (n *Node) SetSettings(ctx context.Context, r api.SettingsRequest) error {
	_, err := n.propose(ctx, state.SetCluster{Set: r.Settings, At: n.wall()})
	return err
}

// SetOvercommit says how much more than its capacity a node gives away.
func (n *Node) SetOvercommit(ctx context.Context, ref string, r api.OvercommitRequest) error {
	node, err := findNode(n.state.View(), ref)
	if err != nil {
		return err
	}
	_, err = n.propose(ctx, state.SetOvercommit{Node: node.ID, Overcommit: r.Overcommit, At: n.wall()})
	return err
}

// Rehearse tells what submitting a spec would come to, on a copy of the state.
func (n *Node) Rehearse(ctx context.Context, r api.RehearseRequest) (job.Rehearsal, error) {
	r.Spec.Normalize()
	if err := r.Spec.Validate(); err != nil {
		return job.Rehearsal{}, err
	}
	if err := n.confirmed(ctx, "plan"); err != nil {
		return job.Rehearsal{}, err
	}
	fork := n.state.Fork()
	resolveImages(fork.View(), &r.Spec)
	return scheduler.Rehearse(fork, r.Spec, time.Now())
}
