package node

import (
	"context"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// rulesInterval is how often the leader looks whether all nodes were upgraded.
const rulesInterval = 2 * time.Second

// raiseRules takes the cluster to the level of rules that this node's build knows, once all nodes know it.
func (n *Node) raiseRules(ctx context.Context) error {
	var told []string
	for to := n.state.Known(); n.state.View().Rules() < to; sleep(ctx, rulesInterval) {
		if ctx.Err() != nil {
			return nil
		}
		behind := n.state.View().Behind(to)
		if len(behind) == 0 {
			res, err := n.propose(ctx, state.RaiseRules{To: to, At: n.wall()})
			switch {
			case job.KindOf(err) == job.Conflict: // an older build came in between
				continue
			case err == nil && !res.Unchanged:
				n.log.Info("the cluster applies its log by newer rules from here on", "level", to)
			}
			return err
		}
		if !slices.Equal(behind, told) {
			n.log.Warn("newer rules wait until all nodes know them: upgrade these, or remove what is gone with `shoal node rm`", "level", to, "nodes", behind)
			told = behind
		}
	}
	return nil
}
