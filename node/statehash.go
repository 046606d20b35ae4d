package node

import (
	"context"
	"encoding/hex"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// StateHash is the hash of the state here, at an index or, with 0, as it is.
func (n *Node) StateHash(ctx context.Context, index uint64, wait time.Duration) (api.StateHash, error) {
	if !n.HasState() {
		return api.StateHash{}, job.Errorf(job.Unavailable, "node %s does not hold the log: ask one that does, see `shoal node ls`", n.cfg.Name)
	}
	v := n.state.View()
	if index != 0 {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		var err error
		if v, err = n.state.ViewAt(ctx, index); err != nil {
			return api.StateHash{}, err
		}
	}
	n.hashing.Lock() // one at a time: each reads the whole state
	defer n.hashing.Unlock()
	hash := v.Hash()
	out := api.StateHash{Node: n.id, Index: v.Index(), Hash: hex.EncodeToString(hash[:]), Tables: map[string]string{}}
	for table, h := range v.TableHashes() {
		out.Tables[string(table)] = hex.EncodeToString(h[:8])
	}
	return out, nil
}
