package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/frugal"
)

// roads are the ways to a task's node: directly, and through another node.
func roads(t *testing.T, run func(ctx context.Context, s *ExecSession) (int, error)) map[string]*Client {
	t.Helper()
	o := newMachine(t, "O", &script{owner: "self", run: run})
	v := newMachine(t, "V", &script{owner: o.peers})
	return map[string]*Client{"directly": o.client(Operator), "through another node": v.client(Operator)}
}

func TestExecCarriesCodesOutputAndInput(t *testing.T) {
	for road, c := range roads(t, func(_ context.Context, s *ExecSession) (int, error) {
		if s.Stdin == nil {
			return 3, nil
		}
		in, err := io.ReadAll(s.Stdin) // until EOF
		fmt.Fprintf(s.Stdout, "%s %v %s %s %s", in, s.Args, s.Env, s.WorkingDir, s.User)
		fmt.Fprint(s.Stderr, "complaint")
		return 42, err
	}) {
		var stdout, stderr bytes.Buffer
		code, err := c.Exec(context.Background(), "t", &ClientExec{
			ExecRequest:   ExecRequest{Args: []string{"a", "b"}, Env: []string{"K=V"}, WorkingDir: "/w", User: "u"},
			ClientStreams: ClientStreams{Stdin: strings.NewReader("input"), Stdout: &stdout, Stderr: &stderr},
		})
		if code != 42 || err != nil || stdout.String() != "input [a b] [K=V] /w u" || stderr.String() != "complaint" {
			t.Errorf("%s: %d, %v, %q, %q", road, code, err, &stdout, &stderr)
		}
		if code, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"x"}}}); code != 3 || err != nil {
			t.Errorf("%s, without stdin: %d, %v", road, code, err)
		}
	}
}

func TestExecErrorsKeepTheirKind(t *testing.T) {
	for road, c := range roads(t, func(context.Context, *ExecSession) (int, error) {
		return 126, job.Errorf(job.NotFound, "no such program")
	}) {
		code, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"x"}}})
		if code != 126 || !errors.Is(err, job.NotFound) || err.Error() != "no such program" {
			t.Errorf("%s: %d, %v", road, code, err)
		}
		if _, err := c.Exec(context.Background(), "t", &ClientExec{}); !errors.Is(err, job.Invalid) {
			t.Errorf("%s, no command: %v", road, err)
		}
	}
	c := newMachine(t, "A", &script{owner: "self"}).client(Reader)
	if _, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"x"}}}); !errors.Is(err, job.Denied) {
		t.Errorf("by a reader: %v", err)
	}
}

// Much goes both ways at once: each side is slower than the other at times, and nothing is lost or held whole.
func TestExecPacesWhatIsBig(t *testing.T) {
	const size = 8 * stdinWindow
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	for road, c := range roads(t, func(_ context.Context, s *ExecSession) (int, error) {
		_, err := io.Copy(s.Stdout, s.Stdin)
		return 0, err
	}) {
		sum := sha256.New()
		slow := &hesitant{w: sum}
		code, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"cat"}}, ClientStreams: ClientStreams{Stdin: bytes.NewReader(data), Stdout: slow}})
		if code != 0 || err != nil || !bytes.Equal(sum.Sum(nil), hash(data)) {
			t.Errorf("%s: %d, %v, %d bytes", road, code, err, slow.n)
		}
	}
}

