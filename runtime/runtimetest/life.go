package runtimetest

import (
	"context"
	"slices"
	"sync"
	"time"

	"shoal/runtime"
)

func testPull(s *suite) {
	img, err := s.rt.Pull(s.ctx, s.h.Image, func(done, total int64) {})
	if err != nil {
		s.Fatal(err)
	}
	if img.Digest == "" || img.Ref == "" {
		s.Errorf("pull tells ref %q and digest %q; want both", img.Ref, img.Digest)
	}
	if img.Health != nil {
		s.Errorf("pull tells health %v of an image without", img.Health)
	}
}

func testPullMissing(s *suite) {
	_, err := s.rt.Pull(s.ctx, s.h.BadImage, nil)
	s.wantErr(err, runtime.ErrNotFound, "pull")
}

func testCreateRefuses(s *suite) {
	for _, c := range []struct {
		name   string
		change func(*runtime.Spec)
		want   error
	}{
		{"absent image", func(sp *runtime.Spec) { sp.Image = s.h.BadImage }, runtime.ErrNotFound},
		{"no image", func(sp *runtime.Spec) { sp.Image = "" }, runtime.ErrInvalid},
		{"no id", func(sp *runtime.Spec) { sp.ID = "" }, runtime.ErrInvalid},
		{"id with a slash", func(sp *runtime.Spec) { sp.ID = "a/b" }, runtime.ErrInvalid},
		{"id that climbs", func(sp *runtime.Spec) { sp.ID = ".." }, runtime.ErrInvalid},
		{"relative mount target", func(sp *runtime.Spec) {
			sp.Mounts = []runtime.Mount{{Type: runtime.MountTmpfs, Target: "tmp"}}
		}, runtime.ErrInvalid},
		{"too little memory", func(sp *runtime.Spec) { sp.Resources.MemoryBytes = runtime.MinMemoryBytes - 1 }, runtime.ErrInvalid},
	} {
		sp := s.spec("true")
		id := sp.ID
		c.change(&sp)
		_, err := s.rt.Create(s.ctx, sp)
		s.wantErr(err, c.want, c.name)
		if _, err := s.rt.Inspect(s.ctx, id); err == nil {
			s.Errorf("%s: create left a container", c.name)
		}
	}
}

func testCreateRunsNothing(s *suite) {
	sp := s.spec("sh", "-c", "echo ran")
	sp.Labels = map[string]string{"a": "1"}
	in := s.create(sp)
	if in.ID != sp.ID || in.Name != sp.Name || in.Labels["a"] != "1" {
		s.Errorf("create tells %+v, want id, name and labels of the spec", in)
	}
	if in.State != runtime.Created || in.Starts != 0 || in.PID != 0 || in.CreatedAt.IsZero() || !in.StartedAt.IsZero() {
		s.Errorf("create tells %+v; want created, never started, with its time", in)
	}
	if in.Image == "" {
		s.Error("create tells no image digest")
	}
	if got := s.logs(sp.ID, runtime.LogQuery{}); len(got) != 0 {
		s.Errorf("created container has logged %q", got)
	}
}

func testConflict(s *suite) {
	sp := s.spec("sleep", "60")
	s.create(sp)
	_, err := s.rt.Create(s.ctx, sp)
	s.wantErr(err, runtime.ErrConflict, "second create")
	s.start(sp.ID)
	_, err = s.rt.Create(s.ctx, sp)
	s.wantErr(err, runtime.ErrConflict, "create while it runs")
	if in := s.inspect(sp.ID); in.State != runtime.Running {
		s.Errorf("a refused create left the first container %s", in.State)
	}
}

func testExitCode(s *suite) {
	before := time.Now().Add(-time.Second)
	sp := s.spec("sh", "-c", "echo hi; sleep 0.5; exit 3")
	s.create(sp)
	in := s.start(sp.ID)
	if in.State != runtime.Running || in.PID <= 0 || in.Starts != 1 {
		s.Errorf("start tells %+v; want running, with pid, one start", in)
	}
	in = s.stopped(sp.ID)
	s.wantExit(in, 3)
	if in.PID != 0 || in.OOMKilled || in.Error != "" {
		s.Errorf("after a plain exit: %+v", in)
	}
	if in.StartedAt.Before(before) || in.FinishedAt.Before(in.StartedAt) {
		s.Errorf("started at %v and finished at %v", in.StartedAt, in.FinishedAt)
	}
	s.logged(sp.ID, "hi")

	id := s.run("true")
	s.wantExit(s.stopped(id), 0)
	id = s.run("false")
	s.wantExit(s.stopped(id), 1)
}

