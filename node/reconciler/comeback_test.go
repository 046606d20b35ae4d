package reconciler

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
	"shoal/runtime/fake"
)

func TestMachineThatComesBackStartsAgainWithoutCounting(t *testing.T) {
	for name, cut := range map[string]func(*fake.Runtime){"stopped": (*fake.Runtime).PowerCut, "gone": (*fake.Runtime).Crash} {
		for _, boot := range []string{"boot-1", "boot-2"} { // the kernel's name for its run may be missing
			t.Run(name+" "+boot, func(t *testing.T) {
				inBubble(t, func(g *rig) {
					once := policy(job.Restart{Policy: job.RestartNever})
					done := command1("true")
					g.set(web("t1", policy(job.Restart{Max: 1})), web("once", once), web("done", once, done))
					g.pass(3 * time.Second)
					for range 4 {
						g.stop()
						cut(g.rt)
						g.boot = boot
						g.start() // without a leader's word
						g.pass(hesitation + 3*time.Second)
						in, ok := g.info("t1")
						if !ok || in.State != runtime.Running {
							g.Fatalf("not started again: %v %+v", ok, in)
						}
						if s := g.status("t1"); s.State != job.Running || s.Restarts != 0 || !s.Ready() {
							g.Errorf("after the machine came back: %s", describe(s))
						}
					}
					g.wantState("once", job.Failed) // an end is final, and this one is not known
					g.wantState("done", job.Complete)
				})
			})
		}
	}
}

func TestMachineThatWasReplacedStartsNothing(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"))
		g.pass(3 * time.Second)
		g.stop()
		g.rt.Crash()
		g.boot = "boot-2"
		g.start()
		g.pass(hesitation - time.Second) // the cluster needs a moment to say that the task runs elsewhere now
		g.setAt(2, true)
		g.pass(10 * time.Second)
		if n := g.calls(fake.CallStart, "t1"); n != 1 {
			g.Errorf("the container was started %d times; once before the power cut is all", n)
		}
	})
}

// The log that a node reads after a power cut may be behind what the node was told before. That nothing of it has changed up to
// where the log is later is as good as a new word, and ends the hesitation.
func TestAnOldWordThatHoldsIsGoodEnough(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.setAt(100, true, web("t1"), web("t2"))
		g.pass(3 * time.Second)
		g.stop()
		g.rt.Crash()
		g.boot = "boot-2"
		g.start()
		g.setAt(90, true, web("t1"))
		g.pass(100 * time.Millisecond)
		g.r.Holds(95)
		g.pass(100 * time.Millisecond)
		if n := g.calls(fake.CallStart, "t1"); n != 1 {
			g.Fatalf("t1 was started %d times, before it was said that the old word still holds", n)
		}
		g.r.Holds(101)
		g.pass(2 * time.Second)
		g.wantContainer("t1", runtime.Running, 1)
		g.wantNoContainer("t2")
		g.setAt(100, true, web("t2")) // older than that
		g.pass(2 * time.Second)
		g.wantContainer("t1", runtime.Running, 1)
	})
}

// That a set holds is said of the one that was given last, be it read already or not.
func TestThatASetHoldsIsSaidOfThatOneAlone(t *testing.T) {
	old, older := []Assignment{web("t1")}, []Assignment{web("t2")}
	for name, c := range map[string]struct {
		say  func(r *Reconciler)
		want uint64
	}{
		"it was read":          {func(r *Reconciler) { r.Set(old, 90, true); r.takeInbox(); r.Holds(101) }, 101},
		"it was not":           {func(r *Reconciler) { r.Set(old, 90, true); r.Holds(101) }, 101},
		"at an index too low":  {func(r *Reconciler) { r.Set(old, 90, true); r.Holds(99) }, 100},
		"another came since":   {func(r *Reconciler) { r.Set(old, 90, true); r.takeInbox(); r.Holds(101); r.Set(older, 80, true) }, 100},
		"of that other one":    {func(r *Reconciler) { r.Set(old, 90, true); r.takeInbox(); r.Set(older, 80, true); r.Holds(102) }, 102},
		"a new one came since": {func(r *Reconciler) { r.Set(old, 90, true); r.takeInbox(); r.Holds(101); r.Set(older, 110, true) }, 110},
	} {
		inBubble(t, func(g *rig) {
			r, err := New(Config{Runtime: g.rt.Reopen(), Node: "node-1", Report: g.report, Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			r.index = 100
			c.say(r)
			r.takeInbox()
			if r.index != c.want {
				t.Errorf("%s: goes by the log up to %d, want %d", name, r.index, c.want)
			}
		})
	}
}

func TestAgentRestartTouchesNothingAndLosesNoReport(t *testing.T) {
	inBubble(t, func(g *rig) {
		h := health(job.Health{Test: []string{"CMD", "check"}, Interval: 5 * time.Second})
		g.set(web("t1", h), web("t2", command1("sh", "-c", "sleep 20; exit 4"), policy(job.Restart{Policy: job.RestartNever})))
		g.pass(10 * time.Second)
		if s := g.status("t1"); s.Health != job.Healthy {
			g.Fatalf("not healthy: %s", describe(s))
		}
		before := len(g.rt.Calls())
		g.setDeaf(true)
		g.stop()
		g.pass(20 * time.Second) // t2 ends while nobody watches
		g.start()
		g.pass(5 * time.Second)
		for _, s := range g.r.Statuses() {
			if s.Task == "t1" && s.Health != job.Healthy {
				g.Errorf("adopted as %s", describe(s))
			}
		}
		g.stop() // before the leader could be told
		g.setDeaf(false)
		g.start()
		g.pass(time.Second)
		g.wantState("t2", job.Failed)
		if s := g.status("t2"); s.ExitCode == nil || *s.ExitCode != 4 {
			g.Errorf("exit of the time between: %s", describe(s))
		}
		g.wantContainer("t1", runtime.Running, 1)
		g.setAt(2, true, web("t1", h))
		g.pass(time.Second)
		g.wantNoContainer("t2")
		g.wantContainer("t1", runtime.Running, 1)
		for _, c := range g.rt.Calls()[before:] {
			if c != "stop t2" && c != "remove t2" {
				g.Errorf("an agent's restart made the call %q", c)
			}
		}
	})
}

func TestSeqGrowsWithoutFiles(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"))
		g.pass(3 * time.Second)
		g.torn = true
		begin := g.status("t1").At[job.Running]
		for range 3 {
			seq := g.status("t1").Seq
			g.stop()
			for _, f := range []string{assignmentsFile, statusesFile} {
				if err := os.WriteFile(filepath.Join(g.dir, f), []byte("{torn"), 0o600); err != nil {
					g.Fatal(err)
				}
			}
			g.start()
			g.setAt(1, true, web("t1"))
			g.pass(time.Second)
			if s := g.status("t1"); s.Seq <= seq || s.State != job.Running || !s.At[job.Running].Equal(begin) {
				g.Errorf("seq %d after %d: %s", s.Seq, seq, describe(s))
			}
		}
		g.wantContainer("t1", runtime.Running, 1)
	})
}
