package node

import (
	"context"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// ID is the node's id.
func (n *Node) ID() job.NodeID { return n.id }

// Record writes a command to the log.
func (n *Node) Record(ctx context.Context, cmd state.Command) error {
	_, err := n.propose(ctx, cmd)
	return err
}
