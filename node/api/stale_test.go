package api

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"shoal/consensus/job"
)

// Every read that may come without a leader's word says so in its head, also through another node.
func TestEveryFreshReadSaysWhenItIsStale(t *testing.T) {
	t.Parallel()
	holder := newMachine(t, "H", &script{state: true})
	leader := newMachine(t, "L", &script{leader: "self", state: true})
	for name, c := range map[string]struct {
		b     *script
		stale bool
	}{
		"the leader":                      {&script{leader: "self", state: true}, false},
		"through another":                 {&script{leader: leader.peers}, false},
		"a leader that cannot confirm":    {&script{leader: "self", state: true, stale: job.Unavailable}, true},
		"no leader":                       {&script{state: true}, true},
		"no leader, no log here":          {&script{holder: holder.peers}, true},
		"the leader refuses, log is here": {&script{leader: "127.0.0.1:1", state: true}, true},
	} {
		client := newMachine(t, "A", c.b).client(Admin)
		reads := 0
		for _, route := range Routes {
			if route.Where != Fresh {
				continue
			}
			reads++
			path := strings.NewReplacer("{job}", "j", "{task}", "t").Replace(route.Path)
			told := false
			resp, err := client.request(WhenStale(context.Background(), func() { told = true }), route.Method, path, nil, nil, "")
			if err != nil {
				t.Errorf("%s: %s: %v", name, path, err)
				continue
			}
			resp.Body.Close()
			if told != c.stale || resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %s: stale %v, want %v (%s)", name, path, told, c.stale, resp.Status)
			}
		}
		if reads < 8 {
			t.Fatalf("%d reads: the table of routes has changed", reads)
		}
	}
}
