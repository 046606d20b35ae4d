package game

import (
	"context"
	"fmt"
	"sync"
	"time"

	"shoal/consensus/job"
)

// leave undoes everything everywhere, and says what could not be.
func (g *Game) leave(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, cleanUp)
	defer cancel()
	left := StopAll(ctx, g.cl, g.id, g.memberIDs(), cleanUp)
	g.note(ctx, "", "the game day is over (%s)", g.id)
	return left
}

// StopAll undoes what is under way on the nodes and ends their part in a game, "" for any; it asks those that do not answer
// again until patience ends. It gives what is left.
func StopAll(ctx context.Context, cl Cluster, game string, nodes []job.NodeID, patience time.Duration) []string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, id := range nodes {
		wg.Go(func() {
			for {
				asking, cancel := context.WithTimeout(ctx, askPatience)
				_, errs[i] = cl.StopGame(asking, id, game)
				cancel()
				if k := job.KindOf(errs[i]); errs[i] == nil || k == job.NotFound || k == job.Denied {
					return
				}
				if !sleep(ctx, 5*poll) {
					return
				}
			}
		})
	}
	wg.Wait()
	var left []string
	for i, err := range errs {
		if err != nil && job.KindOf(err) != job.NotFound {
			left = append(left, fmt.Sprintf("node %s: %v; its helper undoes it in any case, and there `shoal chaos stop --local` does at once", nodes[i], err))
		}
	}
	if err := removeProbe(ctx, cl); err != nil {
		left = append(left, fmt.Sprintf("label %s: %v; `shoal chaos stop` removes it", probeLabel, err))
	}
	return left
}

// removeProbe takes the label of the probes away, wherever it is.
func removeProbe(ctx context.Context, cl Cluster) error {
	for {
		list, err := cl.Nodes(ctx)
		if err == nil && list.Stale {
			err = job.Errorf(job.Unavailable, "no leader answers")
		}
		left := false
		for i := range list.Nodes {
			if n := &list.Nodes[i]; err == nil && n.Labels[probeLabel] != "" {
				left = true
				err = cl.SetLabels(ctx, string(n.ID), map[string]string{probeLabel: ""})
			}
		}
		if err == nil && !left {
			return nil
		}
		if !sleep(ctx, poll) {
			return err
		}
	}
}
