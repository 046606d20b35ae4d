package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/runtime"
)

func (s *suite) exec(id runtime.ID, e runtime.Exec) (code int, stdout, stderr string) {
	s.Helper()
	var out, errOut buffer
	e.Stdout, e.Stderr = &out, &errOut
	code, err := s.rt.Exec(s.ctx, id, e)
	if err != nil {
		s.Fatalf("exec %q: %v", e.Args, err)
	}
	return code, out.String(), errOut.String()
}

func testExec(s *suite) {
	id := s.run("sleep", "60")
	for _, c := range []struct {
		args        []string
		code        int
		out, errOut string
	}{
		{[]string{"true"}, 0, "", ""},
		{[]string{"false"}, 1, "", ""},
		{[]string{"echo", "a", "b"}, 0, "a b\n", ""},
		{[]string{"sh", "-c", "echo out; echo err >&2; exit 42"}, 42, "out\n", "err\n"},
	} {
		code, out, errOut := s.exec(id, runtime.Exec{Args: c.args})
		if code != c.code || out != c.out || errOut != c.errOut {
			s.Errorf("exec %q: %d, %q, %q; want %d, %q, %q", c.args, code, out, errOut, c.code, c.out, c.errOut)
		}
	}
	if code, err := s.rt.Exec(s.ctx, id, runtime.Exec{Args: []string{"echo", "x"}}); code != 0 || err != nil {
		s.Errorf("exec without writers: %d, %v", code, err)
	}
	if got := s.logs(id, runtime.LogQuery{}); len(got) != 0 {
		s.Errorf("output of exec is in the container's log: %q", got)
	}
}

func testExecStdin(s *suite) {
	id := s.run("sleep", "60")
	text := strings.Repeat("all of it\n", 10_000)
	code, out, _ := s.exec(id, runtime.Exec{Args: []string{"cat"}, Stdin: strings.NewReader(text)})
	if code != 0 || out != text {
		s.Errorf("cat gave back %d of %d bytes, exit code %d", len(out), len(text), code)
	}
	code, out, _ = s.exec(id, runtime.Exec{Args: []string{"cat"}})
	if code != 0 || out != "" {
		s.Errorf("cat without stdin: %d, %q", code, out)
	}
}

func testExecEnv(s *suite) {
	sp := s.spec("sleep", "60")
	sp.Env = []string{"ONE=1", "TWO=2"}
	sp.WorkingDir = "/bin"
	s.create(sp)
	s.start(sp.ID)
	script := []string{"sh", "-c", "echo $ONE $TWO; pwd; id -u"}
	_, out, _ := s.exec(sp.ID, runtime.Exec{Args: script})
	if want := "1 2\n/bin\n0\n"; out != want {
		s.Errorf("exec in the container's own way: %q, want %q", out, want)
	}
	_, out, _ = s.exec(sp.ID, runtime.Exec{Args: script, Env: []string{"TWO=zwei"}, WorkingDir: "/", User: "1000"})
	if want := "1 zwei\n/\n1000\n"; out != want {
		s.Errorf("exec in another way: %q, want %q", out, want)
	}
}

func testExecCancel(s *suite) {
	id := s.run("sleep", "600")
	processes := func() int64 {
		st, err := s.rt.Stats(s.ctx, id)
		if err != nil {
			s.Fatalf("stats: %v", err)
		}
		return st.PIDs
	}
	ctx, cancel := context.WithCancel(s.ctx)
	type result struct {
		code int
		err  error
	}
	doneCh := make(chan result, 1)
	var out buffer
	go func() {
		code, err := s.rt.Exec(ctx, id, runtime.Exec{Args: []string{"sh", "-c", "echo up; exec sleep 600"}, Stdout: &out})
		doneCh <- result{code, err}
	}()
	s.eventually("up", func() bool { return out.String() == "up\n" })
	with := processes()
	cancel()
	select {
	case r := <-doneCh:
		if r.err == nil && r.code != 128+9 {
			s.Errorf("cancelled exec returned %d without an error", r.code)
		}
	case <-time.After(patience):
		s.Fatal("exec outlives its context")
	}
	if in := s.inspect(id); in.State != runtime.Running {
		s.Errorf("cancelled exec left the container %s", in.State)
	}
	s.eventually("rid of the process", func() bool { return processes() < with })
}

func testExecLeave(s *suite) {
	id := s.run("sleep", "600")
	started, leave, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	e := runtime.Exec{Args: []string{"sleep", "500"}, Started: func() { close(started) }, Leave: leave}
	go func() {
		_, err := s.rt.Exec(s.ctx, id, e)
		done <- err
	}()
	<-started
	close(leave)
	select {
	case err := <-done:
		if err == nil {
			s.Error("an exec that was left tells an exit code")
		}
	case <-time.After(patience):
		s.Fatal("exec does not end when it is left")
	}
	time.Sleep(200 * time.Millisecond)
	all, err := s.rt.Processes(s.ctx, id)
	if err != nil || len(all) != 2 {
		s.Errorf("when an exec was left there are %d processes, %v: want 2", len(all), err)
	}
	if err := s.rt.Stop(s.ctx, id, 0); err != nil {
		s.Fatal(err)
	}
}

func testExecContainerEnds(s *suite) {
	id := s.run("sleep", "600")
	var out buffer
	doneCh := make(chan struct{})
	go func() {
		defer close(doneCh)
		_, _ = s.rt.Exec(s.ctx, id, runtime.Exec{Args: []string{"sh", "-c", "echo up; " + scriptForever}, Stdout: &out})
	}()
	s.eventually("up", func() bool { return out.String() == "up\n" })
	if err := s.rt.Stop(s.ctx, id, 0); err != nil {
		s.Fatal(err)
	}
	select {
	case <-doneCh:
	case <-time.After(patience):
		s.Fatal("exec outlives its container")
	}
}

