//go:build linux

package vm

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// server serves on the loopback, as it does inside of a machine.
func server(t *testing.T) Dialer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = serve(l) }() // ends with the listener
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

// TestRunLendsItself: a program gets the caller's input, and its outputs and exit code come back.
func TestRunLendsItself(t *testing.T) {
	d := server(t)
	in := strings.Repeat("x", 3*frameLimit+1)
	var out, errs bytes.Buffer
	pid := 0
	code, err := d.Run(t.Context(), []string{"sh", "-c", "cat; echo oops >&2; exit 7"}, strings.NewReader(in), &out, &errs, func(p int) { pid = p })
	if err != nil || code != 7 || out.String() != in || errs.String() != "oops\n" || pid == 0 {
		t.Errorf("exit %d, %v, %d bytes of %d, %q, pid %d", code, err, out.Len(), len(in), errs.String(), pid)
	}
	if _, err := d.Run(t.Context(), []string{"/nowhere"}, strings.NewReader(""), &out, &errs, nil); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("a program that is not there: %v", err)
	}
}

// TestProgramEndsWithItsCaller: who is killed on the host leaves nothing running inside.
func TestProgramEndsWithItsCaller(t *testing.T) {
	d := server(t)
	c, r, err := d.ask(t.Context(), Request{Op: opRun, Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	kind, p, err := readFrame(r)
	if err != nil || kind != framePID {
		t.Fatal(kind, err)
	}
	pid, _ := strconv.Atoi(string(p))
	_ = c.Close()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); err != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}

// TestPutAndDialAndList: files arrive whole, connections have half-closes, and processes are told.
func TestPutAndDialAndList(t *testing.T) {
	d := server(t)
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "a", "b", "to")
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := os.WriteFile(from, want, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if err := d.Put(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(to)
	if st, _ := os.Stat(to); err != nil || !bytes.Equal(got, want) || st.Mode().Perm() != 0o755 {
		t.Errorf("%d bytes of %d arrived: %v", len(got), len(want), err)
	}

	echo, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		c, err := echo.Accept()
		if err != nil {
			return
		}
		b, _ := io.ReadAll(c) // until the other end stops writing
		_, _ = c.Write(append(b, '!'))
		_ = c.Close()
	}()
	c, err := d.Dial(t.Context(), "unix", echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("hello"))
	endWriting(c)
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello!" {
		t.Errorf("%q, %v", b, err)
	}
	_ = c.Close()
	if _, err := d.Dial(t.Context(), "unix", "/nowhere"); err == nil {
		t.Error("nobody listens there")
	}

	if took, err := d.Pace(t.Context()); err != nil || took <= 0 {
		t.Errorf("pace %v, %v", took, err)
	}
	all, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.PID == os.Getpid() {
			t.Error("the server lists itself")
		}
	}
}
