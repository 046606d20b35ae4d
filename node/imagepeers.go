package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"shoal/gossip"
	"shoal/runtime"
	"shoal/runtime/image"
)

// Bounds of asking around for an image.
const (
	askParallel = 8
	askTimeout  = 3 * time.Second
)

// pullFromPeers copies an image from another node that has it. Nodes are asked a few at a time, in random order, so
// that a popular image is not fetched from one node by all.
func (n *Node) pullFromPeers(ctx context.Context, ref string) error {
	addrs := n.livePeers()
	for len(addrs) > 0 {
		k := min(askParallel, len(addrs))
		for _, source := range n.whoHas(ctx, ref, addrs[:k]) {
			if _, err := n.machine.Images.Fetch(ctx, source, ref); err != nil {
				n.log.Warn("cannot fetch an image from a peer that has it", "image", ref, "error", err)
				continue
			}
			return nil
		}
		addrs = addrs[k:]
	}
	return fmt.Errorf("image %s: no other node has it: %w", ref, runtime.ErrNotFound)
}

// whoHas asks nodes for a manifest at the same time and gives those that have it.
func (n *Node) whoHas(ctx context.Context, ref string, addrs []string) []image.Source {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client := &http.Client{Transport: n.peers.transport}
	var (
		mu   sync.Mutex
		have []image.Source
		wg   sync.WaitGroup
	)
	for _, addr := range addrs {
		wg.Go(func() {
			p := image.NewPeer(client, "https://"+addr)
			if _, _, err := p.Manifest(ctx, ref); err == nil {
				mu.Lock()
				have = append(have, p)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return have
}

// livePeers are the addresses of the nodes that may answer, in random order: those that gossip calls alive, and those
// that it does not know yet but the cluster does.
func (n *Node) livePeers() []string {
	state := map[string]gossip.State{}
	for _, m := range n.pool.Members() {
		state[m.Addr.String()] = m.State
	}
	for _, p := range n.knownPeers() {
		if _, known := state[p]; !known {
			state[p] = gossip.Alive
		}
	}
	var out []string
	for addr, s := range state {
		if s == gossip.Alive && addr != n.cfg.Advertise.String() {
			out = append(out, addr)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
