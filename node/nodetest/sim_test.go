package nodetest

import (
	"flag"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

var (
	simFirst   = flag.Uint64("sim.first", 1, "first seed")
	simSeeds   = flag.Int("sim.seeds", 0, "how many seeds; 0: one")
	simOld     = flag.Bool("sim.old", false, "also the slower ones of the seeds that failed once")
	simSeconds = flag.Int("sim.seconds", 0, "stop after so many seconds; 0: never")
)

// simulate runs one seed in a bubble of its own.
func simulate(t *testing.T, seed uint64, more bool) map[string]int {
	var counts map[string]int
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, seed, more)
		counts = s.Counts
		trouble := 3 * time.Minute
		if more {
			trouble = time.Duration(1+s.extra.IntN(3)) * time.Minute
		}
		s.run(trouble)
	})
	return counts
}

func TestRandomTroubleComesRight(t *testing.T) {
	seeds := *simSeeds
	if seeds == 0 {
		seeds = 1
	}
	counts, ran, start := map[string]int{}, 0, time.Now()
	for i := range seeds {
		if *simSeconds > 0 && time.Since(start) > time.Duration(*simSeconds)*time.Second {
			break
		}
		t.Run(fmt.Sprintf("seed=%d", *simFirst+uint64(i)), func(t *testing.T) {
			for k, n := range simulate(t, *simFirst+uint64(i), true) {
				counts[k] += n
			}
		})
		ran++
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	t.Logf("%d seeds, %d events: %v", ran, total, counts)
}
