package nodetest

import (
	"flag"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
)

var simShort = flag.Int("sim.short", 10, "short faults, each of which must be over soon")

// Everything runs again within ten seconds after a machine without power, an agent that was killed, or a cut cable, of a few
// seconds each, whoever it was; -test.v prints how long it took. Of each kind of service there is one. (Once a leader that had
// just been elected took the end of its own former term for that of the present one: about one fault of 1,800.)
func TestShortFaultsAreOverSoon(t *testing.T) {
	const limit, perCluster = 10 * time.Second, 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var took []time.Duration
	for left := *simShort; left > 0; left -= perCluster {
		synctest.Test(t, func(t *testing.T) {
			c := cluster(t, 5)
			for _, j := range shortFaultJobs() {
				c.submit(j)
			}
			c.Await(time.Minute, "all to be settled", func() bool { return c.unsettled() == "" })
			for i := range min(left, perCluster) {
				time.Sleep(time.Duration(r.Int64N(int64(3 * time.Second))))
				what, m := c.shortFault(r)
				fixed := time.Now()
				for why := c.unsettled(); why != ""; why = c.unsettled() {
					if time.Since(fixed) > limit {
						t.Fatalf("fault %d, %s %s, is not over after %v: %s", i, m.Name, what, limit, why)
					}
					time.Sleep(20 * time.Millisecond)
				}
				took = append(took, time.Since(fixed))
			}
		})
	}
	p50, p99, most := quantiles(took)
	t.Logf("%d short faults: all runs again after p50 %v, p99 %v, max %v", len(took), p50, p99, most)
}

func shortFaultJobs() []job.Spec {
	fast, fenced, global := web(5, "web:1"), web(1, "web:1"), web(0, "web:1")
	fenced.Name, global.Name = "fenced", "global"
	fenced.Services[0].Failover = &job.Failover{Mode: job.FailoverFenced, Lease: 4 * time.Second}
	global.Services[0].Mode = job.Global
	global.Services[0].Ports = []job.Port{{Published: 8080, Target: 80, Protocol: "tcp"}}
	all := []job.Spec{fast, fenced, global}
	for i := range all { // a container that takes ten seconds to stop is nobody's fault
		all[i].Services[0].StopSignal, all[i].Services[0].Drain = "SIGKILL", job.NoDrain
	}
	return all
}

// shortFault does something to a random machine and mends it.
func (c *Cluster) shortFault(r *rand.Rand) (what string, m *Machine) {
	m = c.Machines[r.IntN(len(c.Machines))]
	hold := 800*time.Millisecond + time.Duration(r.Int64N(int64(2500*time.Millisecond)))
	switch r.IntN(5) {
	case 0:
		m.KillAgent()
		time.Sleep(hold / 4)
		m.StartAgent()
		return "without its agent", m
	case 1:
		c.cutOff(m)
		time.Sleep(hold / 2)
		c.Net.Heal()
		return "cut off", m
	}
	m.PowerCut()
	time.Sleep(hold)
	m.PowerOn()
	return "without power", m
}
