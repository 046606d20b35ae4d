package reconciler

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"shoal/consensus/job"
)

// A power cut takes what was saved last, and the clock is a day behind when the machine is back: what it says of its tasks is
// news all the same.
func TestNumbersGrowThoughTheClockIsSetBack(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"), web("t2"))
		g.pass(3 * time.Second)
		file := filepath.Join(g.dir, statusesFile)
		saved, err := os.ReadFile(file)
		if err != nil {
			g.Fatal(err)
		}
		for range 4 { // it is started again each time
			g.rt.Exit("t2", 1)
			g.pass(30 * time.Second)
		}
		g.stop()
		if err := os.WriteFile(file, saved, 0o600); err != nil {
			g.Fatal(err)
		}
		g.torn = true
		g.wall = func() time.Time { return time.Now().Add(-24 * time.Hour) }
		before := g.status("t2").Seq
		g.start()
		g.pass(3 * time.Second)
		g.rt.Exit("t2", 1)
		g.pass(30 * time.Second)
		if s := g.status("t2"); s.Seq <= before || s.State != job.Running {
			g.Errorf("seq %d after %d: %s", s.Seq, before, describe(s))
		}
	})
}
