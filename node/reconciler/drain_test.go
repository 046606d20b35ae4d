package reconciler

import (
	"slices"
	"testing"
	"time"

	"shoal/consensus/job"
)

func TestATaskThatServedLeavesRoutingBeforeItsStopSignal(t *testing.T) {
	inBubble(t, func(g *rig) {
		a := web("t1")
		g.setAt(1, true, a)
		time.Sleep(5 * time.Second)
		g.wantState("t1", job.Running)
		a.Task.Desired = job.DesiredStop
		told := time.Now()
		g.setAt(2, true, a)
		asked := func() bool { return slices.Contains(g.rt.Calls(), "stop t1") }
		for !asked() {
			if time.Since(told) > 5*time.Second {
				g.Fatal("never asked to stop")
			}
			time.Sleep(10 * time.Millisecond)
			for _, l := range g.r.Local() {
				if l.Task == "t1" && (l.Ready || !l.Leaving) {
					g.Fatalf("it is leaving and still shown as %+v", l)
				}
			}
		}
		if d := time.Since(told); d < drainTime || d > drainTime+200*time.Millisecond {
			g.Errorf("asked to stop after %v, want %v", d, drainTime)
		}
	})
}

func TestATaskThatIsGivenUpOrServesNobodyStopsAtOnce(t *testing.T) {
	for _, lost := range []bool{true, false} {
		inBubble(t, func(g *rig) {
			a := web("t1")
			if !lost {
				a.Service.Health = &job.Health{Test: []string{"CMD", "check"}, Interval: time.Hour} // never known to be well
			}
			g.setAt(1, true, a)
			time.Sleep(5 * time.Second)
			a.Task.Desired = job.DesiredStop
			if lost {
				a.Task.Desired = job.DesiredLost
			}
			g.setAt(2, true, a)
			time.Sleep(50 * time.Millisecond)
			if !slices.Contains(g.rt.Calls(), "stop t1") {
				g.Errorf("lost %v: not asked to stop at once", lost)
			}
		})
	}
}
