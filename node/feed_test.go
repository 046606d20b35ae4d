package node

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/node/api"
	"shoal/node/reconciler"
	"shoal/runtime/network"
)

func TestRecordsNameServicesAndTasksWithinTheirJob(t *testing.T) {
	ip := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 176, 0, last}) }
	full := &api.FeedFull{Services: []api.FeedService{
		{Job: "shop", Name: "web", Endpoints: []api.FeedEndpoint{{Task: "web.1", Addr: ip(2)}, {Task: "web.2", Addr: ip(3)}}},
		{Job: "shop", Name: "db"}, // nothing serves: the name exists all the same
		{Job: "blog", Name: "web", Endpoints: []api.FeedEndpoint{{Task: "web.1", Addr: ip(9)}}},
	}}
	local := []reconciler.Local{{Job: "shop", Address: ip(2)}, {Job: "blog", Address: ip(9)}, {Job: "shop"}} // the last has no container yet
	got := recordsOf(full, local)
	if want := map[netip.Addr]string{ip(2): "shop", ip(9): "blog"}; !maps.Equal(got.Scopes, want) {
		t.Errorf("scopes %v, want %v", got.Scopes, want)
	}
	want := map[string][]netip.Addr{
		"shop/web": {ip(2), ip(3)}, "shop/web.1": {ip(2)}, "shop/web.2": {ip(3)}, "shop/db": nil, "blog/web": {ip(9)}, "blog/web.1": {ip(9)},
	}
	seen := map[string][]netip.Addr{}
	for _, r := range got.Services {
		seen[r.Job+"/"+r.Name] = append(seen[r.Job+"/"+r.Name], r.Addrs...)
	}
	if !maps.EqualFunc(seen, want, slices.Equal) {
		t.Errorf("names %v, want %v", seen, want)
	}
	if r := recordsOf(&api.FeedFull{}, nil); r.Scopes == nil || len(r.Services) != 0 {
		t.Errorf("of nothing: %+v", r)
	}
	var _ network.Records = got
}

func TestFeedsAreToldApartByWhatTheySay(t *testing.T) {
	feed := func() *api.FeedFull {
		return &api.FeedFull{
			Self:     job.Node{ID: "n1", Labels: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}},
			Nodes:    []api.FeedNode{{ID: "n2", State: job.NodeReady}},
			Services: []api.FeedService{{Job: "shop", Name: "web", Endpoints: []api.FeedEndpoint{{Task: "web.1"}}}},
		}
	}
	first := feedSum(feed())
	for range 50 { // maps have no order
		if feedSum(feed()) != first {
			t.Fatal("the same feed has two sums: it would be sent again for nothing")
		}
	}
	for name, change := range map[string]func(*api.FeedFull){
		"label":    func(f *api.FeedFull) { f.Self.Labels["a"] = "2" },
		"node":     func(f *api.FeedFull) { f.Nodes[0].State = job.NodeDown },
		"endpoint": func(f *api.FeedFull) { f.Services[0].Endpoints = nil },
		"holders":  func(f *api.FeedFull) { f.Holders = []string{"x"} },
		"task":     func(f *api.FeedFull) { f.Assignments = []api.FeedAssignment{{}} },
	} {
		f := feed()
		if change(f); feedSum(f) == first {
			t.Errorf("%s: a change is not noticed", name)
		}
	}
	// What travels must come back as it was, or a follower acts on less than it was told.
	b, err := json.Marshal(feed())
	var back api.FeedFull
	if err != nil || json.Unmarshal(b, &back) != nil || feedSum(&back) != first {
		t.Errorf("a feed changes on its way: %s", b)
	}
}

func TestFeedsAreBuiltAnewWhenTheirTablesChange(t *testing.T) {
	for table, want := range map[state.Table]bool{
		state.TableTasks: true, state.TableStatuses: true, state.TableNodes: true, state.TableCluster: true, state.TableTokens: false, state.TableEvents: false,
	} {
		if got := concerns(state.Batch{Changes: []state.Change{{Table: table}}}); got != want {
			t.Errorf("table %v: %v, want %v", table, got, want)
		}
	}
	if concerns(state.Batch{}) {
		t.Error("an empty batch concerns somebody")
	}
}

// A heartbeat's index is that of the last change that was looked at, and one that waits to be read makes a frame of it.
func TestAHeartbeatLooksAtWhatItsIndexCovers(t *testing.T) {
	w := newWorld(t)
	w.submit(0, job.Service{Mode: job.Replicated, Replicas: 2})
	w.place(1, "t1", 1, nodeIDs[1], "")
	_, sub := w.Subscribe(feedBuffer)
	defer sub.Close()
	c := &concern{sub: sub}
	w.apply(state.Event{At: day, Event: job.Event{Kind: job.EventRebalance}})
	if late, err := c.unread(); late || err != nil || c.at != w.index {
		t.Errorf("an event: %v, %v, looked at %d of %d", late, err, c.at, w.index)
	}
	w.apply(state.Event{At: day, Event: job.Event{Kind: job.EventRebalance}})
	w.place(2, "t2", 2, nodeIDs[1], "")
	w.apply(state.Event{At: day, Event: job.Event{Kind: job.EventRebalance}})
	if late, err := c.unread(); !late || err != nil || c.at != w.index {
		t.Errorf("a task amid events: %v, %v, looked at %d of %d", late, err, c.at, w.index)
	}
	if late, err := c.unread(); late || err != nil || len(sub.C) != 0 {
		t.Errorf("afterwards: %v, %v, %d unread", late, err, len(sub.C))
	}
	sub.Close()
	if _, err := c.unread(); err != errFeedBehind {
		t.Errorf("a subscription that ended: %v", err)
	}
}
