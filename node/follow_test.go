package node

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"shoal/node/api"
	"shoal/runtime/network"
)

// toldNetwork keeps what it was told last.
type toldNetwork struct{ records network.Records }

func (*toldNetwork) Configure(context.Context, netip.Prefix) error { return nil }
func (*toldNetwork) SetPeers([]network.Peer) error                 { return nil }
func (t *toldNetwork) SetRecords(r network.Records)                { t.records = r }

func TestWhoWaitedToRouteRoutesWhatIsNew(t *testing.T) {
	told := &toldNetwork{}
	n := &Node{log: slog.New(slog.DiscardHandler), machine: &Machine{Network: told}}
	frame := func(service string) *fed {
		return &fed{full: &api.FeedFull{Services: []api.FeedService{{Job: "j", Name: service}}}}
	}
	n.fed.Store(frame("old"))
	n.router.mu.Lock()
	var waiting sync.WaitGroup
	waiting.Go(n.route)
	time.Sleep(50 * time.Millisecond) // it is at the lock
	n.fed.Store(frame("new"))
	n.router.mu.Unlock()
	waiting.Wait()
	if got := told.records.Services; len(got) != 1 || got[0].Name != "new" {
		t.Errorf("it was told %v", got)
	}
}