func testStartWrongState(s *suite) {
	_, err := s.rt.Start(s.ctx, "rt-none")
	s.wantErr(err, runtime.ErrNotFound, "start of nothing")
	id := s.run("sleep", "60")
	_, err = s.rt.Start(s.ctx, id)
	s.wantErr(err, runtime.ErrConflict, "start while it runs")
	if in := s.inspect(id); in.State != runtime.Running || in.Starts != 1 {
		s.Errorf("a refused start changed it: %+v", in)
	}
}

func testNotFoundCommand(s *suite) { badCommand(s, "/no/such/program", 127) }

func testNotExecutable(s *suite) { badCommand(s, "/bin", 126) } // a directory

func badCommand(s *suite, command string, code int) {
	sp := s.spec(command, "x")
	s.create(sp)
	_, err := s.rt.Start(s.ctx, sp.ID)
	s.wantErr(err, runtime.ErrInvalid, "start")
	in := s.inspect(sp.ID)
	s.wantExit(in, code)
	if in.Error == "" {
		s.Error("Info.Error does not say why the start failed")
	}
}

func testEntrypoint(s *suite) {
	sp := s.spec("three", "four")
	sp.Entrypoint = []string{"echo", "one", "two"}
	s.create(sp)
	s.start(sp.ID)
	s.logged(sp.ID, "one two three four")
}

func testProcess(s *suite) {
	sp := s.spec("sh", "-c", "echo $GREETING; pwd; id -u; id -g; /bin/busybox hostname")
	sp.Env = []string{"GREETING=good day"}
	sp.WorkingDir = "/bin"
	sp.User = "1000:1001"
	sp.Hostname = "box"
	s.create(sp)
	s.start(sp.ID)
	s.logged(sp.ID, "good day", "/bin", "1000", "1001", "box")
}

func testStdinNull(s *suite) {
	id := s.run("cat")
	s.wantExit(s.stopped(id), 0)
}

func testStopAsks(s *suite) {
	id := s.shell(scriptPolite)
	s.logged(id, "ready")
	if err := s.rt.Stop(s.ctx, id, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(id), 7)
}

func testStopKills(s *suite) {
	id := s.shell(scriptDeaf)
	s.logged(id, "ready")
	const grace = 300 * time.Millisecond
	begin := time.Now()
	if err := s.rt.Stop(s.ctx, id, grace); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(id), 128+9)
	if d := time.Since(begin); d < grace {
		s.Errorf("stopped after %v, before its grace of %v", d, grace)
	}
}

func testStopSpecGrace(s *suite) {
	sp := s.spec("sh", "-c", scriptDeaf)
	sp.StopGrace = 200 * time.Millisecond
	s.create(sp)
	s.start(sp.ID)
	s.logged(sp.ID, "ready")
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if err := s.rt.Stop(ctx, sp.ID, -1); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 128+9)

	sp = s.spec("sh", "-c", "trap 'exit 8' INT; trap '' TERM; echo ready; "+scriptForever)
	sp.StopSignal = "SIGINT"
	s.create(sp)
	s.start(sp.ID)
	s.logged(sp.ID, "ready")
	if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 8)
}

func testStopIdempotent(s *suite) {
	sp := s.spec("sh", "-c", scriptPolite)
	s.create(sp)
	if err := s.rt.Stop(s.ctx, sp.ID, 0); err != nil {
		s.Errorf("stop before the first start: %v", err)
	}
	s.start(sp.ID)
	s.logged(sp.ID, "ready")
	for range 3 {
		if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
			s.Errorf("stop: %v", err)
		}
		s.wantExit(s.inspect(sp.ID), 7)
	}
}

func testInit(s *suite) {
	// A first process without a handler ignores SIGTERM (pid_namespaces(7)); with an init in between it dies of it.
	sp := s.spec("sleep", "600")
	sp.Init = true
	s.create(sp)
	s.start(sp.ID)
	if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 128+15)
}

