package reconciler

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
	"shoal/runtime/fake"
)

// side is an assignment of a service whose tasks join the network of web's.
func side(id job.TaskID, slot int, change ...func(*Assignment)) Assignment {
	a := web(id, change...)
	a.Task.Service, a.Task.Slot, a.Service.Name, a.Service.NetworkMode = "side", slot, "side", "service:web"
	return a
}

func TestATaskJoinsThePartnerOfItsSlot(t *testing.T) {
	inBubble(t, func(g *rig) {
		other := web("t9")
		other.Task.Slot = 2
		g.set(side("s1", 1))
		g.pass(time.Minute)
		g.wantNoContainer("s1") // there is nobody to join
		g.setAt(2, true, side("s1", 1), other)
		g.pass(time.Minute)
		g.wantNoContainer("s1") // the partner is that of the same slot
		g.setAt(3, true, side("s1", 1), other, web("t1"))
		g.pass(10 * time.Second)
		g.wantState("s1", job.Running)
		sp, _ := g.rt.Spec("s1")
		if sp.Network != runtime.Joining("t1") {
			g.Errorf("it joins %q", sp.Network)
		}
		if main, in := g.status("t1"), g.status("s1"); in.Address != main.Address || in.Message != "" {
			g.Errorf("address %v, want the partner's %v; says %q", in.Address, main.Address, in.Message)
		}
	})
}

func TestATaskIsStartedAnewWithWhatItJoins(t *testing.T) {
	inBubble(t, func(g *rig) {
		never := policy(job.Restart{Policy: job.RestartNever})
		ends := command1("sh", "-c", "sleep 20; exit 1")
		g.set(web("t1", ends), side("s1", 1, never))
		g.pass(15 * time.Second)
		g.wantContainer("s1", runtime.Running, 1)
		g.pass(10 * time.Second)
		g.wantContainer("t1", runtime.Running, 2)
		g.wantContainer("s1", runtime.Running, 2) // though it is never restarted by itself
		g.wantState("s1", job.Running)
		if s := g.status("s1"); s.Restarts != 0 {
			g.Errorf("that counts as a failure: %s", describe(s))
		}
		in, _ := g.info("s1")
		if in.Joined["t1"] != 2 {
			g.Errorf("it has joined %v", in.Joined)
		}
		// The agent comes back and finds all as it should be.
		g.stop()
		g.start()
		g.setAt(4, true, web("t1", ends), side("s1", 1, never))
		g.pass(5 * time.Second)
		g.wantContainer("s1", runtime.Running, 2)
	})
}

// What a container was made to join is known after a change in place too: its next restart needs no new container.
func TestATaskThatWasChangedInPlaceStillKnowsWhatItJoins(t *testing.T) {
	inBubble(t, func(g *rig) {
		ends := command1("sh", "-c", "sleep 20; exit 1")
		tuned := func(a *Assignment) { a.Task.Tuned, a.Service.StopGrace = 5, time.Minute }
		g.set(web("t1"), side("s1", 1, ends))
		g.pass(10 * time.Second)
		g.wantContainer("s1", runtime.Running, 1)
		g.setAt(5, true, web("t1"), side("s1", 1, ends, tuned))
		g.pass(time.Second)
		if s := g.status("s1"); s.Tuned != 5 {
			g.Fatalf("it was not changed: %s", describe(s))
		}
		g.pass(20 * time.Second)
		g.wantContainer("s1", runtime.Running, 2)
		if n := g.calls(fake.CallRemove, "s1"); n != 0 {
			g.Errorf("removed %d times", n)
		}
	})
}

func TestATaskJoinsTheSuccessorOfItsPartner(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1"), side("s1", 1))
		g.pass(10 * time.Second)
		g.wantContainer("s1", runtime.Running, 1)
		g.setAt(2, true, web("t1", desired(job.DesiredStop)), web("t2"), side("s1", 1))
		g.pass(30 * time.Second)
		g.wantContainer("t2", runtime.Running, 1)
		g.wantContainer("s1", runtime.Running, 1)
		g.wantState("s1", job.Running)
		if sp, _ := g.rt.Spec("s1"); sp.Network != runtime.Joining("t2") {
			g.Errorf("it joins %q, want the successor", sp.Network)
		}
		if n := g.calls(fake.CallCreate, "s1"); n != 2 {
			g.Errorf("made %d times", n)
		}
	})
}

func hooks(after, before string) func(*Assignment) {
	return func(a *Assignment) {
		if after != "" {
			a.Service.PostStart = []job.Hook{{Command: []string{"sh", "-c", after}}}
		}
		if before != "" {
			a.Service.PreStop = []job.Hook{{Command: []string{"sh", "-c", before}}}
		}
	}
}

