package reconciler

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
	"shoal/runtime/fake"
)

func TestTaskRunsAndEachStateIsReported(t *testing.T) {
	inBubbleWith(t, fake.Config{
		Images:  map[string]fake.Image{"web": {Absent: true, PullDelay: time.Second}},
		Latency: time.Second,
	}, func(g *rig) {
		g.set(web("t1"))
		g.pass(5 * time.Second)
		want := []job.State{job.Pulling, job.Created, job.Running}
		if got := g.states("t1"); !slices.Equal(got, want) {
			g.Errorf("reported %v, want %v", got, want)
		}
		s := g.status("t1")
		if !s.Ready() || !s.Address.IsValid() || s.Image == "" || len(s.At) != 3 || s.At[job.Running].Sub(s.At[job.Created]) != time.Second {
			g.Errorf("status is %+v", s)
		}
		sp, _ := g.rt.Spec("t1")
		if !slices.Equal(sp.Env, []string{"A=1", "SHOAL_TASK=t1"}) {
			g.Errorf("environment is %q", sp.Env)
		}
		if id, ok := g.r.Container("t1"); !ok || id != "t1" {
			g.Errorf("container is %q, %v", id, ok)
		}
	})
}

func TestAtMostParallelStartAtOnce(t *testing.T) {
	inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {}}, Latency: time.Second}, func(g *rig) {
		var as []Assignment
		for i := range 8 {
			as = append(as, web(job.TaskID(fmt.Sprintf("t%d", i))))
		}
		count := func(states ...runtime.State) int {
			infos, _ := g.rt.List(context.Background())
			n := 0
			for _, in := range infos {
				if slices.Contains(states, in.State) {
					n++
				}
			}
			return n
		}
		g.set(as...)
		for want := 4; want <= 16; want += 4 { // 16 calls of a second each
			g.pass(time.Second + time.Millisecond)
			if n := count(runtime.Created, runtime.Running) + count(runtime.Running); n > want {
				g.Errorf("%d calls ended in %d s", n, want/4)
			}
		}
		g.pass(2 * time.Second)
		if n := count(runtime.Running); n != 8 {
			g.Errorf("%d of 8 run", n)
		}
	})
}

func TestStopAsked(t *testing.T) {
	for _, d := range []job.Desired{job.DesiredStop, job.DesiredLost} {
		t.Run(string(d), func(t *testing.T) {
			inBubble(t, func(g *rig) {
				deaf := command1("sh", "-c", "trap '' TERM; sleep infinity")
				g.set(web("t1"), web("t2", deaf))
				g.pass(3 * time.Second)
				g.setAt(2, true, web("t1", desired(d)), web("t2", deaf, desired(d)))
				g.pass(time.Second)
				g.wantState("t1", job.Complete)
				g.wantNoContainer("t1")
				g.wantState("t2", job.Stopping) // its grace is 10 s
				g.wantContainer("t2", runtime.Running, 1)
				g.pass(11 * time.Second)
				g.wantState("t2", job.Complete)
				g.wantNoContainer("t2")
				if s := g.status("t2"); s.ExitCode == nil || *s.ExitCode != 137 || !strings.Contains(s.Message, "grace") {
					g.Errorf("exit code is %s", describe(s))
				}
				g.setAt(3, true, web("t1")) // an old word does not revive
				g.pass(time.Minute)
				g.wantNoContainer("t1")
				if n := g.calls(fake.CallCreate, "t1"); n != 1 {
					g.Errorf("created %d times", n)
				}
			})
		})
	}
}

func TestStopWhilePullingCancelsThePull(t *testing.T) {
	inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {Absent: true, PullDelay: time.Hour}}}, func(g *rig) {
		g.set(web("t1"))
		g.pass(time.Second)
		g.wantState("t1", job.Pulling)
		g.setAt(2, true, web("t1", desired(job.DesiredStop)))
		g.pass(time.Second)
		g.wantState("t1", job.Complete)
	})
}

func TestOnlyACompleteSetRemoves(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"), web("t2"))
		g.pass(3 * time.Second)
		g.setAt(2, false, web("t3"))
		g.pass(3 * time.Second)
		for _, id := range []job.TaskID{"t1", "t2", "t3"} {
			g.wantContainer(id, runtime.Running, 1)
		}
		g.setAt(3, true, web("t2"), web("t3"))
		g.pass(time.Second)
		g.wantNoContainer("t1")
		g.wantState("t1", job.Complete)
		if ss := g.r.Statuses(); len(ss) != 2 {
			g.Errorf("a task that left the set is still known: %v", ss)
		}
		g.setAt(2, true) // older than what is known
		g.pass(time.Minute)
		g.wantContainer("t2", runtime.Running, 1)
	})
}