func hash(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

type hesitant struct {
	w io.Writer
	n int
}

func (h *hesitant) Write(p []byte) (int, error) {
	if h.n += len(p); h.n%5 == 0 {
		time.Sleep(time.Millisecond)
	}
	return h.w.Write(p)
}

// A command's output waits for a client that does not read; it does not pile up.
func TestExecOutputWaitsForItsReader(t *testing.T) {
	var mu sync.Mutex
	written := 0
	for road, c := range roads(t, func(ctx context.Context, s *ExecSession) (int, error) {
		for ctx.Err() == nil {
			n, err := s.Stdout.Write(make([]byte, 32<<10))
			if err != nil {
				return -1, err
			}
			mu.Lock()
			written += n
			mu.Unlock()
		}
		return -1, ctx.Err()
	}) {
		mu.Lock()
		written = 0
		mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		block := make(chan struct{})
		go func() {
			_, err := c.Exec(ctx, "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"yes"}}, ClientStreams: ClientStreams{Stdout: writerFunc(func(p []byte) (int, error) { <-block; return len(p), nil })}})
			done <- err
		}()
		steady := func() int { mu.Lock(); defer mu.Unlock(); return written }
		last := -1
		await(t, "the output to stand still", func() bool {
			now := steady()
			same := now == last && now > 0
			last = now
			time.Sleep(100 * time.Millisecond)
			return same
		})
		if last > 64<<20 {
			t.Errorf("%s: %d bytes were taken for a client that reads nothing", road, last)
		}
		cancel()
		close(block)
		if err := <-done; err == nil {
			t.Errorf("%s: no error for a command that was cut off", road)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The client goes while the command does not read its stdin, and much more is waiting: the command must end.
func TestExecEndsWithItsClientWhateverTheCommandDoes(t *testing.T) {
	for what, stdin := range map[string]func() io.Reader{
		"no stdin":           func() io.Reader { return nil },
		"stdin that is idle": func() io.Reader { r, _ := io.Pipe(); return r },
		"stdin without end":  func() io.Reader { return &endless{n: 1 << 40} },
		"stdin at its end":   func() io.Reader { return strings.NewReader("") },
	} {
		started, ended := make(chan struct{}, 1), make(chan struct{}, 1)
		for road, c := range roads(t, func(ctx context.Context, _ *ExecSession) (int, error) {
			started <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return -1, ctx.Err()
		}) {
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			in := stdin()
			go func() {
				defer close(done)
				_, _ = c.Exec(ctx, "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"sleep"}}, ClientStreams: ClientStreams{Stdin: in}})
			}()
			<-started
			time.Sleep(20 * time.Millisecond) // for the window to fill
			cancel()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatalf("%s, %s: the command goes on without its client", road, what)
			}
			<-done
			if p, ok := in.(*io.PipeReader); ok {
				_ = p.Close()
			}
		}
	}
}

func TestExecEndsWithTheServer(t *testing.T) {
	started := make(chan struct{})
	o := newMachine(t, "O", &script{owner: "self", run: func(ctx context.Context, _ *ExecSession) (int, error) {
		close(started)
		<-ctx.Done()
		return -1, ctx.Err()
	}})
	c := o.client(Operator)
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"sleep"}}})
		done <- err
	}()
	<-started
	o.stop() // waits for the request
	if err := <-done; !errors.Is(err, job.Unavailable) && !errors.Is(err, job.Internal) {
		t.Errorf("the client is told %v", err)
	}
}

// A command that ends while its client still sends: the exit code must not be lost to a reset.
func TestExecTellsTheCodeToAClientThatStillSends(t *testing.T) {
	for road, c := range roads(t, func(_ context.Context, s *ExecSession) (int, error) {
		_, _ = io.ReadFull(s.Stdin, make([]byte, 10))
		return 7, nil
	}) {
		for range 5 {
			if code, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"head"}}, ClientStreams: ClientStreams{Stdin: &endless{n: 1 << 40}}}); code != 7 || err != nil {
				t.Errorf("%s: %d, %v", road, code, err)
			}
		}
	}
}

func TestExecDoesNotTakeHalfOfTheInputForTheWhole(t *testing.T) {
	for road, c := range roads(t, func(_ context.Context, s *ExecSession) (int, error) {
		_, err := io.ReadAll(s.Stdin)
		if err == nil {
			t.Error("the command saw a regular end of its input")
		}
		return -1, err
	}) {
		broken := io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { return 0, errors.New("disk failed") }))
		if _, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"cat"}}, ClientStreams: ClientStreams{Stdin: broken}}); err == nil || !strings.Contains(err.Error(), "disk failed") {
			t.Errorf("%s: %v", road, err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestExecPassesOnTheSizeOfTheTerminal(t *testing.T) {
	for road, c := range roads(t, func(ctx context.Context, s *ExecSession) (int, error) {
		if first := <-s.Resize; first != (Size{24, 80}) || !s.TTY {
			return 1, nil
		}
		fmt.Fprint(s.Stdout, "ready")
		for size := range s.Resize { // closed when the client is gone
			if size == (Size{50, 132}) {
				return 0, nil
			}
		}
		return 2, nil
	}) {
		resize := make(chan Size, 10)
		out := writerFunc(func(p []byte) (int, error) {
			for i := range 10 {
				resize <- Size{uint16(41 + i), 132} // only the last counts
			}
			return len(p), nil
		})
		code, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"sh"}, TTY: true, Size: &Size{24, 80}}, ClientStreams: ClientStreams{Stdout: out, Resize: resize}})
		if code != 0 || err != nil {
			t.Errorf("%s: %d, %v", road, code, err)
		}
	}
}