func testSignal(s *suite) {
	id := s.shell("trap 'echo hup' HUP; echo ready; " + scriptForever)
	want := []string{"ready"}
	s.logged(id, want...)
	for _, name := range []string{"SIGHUP", "HUP", "1"} {
		if err := s.rt.Signal(s.ctx, id, name); err != nil {
			s.Fatalf("signal %s: %v", name, err)
		}
		want = append(want, "hup")
		s.logged(id, want...)
	}
	if err := s.rt.Signal(s.ctx, id, "KILL"); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.stopped(id), 128+9)
	s.wantErr(s.rt.Signal(s.ctx, id, "HUP"), runtime.ErrConflict, "signal to a stopped container")
	s.wantErr(s.rt.Signal(s.ctx, "rt-none", "HUP"), runtime.ErrNotFound, "signal to nothing")
}

func testRemove(s *suite) {
	id := s.shell(scriptDeaf)
	for range 2 {
		if err := s.rt.Remove(s.ctx, id); err != nil {
			s.Fatalf("remove: %v", err)
		}
		_, err := s.rt.Inspect(s.ctx, id)
		s.wantErr(err, runtime.ErrNotFound, "inspect after remove")
	}
	infos, err := s.rt.List(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	if slices.ContainsFunc(infos, func(in runtime.Info) bool { return in.ID == id }) {
		s.Error("list still tells the removed container")
	}
	sp := s.spec("true")
	s.create(sp)
	if err := s.rt.Remove(s.ctx, sp.ID); err != nil {
		s.Errorf("remove of a container that never ran: %v", err)
	}
}

func testRestart(s *suite) {
	id := s.shell("echo again; exit 4")
	for n := 1; n <= 3; n++ {
		in := s.stopped(id)
		s.wantExit(in, 4)
		if in.Starts != n {
			s.Errorf("starts is %d after %d", in.Starts, n)
		}
		s.logged(id, slices.Repeat([]string{"again"}, n)...)
		if n < 3 {
			s.start(id)
		}
	}
}

func testList(s *suite) {
	var want []runtime.ID
	for range 3 {
		sp := s.spec("sleep", "60")
		sp.Labels = map[string]string{"for": string(sp.ID)}
		s.create(sp)
		want = append(want, sp.ID)
	}
	s.start(want[0])
	infos, err := s.rt.List(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	if !slices.IsSortedFunc(infos, func(a, b runtime.Info) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	}) {
		s.Error("list is not sorted by id")
	}
	for i, id := range want {
		k := slices.IndexFunc(infos, func(in runtime.Info) bool { return in.ID == id })
		if k < 0 {
			s.Errorf("list lacks %s", id)
			continue
		}
		state := runtime.Created
		if i == 0 {
			state = runtime.Running
		}
		if infos[k].Labels["for"] != string(id) || infos[k].State != state {
			s.Errorf("list tells %+v, want %s with its label", infos[k], state)
		}
	}
}

func testInspectErrors(s *suite) {
	_, err := s.rt.Inspect(s.ctx, "rt-none")
	s.wantErr(err, runtime.ErrNotFound, "inspect")
	err = s.rt.Logs(s.ctx, "rt-none", runtime.LogQuery{}, func(runtime.LogLine) error { return nil })
	s.wantErr(err, runtime.ErrNotFound, "logs")
	_, err = s.rt.Stats(s.ctx, "rt-none")
	s.wantErr(err, runtime.ErrNotFound, "stats")
}

func testEvents(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	evs := s.rt.Events(ctx)
	id := s.shell("sleep 0.2; exit 5")
	var kinds []runtime.EventKind
	timeout := time.After(patience)
	for len(kinds) < 2 {
		select {
		case e, ok := <-evs:
			if !ok {
				s.Fatal("events ended before their context")
			}
			if e.ID != id {
				continue // of another subtest's container
			}
			if e.At.IsZero() {
				s.Errorf("event without its time: %+v", e)
			}
			kinds = append(kinds, e.Kind)
		case <-timeout:
			s.Fatalf("events tell only %v", kinds)
		}
	}
	if want := []runtime.EventKind{runtime.EventStarted, runtime.EventExited}; !slices.Equal(kinds, want) {
		s.Errorf("events tell %v, want %v", kinds, want)
	}
	// An event is a hint, but the truth must not lag behind it.
	s.wantExit(s.inspect(id), 5)
}

func testEventsClose(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	evs := s.rt.Events(ctx)
	cancel()
	timeout := time.After(patience)
	for {
		select {
		case _, ok := <-evs:
			if !ok {
				return
			}
		case <-timeout:
			s.Fatal("events do not end with their context")
		}
	}
}

func testStats(s *suite) {
	sp := s.spec("sleep", "60")
	sp.Resources.MemoryBytes = 64 << 20
	in := s.create(sp)
	_, err := s.rt.Stats(s.ctx, in.ID)
	s.wantErr(err, runtime.ErrConflict, "stats of a created container")
	s.start(in.ID)
	st, err := s.rt.Stats(s.ctx, in.ID)
	if err != nil {
		s.Fatal(err)
	}
	if st.PIDs < 1 || st.MemoryLimit != 64<<20 {
		s.Errorf("stats tell %+v; want at least one process and the limit", st)
	}
}

func testConcurrent(s *suite) {
	sp := s.spec("sh", "-c", scriptPolite)
	s.create(sp)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _, _ = s.rt.Start(s.ctx, sp.ID) }) // a conflict for all but one
		wg.Go(func() { _ = s.rt.Stop(s.ctx, sp.ID, 50*time.Millisecond) })
		wg.Go(func() { _, _ = s.rt.Inspect(s.ctx, sp.ID) })
		wg.Go(func() { _, _ = s.rt.List(s.ctx) })
	}
	wg.Wait()
	if err := s.rt.Stop(s.ctx, sp.ID, 0); err != nil {
		s.Errorf("stop after the storm: %v", err)
	}
	for range 4 {
		wg.Go(func() {
			if err := s.rt.Remove(s.ctx, sp.ID); err != nil {
				s.Errorf("remove: %v", err)
			}
		})
	}
	wg.Wait()
	_, err := s.rt.Inspect(s.ctx, sp.ID)
	s.wantErr(err, runtime.ErrNotFound, "inspect after the storm")
}