func TestUnknownContainers(t *testing.T) {
	inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {}}}, func(g *rig) {
		ctx := context.Background()
		for id, cmd := range map[runtime.ID]string{"good": "sleep infinity", "bad": "exit 3", "foreign": "sleep infinity"} {
			sp := Spec(web(job.TaskID(id)), "node-1", nil, nil, nil)
			sp.Command = []string{"sh", "-c", cmd}
			if id == "foreign" {
				sp.Labels = nil
			}
			if _, err := g.rt.Create(ctx, sp); err != nil {
				g.Fatal(err)
			}
			if _, err := g.rt.Start(ctx, id); err != nil {
				g.Fatal(err)
			}
		}
		g.pass(time.Minute)
		g.setAt(1, false)
		g.pass(time.Minute)
		g.wantContainer("good", runtime.Running, 1) // not known to be unwanted
		g.setAt(2, true)
		g.pass(time.Minute)
		g.wantNoContainer("good")
		g.wantNoContainer("bad")
		g.wantContainer("foreign", runtime.Running, 1) // not ours
		g.wantState("good", job.Complete)
		g.wantState("bad", job.Failed)
	})
}

func TestExitPolicies(t *testing.T) {
	for _, c := range []struct {
		name     string
		restart  job.Restart
		command  string
		state    job.State
		restarts int
		contains string
	}{
		{"never, success", job.Restart{Policy: job.RestartNever}, "exit 0", job.Complete, 0, ""},
		{"never, failure", job.Restart{Policy: job.RestartNever}, "exit 3", job.Failed, 0, "exit code 3"},
		{"on failure, success", job.Restart{Policy: job.RestartOnFailure}, "exit 0", job.Complete, 0, ""},
		{"on failure, failure", job.Restart{Policy: job.RestartOnFailure, Max: 2}, "exit 3", job.Failed, 2, "gave up after 2 restarts"},
		{"any, success", job.Restart{Max: 3}, "exit 0", job.Failed, 3, "gave up after 3 restarts"},
		{"any, default", job.Restart{}, "exit 1", job.Failed, job.DefaultRestarts, "exit code 1; gave up"},
		{"not found", job.Restart{}, "", job.Failed, 0, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(g *rig) {
				args := command1("sh", "-c", "sleep 1; "+c.command)
				if c.command == "" {
					args = command1("/no/such/program")
				}
				g.set(web("t1", args, policy(c.restart)))
				g.pass(time.Minute)
				s := g.status("t1")
				if s.State != c.state || s.Restarts != c.restarts || !strings.Contains(s.Message, c.contains) || s.ExitCode == nil {
					g.Errorf("ended as %s", describe(s))
				}
				g.wantContainer("t1", runtime.Stopped, c.restarts+1) // kept for its log
				g.setAt(2, true)
				g.pass(time.Second)
				g.wantNoContainer("t1")
			})
		})
	}
}

func TestRestartDelaysDoubleAndAGoodRunCountsAnew(t *testing.T) {
	inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {}}}, func(g *rig) {
		g.set(web("t1", policy(job.Restart{Delay: time.Second, Window: time.Minute, Max: 3})))
		g.pass(time.Second)
		for i, delay := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			g.rt.Exit("t1", 9)
			g.pass(delay - 10*time.Millisecond)
			g.wantContainer("t1", runtime.Stopped, i+1)
			if s := g.status("t1"); s.Ready() || s.Restarts != i+1 {
				g.Errorf("while it waits: %s", describe(s))
			}
			g.pass(20 * time.Millisecond)
			g.wantContainer("t1", runtime.Running, i+2)
		}
		g.pass(61 * time.Second)
		if s := g.status("t1"); !s.Ready() {
			g.Errorf("runs again, but: %s", describe(s))
		}
		g.rt.OOM("t1")
		g.pass(990 * time.Millisecond)
		if s := g.status("t1"); !s.OOM || s.State != job.Running || !strings.Contains(s.Message, "memory limit") {
			g.Errorf("after the memory limit: %s", describe(s))
		}
		g.pass(20 * time.Millisecond) // the first delay again
		g.wantContainer("t1", runtime.Running, 5)
	})
}

func TestStopsBeforeStartsOnOneHostPort(t *testing.T) {
	inBubble(t, func(g *rig) {
		slow := command1("sh", "-c", "trap 'sleep 5; exit 0' TERM; sleep infinity")
		g.set(web("old", port(8080), slow))
		g.pass(3 * time.Second)
		g.setAt(2, true, web("old", port(8080), slow, desired(job.DesiredStop)), web("new", port(8080)), web("other", port(9090)))
		g.pass(2 * time.Second)
		g.wantState("other", job.Running)
		if n := g.calls(fake.CallCreate, "new"); n != 0 {
			g.Error("the new one was created while the old one had its port")
		}
		g.pass(5 * time.Second)
		g.wantState("old", job.Complete)
		if s := g.status("new"); s.State != job.Running || len(s.Ports) != 1 || s.Ports[0].Published != 8080 {
			g.Errorf("new: %s %v", describe(s), s.Ports)
		}
	})
}

