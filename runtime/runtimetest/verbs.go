package runtimetest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"time"

	"shoal/runtime"
)

// attached is the end of an Attach.
type attached struct {
	code     int
	err      error
	out, own buffer
}

// attach runs an Attach in the background.
func (s *suite) attach(ctx context.Context, id runtime.ID, a runtime.Attach) (*attached, <-chan struct{}) {
	at, done := &attached{}, make(chan struct{})
	a.Stdout, a.Stderr = &at.out, &at.own
	go func() {
		defer close(done)
		at.code, at.err = s.rt.Attach(ctx, id, a)
	}()
	return at, done
}

func (s *suite) await(done <-chan struct{}) {
	s.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		s.Fatalf("attach has not ended after %v", patience)
	}
}

func testAttach(s *suite) {
	sp := s.spec("sh", "-c", "echo out; echo err >&2; exit 3")
	s.create(sp)
	one, oneDone := s.attach(s.ctx, sp.ID, runtime.Attach{}) // before it is started: it waits
	time.Sleep(10 * time.Millisecond)
	s.start(sp.ID)
	s.await(oneDone)
	// Without Spec.Attach the first words may be missed, or the whole run.
	if one.err == nil && one.code != 3 || one.err != nil && !errors.Is(one.err, runtime.ErrConflict) {
		s.Errorf("attached before the start: exit code %d, %v", one.code, one.err)
	}
	s.stopped(sp.ID)
	_, err := s.rt.Attach(s.ctx, sp.ID, runtime.Attach{})
	s.wantErr(err, runtime.ErrConflict, "attach to a stopped container")
	_, err = s.rt.Attach(s.ctx, "nobody", runtime.Attach{})
	s.wantErr(err, runtime.ErrNotFound, "attach to nobody")
}

func testAttachKeeps(s *suite) {
	for _, late := range []bool{false, true} {
		sp := s.spec("sh", "-c", "echo out; echo err >&2; exit 3")
		sp.Attach = true
		s.create(sp)
		s.start(sp.ID)
		if late {
			s.stopped(sp.ID)
		}
		at, done := s.attach(s.ctx, sp.ID, runtime.Attach{})
		s.await(done)
		if at.err != nil || at.code != 3 || at.out.String() != "out\n" || at.own.String() != "err\n" {
			s.Errorf("late %v: exit code %d, %v, out %q, err %q", late, at.code, at.err, at.out.String(), at.own.String())
		}
	}
	sp := s.spec("/no/such")
	sp.Attach = true
	s.create(sp)
	at, done := s.attach(s.ctx, sp.ID, runtime.Attach{})
	_, _ = s.rt.Start(s.ctx, sp.ID) // fails
	s.await(done)
	s.wantErr(at.err, runtime.ErrInvalid, "attach to what cannot be executed")
	if at.code != 127 {
		s.Errorf("attach to what cannot be executed: exit code %d, want 127", at.code)
	}
}

func testAttachStdin(s *suite) {
	sp := s.spec("cat")
	sp.Stdin, sp.Attach = true, true
	s.create(sp)
	s.start(sp.ID)
	first, leave := context.WithCancel(s.ctx)
	in, typed := io.Pipe()
	one, oneDone := s.attach(first, sp.ID, runtime.Attach{Stdin: in, EndStdin: true})
	if _, err := io.WriteString(typed, "one\n"); err != nil {
		s.Fatal(err)
	}
	s.eventually("answered", func() bool { return one.out.String() == "one\n" })
	leave()
	typed.CloseWithError(io.ErrUnexpectedEOF) // a caller that is lost is no end of input
	s.await(oneDone)
	s.wantErr(one.err, context.Canceled, "a caller who leaves")
	if st := s.inspect(sp.ID).State; st != runtime.Running {
		s.Fatalf("the container is %s after its caller has left", st)
	}
	two, twoDone := s.attach(s.ctx, sp.ID, runtime.Attach{Stdin: strings.NewReader("two\n"), EndStdin: true})
	s.await(twoDone)
	if two.err != nil || two.code != 0 || two.out.String() != "two\n" {
		s.Errorf("the second caller: exit code %d, %v, %q", two.code, two.err, two.out.String())
	}
}

func testAttachSeveral(s *suite) {
	sp := s.spec("cat")
	sp.Stdin = true
	s.create(sp)
	s.start(sp.ID)
	in, typed := io.Pipe()
	one, oneDone := s.attach(s.ctx, sp.ID, runtime.Attach{Stdin: in, EndStdin: true})
	two, twoDone := s.attach(s.ctx, sp.ID, runtime.Attach{})
	s.eventually("both attached", func() bool {
		_, _ = io.WriteString(typed, "x\n") // until both have heard of it
		return strings.Contains(one.out.String(), "x") && strings.Contains(two.out.String(), "x")
	})
	typed.Close()
	s.await(oneDone)
	s.await(twoDone)
	if one.err != nil || two.err != nil || one.code != 0 || two.code != 0 {
		s.Errorf("two callers: %d, %v and %d, %v", one.code, one.err, two.code, two.err)
	}
}

