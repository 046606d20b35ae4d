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

// An agent that dies before it has saved anything has given numbers all the same: the next one begins above them. That matters
// where what was saved is ahead of the clock, as when agents die one after the other within a second.
func TestNumbersAreNotGivenAgainByTheNextAgent(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"))
		g.pass(3 * time.Second)
		g.stop()
		g.wall = func() time.Time { return time.Now().Add(-24 * time.Hour) }
		before := g.status("t1").Seq
		g.start()
		g.pass(coalesce / 2)
		first := g.status("t1").Seq
		if first <= before {
			g.Fatalf("the first agent gave number %d after %d", first, before)
		}
		file := filepath.Join(g.dir, statusesFile)
		saved, err := os.ReadFile(file)
		if err != nil {
			g.Fatal(err)
		}
		g.stop()
		if err := os.WriteFile(file, saved, 0o600); err != nil { // it had no time to save at its end
			g.Fatal(err)
		}
		g.start()
		g.pass(3 * time.Second)
		if s := g.status("t1"); s.Seq <= first {
			g.Errorf("seq %d after %d: %s", s.Seq, first, describe(s))
		}
	})
}
