package reconciler

import (
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/runtime/fake"
)

func image(ref string) func(*Assignment) { return func(a *Assignment) { a.Service.Image = ref } }

// Pulls from a registry that never answers take all there may be at once. What is here needs none of them.
func TestImagesThatAreHereWaitForNoPull(t *testing.T) {
	hangs := fake.Image{Absent: true, PullDelay: 24 * time.Hour}
	images := map[string]fake.Image{"hangs": hangs, "web": {}, "late": hangs}
	inBubbleWith(t, fake.Config{Images: images}, func(g *rig) {
		hung := []Assignment{web("h1", image("hangs")), web("h2", image("hangs")), web("h3", image("hangs")), web("h4", image("hangs"))}
		g.set(hung...)
		g.pass(time.Second)
		all := append(hung, web("t1"), web("t2", image("late")))
		g.setAt(2, true, all...)
		g.pass(time.Second)
		g.wantState("t1", job.Running)
		g.wantState("t2", job.Pulling)
		if n := g.calls(fake.CallPull, "web"); n != 0 {
			g.Errorf("pulled %d times what is here", n)
		}
		g.rt.SetImage("late", fake.Image{}) // somebody loads it meanwhile
		g.pass(resyncEvery + time.Second)
		g.wantState("t2", job.Running)
	})
}

func TestOnePullServesAllThatWaitForTheImage(t *testing.T) {
	images := map[string]fake.Image{"hangs": {Absent: true, PullDelay: 24 * time.Hour}, "web": {Absent: true, PullDelay: time.Second}}
	inBubbleWith(t, fake.Config{Images: images}, func(g *rig) {
		hung := []Assignment{web("h1", image("hangs")), web("h2", image("hangs")), web("h3", image("hangs"))}
		g.set(hung...)
		g.pass(time.Second)
		g.setAt(2, true, append(hung, web("t1"), web("t2"), web("t3"))...)
		g.pass(3 * time.Second)
		for _, id := range []job.TaskID{"t1", "t2", "t3"} {
			g.wantState(id, job.Running)
		}
		if n := g.calls(fake.CallPull, "web"); n != 1 {
			g.Errorf("pulled %d times", n)
		}
	})
}