// upgraded speaks the protocol by hand.
func upgraded(t *testing.T, run func(context.Context, *ExecSession) (int, error)) (net.Conn, *bufio.Reader) {
	t.Helper()
	m := newMachine(t, "A", &script{owner: "self", run: run})
	conn, err := net.Dial("unix", m.serve(func(net.Conn) Caller { return Caller{Access: Operator} }, "unix"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "POST /v1/tasks/t/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", execProtocol)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %+v, %v", resp, err)
	}
	return conn, in
}

func exitOf(t *testing.T, in io.Reader) execExit {
	t.Helper()
	for {
		kind, payload, err := readFrame(in)
		if err != nil {
			t.Fatalf("no exit frame: %v", err)
		}
		if kind == frameExit {
			var e execExit
			if err := json.Unmarshal(payload, &e); err != nil {
				t.Fatal(err)
			}
			return e
		}
	}
}

func TestExecRefusesClientsThatBreakTheRules(t *testing.T) {
	for what, frames := range map[string]func(*frameWriter){
		"another frame first":    func(f *frameWriter) { _ = f.write(frameStdin, []byte("x")) },
		"a request that is none": func(f *frameWriter) { _ = f.write(frameStart, []byte("[")) },
		"no command":             func(f *frameWriter) { _ = f.writeJSON(frameStart, ExecRequest{}) },
		"a frame too large": func(f *frameWriter) {
			_, _ = f.w.Write(binary.BigEndian.AppendUint32([]byte{frameStart}, maxFrameBytes+1))
		},
	} {
		conn, in := upgraded(t, func(context.Context, *ExecSession) (int, error) { t.Errorf("%s: it was run", what); return 0, nil })
		frames(&frameWriter{w: conn})
		if e := exitOf(t, in); e.Error == nil || e.Error.Kind != job.Invalid || e.Code != -1 {
			t.Errorf("%s: %+v", what, e)
		}
	}
}

func TestExecCutsOffAClientThatFloodsStdin(t *testing.T) {
	cut := make(chan struct{})
	conn, _ := upgraded(t, func(ctx context.Context, _ *ExecSession) (int, error) { <-ctx.Done(); close(cut); return -1, ctx.Err() })
	f := &frameWriter{w: conn}
	_ = f.writeJSON(frameStart, ExecRequest{Args: []string{"x"}, Input: true})
	for range stdinWindow/maxFrameBytes + 2 { // more than the window, without leave
		if f.write(frameStdin, make([]byte, maxFrameBytes)) != nil {
			break
		}
	}
	select {
	case <-cut:
	case <-time.After(20 * time.Second):
		t.Error("the flood is taken")
	}
}

func TestExecNeedsAnUpgrade(t *testing.T) {
	c := newMachine(t, "A", &script{owner: "self"}).client(Operator)
	r, _ := http.NewRequest("POST", "http://shoal/v1/tasks/t/exec", nil)
	if code, body := status(t, c, r); code != http.StatusBadRequest || !strings.Contains(body, execProtocol) {
		t.Errorf("%d %s", code, body)
	}
}

func TestStdinBufferKeepsItsBoundAndGivesAllCreditBack(t *testing.T) {
	given := 0
	b := newStdinBuffer(func(n int) { given += n })
	if b.add(make([]byte, stdinWindow)) != nil {
		t.Fatal("a whole window is refused")
	}
	if b.add([]byte{1}) == nil {
		t.Fatal("more than the window is taken")
	}
	for read := 0; read < stdinWindow; {
		n, err := b.Read(make([]byte, 100_000))
		if err != nil {
			t.Fatal(err)
		}
		read += n
	}
	// A client with less than a quarter of the window withheld can always go on.
	if given < stdinWindow*3/4 || given > stdinWindow {
		t.Errorf("credit of %d for %d bytes read", given, stdinWindow)
	}
	b.finish(io.EOF)
	b.finish(io.ErrUnexpectedEOF)
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	var good bytes.Buffer
	_ = (&frameWriter{w: &good}).write(frameStdin, []byte("x"))
	f.Add(good.Bytes())
	f.Add([]byte{frameExit, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		defer frugal.Watch(t)()
		kind, payload, err := readFrame(bytes.NewReader(in))
		if err != nil {
			return
		}
		var back bytes.Buffer
		if err := (&frameWriter{w: &back}).write(kind, payload); err != nil || !bytes.HasPrefix(in, back.Bytes()) {
			t.Errorf("%x was read as %q %x", in, kind, payload)
		}
	})
}

