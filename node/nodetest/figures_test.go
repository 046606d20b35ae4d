package nodetest

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"shoal/node"
)

var (
	simLosses = flag.Int("sim.losses", 4, "machines lost, for the figures of fail-over")
	simLossy  = flag.Duration("sim.lossy", time.Minute, "time on a lossy network, in fake time")
)

// quantiles are the median, the 99th percentile and the most of durations.
func quantiles(d []time.Duration) (p50, p99, most time.Duration) {
	if len(d) == 0 {
		return 0, 0, 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2], d[len(d)*99/100], d[len(d)-1]
}

// The work of a lost machine runs elsewhere within ten seconds, whoever it was; -test.v prints how long it took. One
// machine of five is switched off at a random moment.
func TestFailoverTimes(t *testing.T) {
	took := map[string][]time.Duration{}
	for i := range *simLosses {
		synctest.Test(t, func(t *testing.T) {
			c := cluster(t, 5)
			c.submit(web(10, "web:1"))
			c.awaitRunning(20*time.Second, 10)
			time.Sleep(rand.N(10 * time.Second))
			kind, m := "leader", c.Leader()
			if i%2 == 0 {
				kind, m = "worker", c.Machines[rand.N(len(c.Machines))]
				for m == c.Leader() {
					m = c.Machines[rand.N(len(c.Machines))]
				}
			}
			lost := time.Now()
			ended := m.powerOff()
			c.Await(10*time.Second, "the replacements of "+kind+" "+m.Name, func() bool { return settled(c.Running(), 10) })
			took[kind] = append(took[kind], time.Since(lost))
			<-ended
		})
	}
	for kind, d := range took {
		p50, p99, most := quantiles(d)
		t.Logf("%s lost %d times: work runs again after p50 %v, p99 %v, max %v", kind, len(d), p50, p99, most)
	}
}

// Nobody is declared down because a tenth of all packets gets lost, retransmissions of TCP included.
func TestLossyNetworkDeclaresNobodyDown(t *testing.T) {
	limit := *simLossy
	synctest.Test(t, func(t *testing.T) {
		a := newAuditor()
		c := New(t, 5, 1, images)
		for _, m := range c.Machines {
			var stop func()
			m.OnStart = func(n *node.Node) { stop = a.follow(m, n) }
			t.Cleanup(func() { stop() })
		}
		c.Form()
		c.submit(web(10, "web:1"))
		c.awaitRunning(20*time.Second, 10)
		c.Net.SetLoss(0.1)
		c.Net.SetStreamLoss(0.1)
		time.Sleep(limit)
		a.mu.Lock()
		downs := len(a.downs)
		a.mu.Unlock()
		t.Logf("%v of five nodes at 10 %% loss: %d false decisions that a node is down, %.2f in a node-day", limit, downs, float64(downs)/(5*limit.Hours()/24))
		if downs > 0 {
			t.Errorf("%d times a node was declared down that was well", downs)
		}
	})
}
