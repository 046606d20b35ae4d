package node

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"shoal/node/api"
)

const (
	feedFile = "feed.json"
	// rememberEvery bounds how often what the cluster said is written down: it costs the disk a flush that the log wants
	// too, and what a crash loses of it the next frame tells.
	rememberEvery = time.Second
)

// remember writes down what the cluster said, for a start without it: routes, names and peers are as they were.
func (n *Node) remember(ctx context.Context) error {
	var written *api.FeedFull
	for {
		ended := !sleep(ctx, rememberEvery)
		if f := n.fed.Load(); f != nil && f.index > 0 && f.full != written {
			b, err := json.Marshal(f.full)
			if err == nil {
				err = writeFileAtomic(n.path(feedFile), b)
			}
			if err != nil {
				n.log.Warn("cannot remember what the cluster said", "error", err)
			} else {
				written = f.full
			}
		}
		if ended {
			return nil
		}
	}
}

// recall acts on what was remembered; the tasks are the reconciler's to remember.
func (n *Node) recall() {
	b, err := os.ReadFile(n.path(feedFile))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			n.log.Warn("cannot recall what the cluster said", "error", err)
		}
		return
	}
	var full api.FeedFull
	if err := json.Unmarshal(b, &full); err != nil {
		n.log.Warn("what the cluster said was not remembered well", "error", err)
		return
	}
	if err := n.machine.Network.Configure(context.Background(), full.Self.Subnet); err != nil {
		n.log.Warn("cannot set up the network as it was", "error", err)
		return
	}
	n.fed.CompareAndSwap(nil, &fed{full: &full})
	n.route()
}