func testPause(s *suite) {
	id := s.run("sleep", "60")
	events := s.rt.Events(s.ctx)
	for range 2 {
		if err := s.rt.Pause(s.ctx, id); err != nil {
			s.Fatalf("pause: %v", err)
		}
	}
	if in := s.inspect(id); !in.Paused || in.State != runtime.Running {
		s.Errorf("after pause: %+v", in)
	}
	for e := range events {
		if e.ID == id && e.Kind == runtime.EventPaused {
			break
		}
	}
	_, err := s.rt.Exec(s.ctx, id, runtime.Exec{Args: []string{"true"}})
	s.wantErr(err, runtime.ErrConflict, "exec in a paused container")
	for range 2 {
		if err := s.rt.Resume(s.ctx, id); err != nil {
			s.Fatalf("resume: %v", err)
		}
	}
	if s.inspect(id).Paused {
		s.Error("it is paused after resume")
	}
	if code, err := s.rt.Exec(s.ctx, id, runtime.Exec{Args: []string{"true"}}); code != 0 || err != nil {
		s.Errorf("exec after resume: %d, %v", code, err)
	}
	if err := s.rt.Pause(s.ctx, id); err != nil {
		s.Fatal(err)
	}
	if err := s.rt.Stop(s.ctx, id, 0); err != nil {
		s.Errorf("stop of a paused container: %v", err)
	}
	if in := s.inspect(id); in.State != runtime.Stopped || in.Paused {
		s.Errorf("after stop: %+v", in)
	}
	s.wantErr(s.rt.Pause(s.ctx, id), runtime.ErrConflict, "pause of a stopped container")
	s.wantErr(s.rt.Pause(s.ctx, "nobody"), runtime.ErrNotFound, "pause of nobody")
}

func testProcesses(s *suite) {
	id := s.run("sleep", "60")
	var list []runtime.Process
	s.eventually("executed", func() (ok bool) { // a moment passes between the program's name and its arguments
		var err error
		if list, err = s.rt.Processes(s.ctx, id); err != nil || len(list) != 1 {
			s.Fatalf("processes: %+v, %v", list, err)
		}
		return strings.Contains(list[0].Command, " ")
	})
	if p := list[0]; p.Command != "sleep 60" || p.User != "root" || p.PID != s.inspect(id).PID || p.Started.IsZero() {
		s.Errorf("the first process: %+v", p)
	}
	if err := s.rt.Stop(s.ctx, id, 0); err != nil {
		s.Fatal(err)
	}
	_, err := s.rt.Processes(s.ctx, id)
	s.wantErr(err, runtime.ErrConflict, "processes of a stopped container")
}

// archive makes one of names and contents.
func archive(entries ...tar.Header) *bytes.Buffer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.Uname
		h.Uname, h.Size = "", int64(len(text))
		if h.Mode == 0 {
			h.Mode = 0o640
		}
		_ = w.WriteHeader(&h) // into memory
		_, _ = io.WriteString(w, text)
	}
	_ = w.Close()
	return &b
}

func testCopy(s *suite) {
	running := s.run("sleep", "60")
	sp := s.spec("true")
	s.create(sp)
	for _, id := range []runtime.ID{running, sp.ID} {
		in := archive(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750}, tar.Header{Name: "d/f", Uname: "hello"})
		if err := s.rt.CopyIn(s.ctx, id, runtime.CopyIn{Path: "/tmp"}, in); err != nil {
			s.Fatalf("copy in: %v", err)
		}
		st, err := s.rt.StatPath(s.ctx, id, "/tmp/d/f")
		if err != nil || st.Name != "f" || st.Size != 5 || fs.FileMode(st.Mode) != 0o640 {
			s.Errorf("stat: %+v, %v", st, err)
		}
		var out bytes.Buffer
		if err := s.rt.CopyOut(s.ctx, id, runtime.CopyOut{Path: "/tmp/d"}, &out); err != nil {
			s.Fatalf("copy out: %v", err)
		}
		var got []string
		for r := tar.NewReader(&out); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			text, _ := io.ReadAll(r)
			got = append(got, h.Name+"="+string(text))
		}
		if strings.Join(got, " ") != "d/= d/f=hello" {
			s.Errorf("copied out: %q", got)
		}
		_, err = s.rt.StatPath(s.ctx, id, "/tmp/none")
		s.wantErr(err, runtime.ErrNotFound, "stat of what is not there")
		s.wantErr(s.rt.CopyOut(s.ctx, id, runtime.CopyOut{Path: "/tmp/none"}, io.Discard), runtime.ErrNotFound, "copy of what is not there")
		s.wantErr(s.rt.CopyIn(s.ctx, id, runtime.CopyIn{Path: "/tmp/none"}, archive()), runtime.ErrNotFound, "copy to where nothing is")
		s.wantErr(s.rt.CopyIn(s.ctx, id, runtime.CopyIn{Path: "/tmp"}, archive(tar.Header{Name: "../x", Uname: "x"})), runtime.ErrInvalid, "copy that leads outside")
		changes, err := s.rt.Changes(s.ctx, id)
		found := false
		for _, c := range changes {
			found = found || c == runtime.FileChange{Kind: "A", Path: "/tmp/d/f"}
		}
		if err != nil || !found {
			s.Errorf("changes: %+v, %v", changes, err)
		}
	}
}
