// Command run plays chaos on a cluster of namespaced machines: make chaos. It knows flags and exit codes; what is played
// and what must hold is package chaos.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"shoal/e2e/chaos"
)

func main() {
	var o chaos.Options
	flag.StringVar(&o.Binary, "binary", "bin/shoal", "the shoal `BINARY` under test")
	flag.StringVar(&o.Next, "next", "", "another build of it, of version "+chaos.NextVersion+", for upgrades: `BINARY`")
	flag.Uint64Var(&o.Seed, "seed", 0, "`SEED` of the faults; 0: a fresh one, printed")
	flag.IntVar(&o.Count, "count", 0, "end after so many `FAULTS`; 0: when the time is up")
	flag.DurationVar(&o.Time, "time", 0, "end after so much `TIME`; 0: when the faults are played (without both, 60 of them)")
	flag.StringVar(&o.Only, "faults", "", "play only faults that match one of these `NAMES`, with commas between; name=N sets a weight")
	flag.BoolVar(&o.Short, "short", false, "short faults only, for CI")
	flag.StringVar(&o.Evidence, "evidence", "build/chaos", "where logs, histories and the report are kept: `DIRECTORY`")
	flag.StringVar(&o.Measure, "measure", "", "measure `SCENARIOS` instead of playing random faults: failover, stall, power, merge, restarts, with commas between, or all; -count tells how often")
	flag.BoolVar(&o.Keep, "keep", false, "keep the agents' logs of a run without violations too")
	flag.DurationVar(&o.Patience, "patience", 0, "how long to wait for what does not come back: `TIME`; 0: three minutes")
	list := flag.Bool("list", false, "list the faults")
	flag.Parse()
	if *list {
		for _, f := range chaos.Faults {
			fmt.Printf("%-24s weight %d\n", f.Name, f.Weight)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())%1_000_000_000 + 1
	}
	o.Out = os.Stdout
	os.Exit(chaos.Run(ctx, o).Code())
}