func TestHooks(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1", hooks("sleep 5", "sleep 3")), web("t2", hooks("exit 4", "")), web("t3", hooks("", "sleep 3600")))
		g.pass(4 * time.Second)
		g.wantState("t1", job.Created) // its hook is not done
		g.pass(5 * time.Second)
		g.wantState("t1", job.Running)
		g.pass(5 * time.Minute)
		if s := g.status("t2"); s.State != job.Failed || !strings.Contains(s.Message, "post_start[0] sh: exit code 4") {
			g.Errorf("with a hook that fails: %s", describe(s))
		}
		gone := desired(job.DesiredStop)
		g.setAt(2, true, web("t1", hooks("sleep 5", "sleep 3"), gone), web("t3", hooks("", "sleep 3600"), gone))
		g.pass(2 * time.Second)
		g.wantState("t1", job.Stopping)
		g.pass(drainTime + 3*time.Second)
		g.wantState("t1", job.Complete)
		g.pass(10 * time.Second) // a hook has no more than the grace period
		g.wantState("t3", job.Complete)
		g.wantNoContainer("t3")
	})
}

// Hooks that take for ever hold up no other task's start, and no stop of their own.
func TestHooksThatHangHoldUpNothing(t *testing.T) {
	inBubble(t, func(g *rig) {
		hang := hooks("sleep 3600", "")
		hung := []Assignment{web("h1", hang), web("h2", hang), web("h3", hang), web("h4", hang)}
		g.set(hung...)
		g.pass(5 * time.Second)
		g.wantState("h1", job.Created)
		g.setAt(2, true, append(slices.Clone(hung), web("t1"))...)
		g.pass(2 * time.Second)
		g.wantState("t1", job.Running)
		hung[0].Task.Desired, hung[1].Task.Desired = job.DesiredStop, job.DesiredLost
		g.setAt(3, true, hung[0], hung[1], hung[2], web("t1")) // and h4 is removed
		g.pass(2 * time.Second)
		for _, id := range []job.TaskID{"h1", "h2", "h4"} {
			g.wantNoContainer(id)
			g.wantState(id, job.Complete)
			if s := g.status(id); s.Message != "" {
				g.Errorf("%s: %s", id, describe(s))
			}
		}
		g.wantContainer("h3", runtime.Running, 1) // its hook goes on
		if n := g.calls(fake.CallStop, "h1"); n != 1 {
			g.Errorf("stopped %d times", n)
		}
		g.pass(postStartLimit)
		if s := g.status("h3"); !strings.Contains(s.Message, "deadline") {
			g.Errorf("h3: %s", describe(s))
		}
	})
}

// The agent's end is not the container's, also while a hook runs.
func TestTheAgentsEndCutsAHookAndStopsNothing(t *testing.T) {
	inBubble(t, func(g *rig) {
		g.set(web("t1", hooks("sleep 3600", "")))
		g.pass(5 * time.Second)
		g.stop()
		g.wantContainer("t1", runtime.Running, 1)
		if n := g.calls(fake.CallStop, "t1"); n != 0 {
			g.Errorf("it was told to stop %d times", n)
		}
		g.start()
	})
}

// What the end of an agent cut is executed again, once, and only then does the task count as running.
func TestHooksThatTheAgentsEndCutAreExecutedByTheNextOne(t *testing.T) {
	inBubble(t, func(g *rig) {
		crashing := command1("sh", "-c", "sleep 60; exit 1")
		hooked := []Assignment{
			web("t1", hooks("sleep 20", ""), port(8080)), web("t2", hooks("sleep 20; exit 3", "")), web("t3", hooks("sleep 20", "sleep 3600")),
			web("t4", hooks("sleep 20", ""), crashing), web("t5", hooks("sleep 20", ""), health(job.Health{Test: []string{"CMD", "check"}, Interval: time.Second})),
		}
		g.set(hooked...)
		g.pass(10 * time.Second)
		g.stop()
		g.start()
		g.setAt(2, true, hooked...)
		g.pass(10 * time.Second)
		for _, a := range hooked {
			g.wantState(a.Task.ID, job.Created)
			g.wantContainer(a.Task.ID, runtime.Running, 1)
		}
		hooked[2].Task.Desired = job.DesiredStop
		g.setAt(3, true, append(slices.Clone(hooked), web("t6", port(8080)))...)
		g.pass(2 * time.Second)
		g.wantState("t3", job.Complete) // it never served: without pre_stop
		g.pass(10 * time.Second)
		g.wantState("t1", job.Running)
		if s := g.status("t2"); !strings.Contains(s.Message, "post_start[0] sh: exit code 3") {
			g.Errorf("with a hook that fails: %s", describe(s))
		}
		if s := g.status("t5"); s.Health != job.Healthy {
			g.Errorf("with a check: %s", describe(s))
		}
		if s := g.status("t6"); s.State == job.Running {
			g.Error("a host port was taken away")
		}
		// Those of a restart too.
		g.pass(40 * time.Second)
		g.wantContainer("t4", runtime.Running, 2)
		g.stop()
		g.start()
		g.setAt(4, true, hooked...)
		g.pass(10 * time.Second)
		if s := g.status("t4"); s.Ready() {
			g.Errorf("it is ready before its hooks are done: %s", describe(s))
		}
		g.pass(15 * time.Second)
		if s := g.status("t4"); !s.Ready() {
			g.Errorf("it is not ready: %s", describe(s))
		}
		// What is done is not done again.
		n := 0
		g.rt.OnExec(func(id runtime.ID, args []string) (int, string, bool) {
			if id == "t1" {
				n++
			}
			return 0, "", false
		})
		g.stop()
		g.start()
		g.pass(time.Minute)
		if n > 0 {
			g.Errorf("hooks of t1 were executed %d times more", n)
		}
	})
}

