package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// qualityClusters is how many small clusters are compared with the best that all possible placements hold.
const qualityClusters = 60

// small is a cluster in which everything can be tried: at most 4 nodes in 2 racks, some of them in use already.
type small struct {
	room []int // tasks that fit
	used []bool
	rack []int
	want int
}

func (c *small) each(f func(per []int)) {
	per := make([]int, len(c.room))
	var rec func(i, left int)
	rec = func(i, left int) {
		if i == len(per)-1 {
			if left <= c.room[i] {
				per[i] = left
				f(per)
			}
			return
		}
		for k := 0; k <= min(left, c.room[i]); k++ {
			per[i] = k
			rec(i+1, left-k)
		}
	}
	rec(0, c.want)
}

// uneven is the sum of squares of what racks have, and then nodes: the least is the most even.
func (c *small) uneven(per []int) float64 {
	racks := map[int]int{}
	sum := 0.0
	for i, k := range per {
		racks[c.rack[i]] += k
		sum += float64(k*k) / 1000
	}
	for _, k := range racks {
		sum += float64(k * k)
	}
	return sum
}

// loose is how many nodes are in use.
func (c *small) loose(per []int) (nodes float64) {
	for i, k := range per {
		if k > 0 || c.used[i] {
			nodes++
		}
	}
	return nodes
}

// quality plans one random small cluster, and gives how much worse than the best the planner is, in percent.
func quality(t testing.TB, seed uint64, strategy job.Strategy) float64 {
	r := rand.New(rand.NewPCG(seed, 3))
	w := newWorld(asT(t), seed)
	c := &small{}
	for i := range 2 + r.IntN(3) {
		room, rack := 1+r.IntN(5), r.IntN(2)
		used := r.IntN(3) == 0
		slots := room
		if used {
			slots++
		}
		w.node(fmt.Sprintf("n%d", i), memory(int64(slots*256)), label("rack", fmt.Sprint(rack)))
		if used {
			w.submit(fmt.Sprintf("old%d", i), svc("s", 1, wantMemory(256), func(s *job.Service) {
				s.Constraints = []job.Constraint{{Key: "node.hostname", Op: "==", Value: fmt.Sprintf("n%d", i)}}
			}))
		}
		c.room, c.rack, c.used = append(c.room, room), append(c.rack, rack), append(c.used, used)
		c.want += room
	}
	w.settle()
	c.want = 1 + r.IntN(c.want)
	s := svc("s", c.want, wantMemory(256), func(s *job.Service) { s.Strategy = strategy })
	measure := c.loose
	if strategy == job.StrategySpread {
		s.Placement = &job.Placement{Spread: []string{"node.labels.rack"}}
		measure = c.uneven
	}
	w.apply(state.PutJob{Spec: job.Spec{Name: "j", Services: []job.Service{s}}, At: w.now})
	w.settle()
	per := make([]int, len(c.room))
	for i := range per {
		per[i] = w.perNode("j", "s")[job.NodeID(fmt.Sprintf("id-n%d", i))]
	}
	best := -1.0
	c.each(func(p []int) {
		if m := measure(p); best < 0 || m < best {
			best = m
		}
	})
	got := 0
	for _, k := range per {
		got += k
	}
	if got != c.want {
		t.Fatalf("seed %d: %d of %d placed %s", seed, got, c.want, w.dump())
	}
	return (measure(per)/best - 1) * 100
}

func asT(t testing.TB) *testing.T {
	if real, ok := t.(*testing.T); ok {
		return real
	}
	return &testing.T{} // of a benchmark: a failure shows as a panic
}

func meanQuality(t testing.TB, s job.Strategy) float64 {
	sum := 0.0
	for seed := range uint64(qualityClusters) {
		sum += quality(t, seed+1, s)
	}
	return sum / qualityClusters
}

// TestQualityIsWithinOnePercentOfTheBest compares with everything that could be done.
func TestQualityIsWithinOnePercentOfTheBest(t *testing.T) {
	for _, s := range []job.Strategy{job.StrategySpread, job.StrategyBinpack} {
		if got := meanQuality(t, s); got > 1 {
			t.Errorf("%s is worse than the best by %.2f %% on average", s, got)
		}
	}
}

// BenchmarkQuality prints how much less even and less tight than the best the planner is, in percent.
func BenchmarkQuality(b *testing.B) {
	for range b.N {
		b.ReportMetric(meanQuality(b, job.StrategySpread), "%uneven")
		b.ReportMetric(meanQuality(b, job.StrategyBinpack), "%loose")
	}
}