func testAdoptRunning(s *suite) {
	sp := s.spec("sh", "-c", "echo one; "+"trap 'echo two; exit 6' TERM; "+scriptForever)
	sp.Labels = map[string]string{"mine": "yes"}
	s.create(sp)
	before := s.start(sp.ID)
	s.logged(sp.ID, "one")
	s.reopen(0)

	in := s.inspect(sp.ID)
	if in.State != runtime.Running || in.PID != before.PID || in.Starts != 1 || in.Labels["mine"] != "yes" ||
		in.Address != before.Address {
		s.Errorf("adopted as %+v, was %+v", in, before)
	}
	if code, err := s.rt.Exec(s.ctx, sp.ID, runtime.Exec{Args: []string{"sh", "-c", "exit 9"}}); err != nil || code != 9 {
		s.Errorf("exec in the adopted container: %d, %v", code, err)
	}
	evs := s.rt.Events(s.ctx)
	if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 6)
	s.logged(sp.ID, "one", "two")
	for timeout := time.After(patience); ; {
		select {
		case e := <-evs:
			if e.Kind == runtime.EventExited && e.ID == sp.ID {
				return
			}
		case <-timeout:
			s.Fatal("no event tells the exit of the adopted container")
		}
	}
}

func testAdoptEnded(s *suite) {
	id := s.shell("echo one; sleep 0.5; echo two; exit 5")
	never := s.spec("true")
	s.create(never)
	s.reopen(1500 * time.Millisecond)

	s.wantExit(s.stopped(id), 5)
	s.logged(id, "one", "two")
	if in := s.inspect(never.ID); in.State != runtime.Created {
		s.Errorf("a created container was adopted as %s", in.State)
	}
	in := s.start(id)
	if in.Starts != 2 {
		s.Errorf("starts is %d after adoption and a second start", in.Starts)
	}
	s.wantExit(s.stopped(id), 5)
	s.logged(id, "one", "two", "one", "two")
}

// reopen does what a restart of the node does, with a while between its end and its beginning.
func (s *suite) reopen(while time.Duration) {
	if s.h.Close != nil {
		s.h.Close()
	}
	time.Sleep(while)
	s.rt = s.h.Reopen()
}
