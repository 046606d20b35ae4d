package runtimetest

import (
	"context"
	"slices"
	"strings"
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

func testPresent(s *suite) {
	pulled, err := s.rt.Pull(s.ctx, s.h.Image, nil)
	if err != nil {
		s.Fatal(err)
	}
	img, err := s.rt.Present(s.ctx, s.h.Image)
	if err != nil || img != pulled {
		s.Errorf("an image that is here: %+v, %v; want what pull told, %+v", img, err, pulled)
	}
	_, err = s.rt.Present(s.ctx, s.h.BadImage)
	s.wantErr(err, runtime.ErrNotFound, "present")
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
	if strings.Contains(in.Error, "\n") || len(in.Error) > 256 { // people see it in a line of ps
		s.Errorf("Info.Error is no line for people: %q", in.Error)
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