func testExecErrors(s *suite) {
	e := runtime.Exec{Args: []string{"true"}}
	_, err := s.rt.Exec(s.ctx, "rt-none", e)
	s.wantErr(err, runtime.ErrNotFound, "exec in nothing")
	sp := s.spec("sleep", "60")
	s.create(sp)
	_, err = s.rt.Exec(s.ctx, sp.ID, e)
	s.wantErr(err, runtime.ErrConflict, "exec before the start")
	s.start(sp.ID)
	code, err := s.rt.Exec(s.ctx, sp.ID, runtime.Exec{Args: []string{"/no/such/program"}})
	s.wantErr(err, runtime.ErrInvalid, "exec of nothing")
	if code != 127 {
		s.Errorf("exec of nothing: exit code %d, want 127", code)
	}
	_, err = s.rt.Exec(s.ctx, sp.ID, runtime.Exec{})
	s.wantErr(err, runtime.ErrInvalid, "exec without arguments")
}

func testLogs(s *suite) {
	id := s.shell("echo a; echo b; sleep 1; echo c; echo d")
	s.stopped(id)
	s.logged(id, "a", "b", "c", "d")
	for tail, want := range map[int][]string{-1: {}, 1: {"d"}, 3: {"b", "c", "d"}, 10: {"a", "b", "c", "d"}} {
		if got := s.logs(id, runtime.LogQuery{Tail: tail}); !slices.Equal(got, want) {
			s.Errorf("tail %d: %q, want %q", tail, got, want)
		}
	}
	var times []time.Time
	err := s.rt.Logs(s.ctx, id, runtime.LogQuery{}, func(l runtime.LogLine) error {
		times = append(times, l.Time)
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	if !slices.IsSortedFunc(times, time.Time.Compare) {
		s.Errorf("lines are not in the order of time: %v", times)
	}
	since := times[1].Add(500 * time.Millisecond)
	if got := s.logs(id, runtime.LogQuery{Since: since}); !slices.Equal(got, []string{"c", "d"}) {
		s.Errorf("since half a second after b: %q", got)
	}
	if got := s.logs(id, runtime.LogQuery{Since: since, Tail: 1}); !slices.Equal(got, []string{"d"}) {
		s.Errorf("since half a second after b, tail 1: %q", got)
	}
}

func testLogStreams(s *suite) {
	id := s.shell("echo out; sleep 0.2; echo err >&2")
	s.stopped(id)
	s.logged(id, "out", "err")
	var got []string
	err := s.rt.Logs(s.ctx, id, runtime.LogQuery{}, func(l runtime.LogLine) error {
		got = append(got, fmt.Sprintf("%s %s %v", l.Stream, l.Text, l.Partial))
		return nil
	})
	if want := []string{"stdout out false", "stderr err false"}; err != nil || !slices.Equal(got, want) {
		s.Errorf("streams: %q, %v; want %q", got, err, want)
	}
}

func testLogsFollow(s *suite) {
	sp := s.spec("sh", "-c", "echo one; sleep 0.3; echo two")
	s.create(sp)
	lineCh := make(chan string, 16)
	doneCh := make(chan error, 1)
	go func() {
		doneCh <- s.rt.Logs(s.ctx, sp.ID, runtime.LogQuery{Follow: true}, func(l runtime.LogLine) error {
			lineCh <- string(l.Text)
			return nil
		})
	}()
	expect := func(want ...string) {
		s.Helper()
		for _, w := range want {
			select {
			case got := <-lineCh:
				if got != w {
					s.Fatalf("followed %q, want %q", got, w)
				}
			case err := <-doneCh:
				s.Fatalf("follow ended (%v) before %q", err, w)
			case <-time.After(patience):
				s.Fatalf("follow does not bring %q", w)
			}
		}
	}
	s.start(sp.ID)
	expect("one", "two")
	s.stopped(sp.ID)
	s.start(sp.ID) // a restart goes on in the same log
	expect("one", "two")
	s.stopped(sp.ID)
	if err := s.rt.Remove(s.ctx, sp.ID); err != nil {
		s.Fatal(err)
	}
	select {
	case err := <-doneCh:
		if err != nil {
			s.Errorf("follow of a removed container ended with %v", err)
		}
	case <-time.After(patience):
		s.Fatal("follow outlives its container")
	}

	id := s.shell("echo first; sleep 600")
	s.logged(id, "first")
	ctx, cancel := context.WithCancel(s.ctx)
	go func() {
		doneCh <- s.rt.Logs(ctx, id, runtime.LogQuery{Follow: true, Tail: -1}, func(l runtime.LogLine) error {
			lineCh <- string(l.Text)
			return nil
		})
	}()
	cancel()
	select {
	case <-doneCh:
	case <-time.After(patience):
		s.Fatal("follow outlives its context")
	}
	if len(lineCh) != 0 {
		s.Errorf("tail -1 brought %q", <-lineCh)
	}
}

func testLogsCallback(s *suite) {
	id := s.shell("echo a; echo b")
	s.stopped(id)
	s.logged(id, "a", "b")
	enough := errors.New("enough")
	n := 0
	err := s.rt.Logs(s.ctx, id, runtime.LogQuery{}, func(runtime.LogLine) error { n++; return enough })
	if !errors.Is(err, enough) || n != 1 {
		s.Errorf("logs called back %d times and returned %v", n, err)
	}
}