// How a container ends is its restart policy's, also while a hook runs in it.
func TestAContainerThatEndsDuringAHookIsJudgedByItsPolicy(t *testing.T) {
	inBubble(t, func(g *rig) {
		never := policy(job.Restart{Policy: job.RestartNever})
		g.set(web("t1", hooks("sleep 3", ""), command1("sh", "-c", "sleep 1; exit 0"), never),
			web("t2", hooks("sleep 3", ""), command1("sh", "-c", "sleep 1; exit 5"), never),
			web("t3", hooks("sleep 3", ""), command1("sh", "-c", "sleep 1; exit 5"), policy(job.Restart{Max: 2})))
		g.pass(time.Minute)
		for id, want := range map[job.TaskID]job.State{"t1": job.Complete, "t2": job.Failed, "t3": job.Failed} {
			g.wantState(id, want)
		}
		g.wantContainer("t1", runtime.Stopped, 1)
		g.wantContainer("t2", runtime.Stopped, 1)
		g.wantContainer("t3", runtime.Stopped, 3)
		if s := g.status("t2"); s.Message != "exit code 5" {
			g.Errorf("t2: %s", describe(s))
		}
	})
}

// The agent's end is no stop signal either to one whose pre_stop hook runs: its stop goes on with the next agent.
func TestTheAgentsEndDuringAPreStopHookSignalsNothing(t *testing.T) {
	inBubble(t, func(g *rig) {
		slow := func(a *Assignment) { a.Service.StopGrace = time.Hour }
		g.set(web("t1", hooks("", "sleep 600"), slow))
		g.pass(5 * time.Second)
		g.setAt(2, true, web("t1", hooks("", "sleep 600"), slow, desired(job.DesiredStop)))
		g.pass(time.Minute)
		g.stop()
		g.wantContainer("t1", runtime.Running, 1)
		if n := g.calls(fake.CallStop, "t1"); n != 0 {
			g.Errorf("it was told to stop %d times", n)
		}
		g.start()
		g.pass(11 * time.Minute)
		g.wantState("t1", job.Complete)
	})
}

// While its hook is cut and it is being stopped, the host port is still its own.
func TestAHookThatIsCutKeepsTheHostPortUntilTheEnd(t *testing.T) {
	inBubble(t, func(g *rig) {
		deaf := command1("sh", "-c", "trap '' TERM; sleep infinity")
		g.set(web("t1", hooks("sleep 3600", ""), port(8080), deaf))
		g.pass(5 * time.Second)
		g.setAt(2, true, web("t1", hooks("sleep 3600", ""), port(8080), deaf, desired(job.DesiredStop)), web("t2", port(8080)))
		g.pass(9 * time.Second)
		g.wantState("t1", job.Created)
		g.pass(3 * time.Second)
		g.wantState("t1", job.Complete)
		g.wantState("t2", job.Running)
		if n := g.calls(fake.CallStart, "t2"); n != 1 {
			g.Errorf("started %d times", n)
		}
	})
}

func TestACreateWhoseTaskIsGoneIsGivenUp(t *testing.T) {
	slow := fake.Config{Images: map[string]fake.Image{"web": {}}, Latency: time.Hour}
	inBubbleWith(t, slow, func(g *rig) {
		g.set(web("t1"))
		g.pass(time.Second)
		g.setAt(2, true, web("t1", desired(job.DesiredStop)))
		g.pass(time.Second)
		g.wantState("t1", job.Complete)
		g.wantNoContainer("t1")
	})
}

func TestWarningsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tk := &task{info: runtime.Info{Warnings: []string{"a: left out", "b: left out"}}}
		if got := tk.allIsWell(); got != "a: left out; b: left out" {
			t.Errorf("%q", got)
		}
	})
}

func TestHostNetworkHasTheNodesName(t *testing.T) {
	a := web("t1")
	a.Service.NetworkMode = job.NetworkHost
	if sp := Spec(a, "n", nil, nil, nil); sp.Network != runtime.NetworkHost || sp.Hostname == "web-1" || !slices.Contains([]string{""}, sp.Labels[labelJoins]) {
		t.Errorf("%q on %q", sp.Hostname, sp.Network)
	}
}