// FuzzExecClient lets anything follow a good start: the server never waits for the process, and never holds more than a
// window.
func FuzzExecClient(f *testing.F) {
	var good bytes.Buffer
	w := &frameWriter{w: &good}
	_ = w.writeJSON(frameStart, ExecRequest{Args: []string{"x"}, Input: true})
	_ = w.write(frameStdin, []byte("data"))
	_ = w.writeJSON(frameResize, Size{1, 2})
	_ = w.write(frameEOF, nil)
	f.Add(good.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		defer frugal.Watch(t)()
		s, pump, err := readStart(bufio.NewReader(bytes.NewReader(in)), &frameWriter{w: io.Discard}, &ExecRequest{})
		if err != nil {
			if job.KindOf(err) != job.Invalid {
				t.Errorf("%v is not invalid", err)
			}
			return
		}
		pump()
		if s.Stdin != nil {
			if n, _ := io.Copy(io.Discard, s.Stdin); n > stdinWindow {
				t.Errorf("%d bytes were held", n)
			}
		}
		for range s.Resize {
		}
	})
}

func FuzzDecodeSubmit(f *testing.F) {
	f.Add([]byte(`{"spec":{"name":"x","services":[{"name":"web","image":"a"}]}}`), true)
	f.Add([]byte(`{"ifVersion":-1}`), false)
	f.Fuzz(func(t *testing.T, body []byte, person bool) {
		defer frugal.Watch(t)()
		r, _ := http.NewRequest("PUT", "http://shoal/v1/jobs/x", bytes.NewReader(body))
		c := Caller{Access: Operator}
		if !person {
			c = Caller{Access: NodeOnly, Node: "n"}
		}
		var req SubmitRequest
		if err := decode(r.WithContext(WithCaller(context.Background(), c)), maxJobBytes, &req); err != nil {
			if job.KindOf(err) != job.Invalid {
				t.Errorf("%v is not invalid", err)
			}
			return
		}
		req.Spec.Normalize()
		_ = req.Spec.Validate() // must not panic
	})
}

func FuzzReadError(f *testing.F) {
	f.Add(404, []byte(`{"kind":"not-found","message":"x"}`))
	f.Add(502, []byte(`<html>`))
	f.Add(500, []byte(`{"kind":"teapot","message":"x"}`))
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		defer frugal.Watch(t)()
		r, _ := http.NewRequest("GET", "http://shoal/x", nil)
		err := readError(&http.Response{StatusCode: code, Status: fmt.Sprint(code), Body: io.NopCloser(bytes.NewReader(body)), Request: r})
		if err == nil || err.Error() == "" || httpStatus[job.KindOf(err)] == 0 {
			t.Errorf("status %d %q became %v of kind %q", code, body, err, job.KindOf(err))
		}
	})
}

func TestDetachedWorkGoesOn(t *testing.T) {
	ended := make(chan error, 1)
	for road, c := range roads(t, func(ctx context.Context, s *ExecSession) (int, error) {
		if s.Free() {
			t.Error("it is free from the beginning")
		}
		if s.Detach {
			s.Release()
		}
		defer func() {
			if !s.Free() {
				t.Error("it is not free in the end")
			}
		}()
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
		ended <- ctx.Err()
		return 0, nil
	}) {
		if code, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"x"}, Detach: true}}); code != 0 || err != nil {
			t.Errorf("%s: %d, %v", road, code, err)
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: the work was ended: %v", road, err)
		}
		leave := make(chan struct{})
		time.AfterFunc(20*time.Millisecond, func() { close(leave) })
		_, err := c.Exec(context.Background(), "t", &ClientExec{ExecRequest: ExecRequest{Args: []string{"x"}}, ClientStreams: ClientStreams{Detach: leave}})
		if !errors.Is(err, ErrDetached) {
			t.Errorf("%s: %v, want detached", road, err)
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: the work of one who left was ended: %v", road, err)
		}
	}
}
