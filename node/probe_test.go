package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"shoal/consensus/job"
)

// dials notes where somebody was made to dial.
type dials struct {
	Underlay
	to []string
}

func (d *dials) Dial(_ context.Context, addr string) (net.Conn, error) {
	d.to = append(d.to, addr)
	return nil, net.ErrClosed
}

func TestProbesReachNodesAlone(t *testing.T) {
	w, d := newWorld(t), &dials{}
	n := &Node{state: w.Store, cfg: Config{Underlay: d, Advertise: netip.MustParseAddrPort("192.0.2.1:6174")}}
	ctx := context.Background()
	for _, addr := range []string{"", "127.0.0.1:22", "169.254.169.254:80", "192.0.2.2:22", "192.0.2.2", "alpha:6174", "192.0.2.2:06174", "[::ffff:192.0.2.2]:6174"} {
		if _, err := n.Probe(ctx, addr); !errors.Is(err, job.Invalid) || len(d.to) > 0 {
			t.Errorf("probe %q: %v, dialed %v", addr, err, d.to)
		}
	}
}