func TestEndedContainerGivesItsHostPortUp(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("old", port(8080), command1("sh", "-c", "exit 1"), policy(job.Restart{Policy: job.RestartNever})))
		g.pass(3 * time.Second)
		g.wantContainer("old", runtime.Stopped, 1) // kept for its log
		g.setAt(2, false, web("new", port(8080)))
		g.pass(3 * time.Second)
		g.wantNoContainer("old")
		g.wantState("old", job.Failed)
		g.wantState("new", job.Running)
	})
}

func TestReportsAreCoalescedAndRetried(t *testing.T) {
	inBubbleWith(t, fake.Config{Images: map[string]fake.Image{"web": {}}}, func(g *rig) {
		g.setDeaf(true)
		var as []Assignment
		for i := range 20 {
			as = append(as, web(job.TaskID(fmt.Sprintf("t%02d", i))))
		}
		g.set(as...)
		g.pass(10 * time.Minute)
		if g.batches != 0 {
			g.Fatal("a deaf leader heard something")
		}
		g.setDeaf(false)
		g.pass(6 * time.Second)
		if g.batches != 1 || len(g.leader) != 20 {
			g.Errorf("%d batches told %d of 20 tasks; want one with all", g.batches, len(g.leader))
		}
		for id, h := range g.history {
			if len(h) != 1 || h[0].State != job.Running {
				g.Errorf("task %s: told %d times, %s", id, len(h), h[0].State)
			}
		}
		g.pass(time.Hour)
		if g.batches != 1 {
			g.Errorf("%d batches though nothing changed", g.batches)
		}
		g.r.ReportAll()
		g.pass(time.Second)
		if g.batches != 2 || len(g.history["t00"]) != 2 {
			g.Errorf("asked for all: %d batches", g.batches)
		}
	})
}

func TestThoseWhoWatchSeeWhatIsReady(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.pass(time.Second)
		g.set(web("t1"))
		g.pass(3 * time.Second)
		g.rt.Exit("t1", 1)
		g.pass(5 * time.Second)
		g.setAt(2, true)
		g.pass(5 * time.Second)
		var got []string
		for _, c := range g.changes {
			if len(c) == 0 {
				got = append(got, "none")
				continue
			}
			got = append(got, fmt.Sprintf("%s %v", c[0].State, c[0].Ready))
		}
		want := []string{"none", "pulling false", "running true", "running false", "running true", "stopping false", "none"}
		i := 0
		for _, w := range got {
			if i < len(want) && w == want[i] {
				i++
			}
		}
		if i != len(want) {
			g.Errorf("watched %q, want %q among it", got, want)
		}
		for i := 1; i < len(g.changes); i++ {
			if slices.EqualFunc(g.changes[i-1], g.changes[i], Local.equal) {
				g.Errorf("told twice: %+v", g.changes[i])
			}
		}
	})
}

func TestNoBusyPolling(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"))
		g.pass(3 * time.Second)
		calls := len(g.rt.Calls())
		g.pass(time.Hour)
		if n := len(g.rt.Calls()); n != calls {
			g.Errorf("%d calls while nothing happened", n-calls)
		}
		synctest.Wait()
	})
}

// An agent that ends after a container was made and before it could say so finds it when it comes back. Who waits for the task
// to be made, as an update does that stops its predecessor then, must hear of it. (Found by seed 12793703464 of the simulation.)
func TestAContainerThatWaitsAndIsFoundAgainIsReported(t *testing.T) {
	inBubble(t, func(g *rig) {
		waits := web("t1", func(a *Assignment) { a.Task.Wait = job.WaitTurn })
		g.set(waits)
		g.pass(500 * time.Millisecond)
		g.wantState("t1", job.Pulling)
		file := filepath.Join(g.dir, statusesFile)
		before, err := os.ReadFile(file)
		if err != nil {
			g.Fatal(err)
		}
		g.setDeaf(true)
		g.pass(5 * time.Second)
		g.wantContainer("t1", runtime.Created, 0)
		g.stop()
		if err := os.WriteFile(file, before, 0o600); err != nil {
			g.Fatal(err)
		}
		g.setDeaf(false)
		g.start()
		g.set(waits)
		g.pass(10 * time.Second)
		g.wantState("t1", job.Created)
	})
}
