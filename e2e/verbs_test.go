package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"shoal/consensus/job"
	"shoal/e2e/machines"
)

// verbs are what people do with one container, from a node that does not run it.
var verbs = []struct {
	name string
	run  func(*testing.T, *machines.Net)
}{
	{"a run in the foreground is the program", foregroundIsTheProgram},
	{"a run with a terminal", foregroundTerminal},
	{"signals reach a run, and the second kills it", foregroundSignals},
	{"attach from another node, also after the agent was killed", attachAgain},
	{"cp keeps to docker's rules and inside the container", copies},
	{"pause, top, stats, port-forward, inspect, kill and wait", smallVerbs},
}

func TestVerbs(t *testing.T) {
	n := cluster(t, 3)
	for _, m := range n.Machines() {
		loadBusybox(t, m)
	}
	for _, v := range verbs {
		t.Run(v.name, func(t *testing.T) { v.run(t, n) })
	}
}

// awayFrom gives a machine that does not run the task, and the one that does.
func awayFrom(t *testing.T, n *machines.Net, jobName string) (other, owner *machines.Machine) {
	t.Helper()
	list, err := tasks(n.Machines()[0], jobName)
	must(t, err)
	if len(list.Tasks) != 1 {
		t.Fatalf("job %s has %d tasks", jobName, len(list.Tasks))
	}
	for _, m := range n.Machines() {
		if m.Name == list.Tasks[0].NodeName {
			owner = m
		} else {
			other = m
		}
	}
	return other, owner
}

func foregroundIsTheProgram(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	r := m.Shoal("run", "--rm", busyboxImage, "sh", "-c", "echo out; echo err >&2; exit 3")
	if r.Code != 3 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("exit code %d, out %q, err %q", r.Code, r.Stdout, r.Stderr)
	}
	for _, c := range []struct {
		code int
		args []string
	}{
		{0, []string{"true"}}, {127, []string{"/no/such"}}, {126, []string{"/etc"}}, {137, []string{"sh", "-c", "kill -9 $$; sleep 9 & exec kill -9 $!"}},
	}[:3] {
		if r := m.Shoal(append([]string{"run", "--rm", busyboxImage}, c.args...)...); r.Code != c.code {
			t.Errorf("run %v: exit code %d, want %d: %v", c.args, r.Code, c.code, r)
		}
	}
	if r := m.Shoal("run", "--rm", "--node", "nowhere", busyboxImage, "true"); r.Code != 125 || !strings.Contains(r.Stderr, "no node fits") {
		t.Errorf("run on no node: %v", r)
	}
	// All of a long output, and all of a long input, wherever it runs.
	for _, node := range n.Machines() {
		text := strings.Repeat("0123456789abcde\n", 200_000)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		r := m.ShoalContext(ctx, strings.NewReader(text), "run", "--rm", "-i", "--node", node.Name, busyboxImage, "cat")
		cancel()
		if r.Code != 0 || r.Stdout != text {
			t.Errorf("cat on %s gave back %d of %d bytes, exit code %d: %.300s", node.Name, len(r.Stdout), len(text), r.Code, r.Stderr)
		}
	}
	// Without --rm it stays, with its log, and its name is taken.
	r = m.Shoal("run", "--name", "kept", busyboxImage, "echo", "hello")
	if r.Code != 0 || r.Stdout != "hello\n" {
		t.Errorf("kept: %v", r)
	}
	contains(t, shoal(t, n.Machines()[1], "logs", "kept"), "hello")
	if r := m.Shoal("run", "--name", "kept", busyboxImage, "true"); r.Code != 125 || !strings.Contains(r.Stderr, "in use") {
		t.Errorf("the name of another: %v", r)
	}
	shoal(t, m, "rm", "kept")
	eventually(t, "nothing left of --rm", func() error {
		list, err := tasks(m, "")
		if err == nil && len(list.Tasks) > 0 {
			err = fmt.Errorf("there is %s/%s", list.Tasks[0].Job, list.Tasks[0].Name)
		}
		return err
	})
}

// session is a shoal with a terminal.
type session struct {
	t    *testing.T
	cmd  *exec.Cmd
	tty  *os.File
	mu   sync.Mutex
	seen bytes.Buffer
	over chan struct{}
}

func onTerminal(t *testing.T, m *machines.Machine, args ...string) *session {
	t.Helper()
	s := &session{t: t, cmd: exec.Command(binary, append([]string{"--host", m.Socket()}, args...)...), over: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), "TERM=xterm")
	tty, err := pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 33, Cols: 101})
	must(t, err)
	s.tty = tty
	go func() {
		defer close(s.over)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			s.mu.Lock()
			s.seen.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); tty.Close() })
	return s
}

func (s *session) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

func (s *session) expect(text string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%q on the terminal", text), func() error {
		if !strings.Contains(s.text(), text) {
			return fmt.Errorf("it shows %q", s.text())
		}
		return nil
	})
}

func (s *session) typed(text string) {
	s.t.Helper()
	_, err := io.WriteString(s.tty, text)
	must(s.t, err)
}

func (s *session) wantCode(code int) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			s.t.Fatal(err)
		}
		if got := s.cmd.ProcessState.ExitCode(); got != code {
			s.t.Errorf("exit code %d, want %d; the terminal shows %q", got, code, s.text())
		}
	case <-time.After(patience):
		s.t.Fatalf("it has not ended; the terminal shows %q", s.text())
	}
}

func foregroundTerminal(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	s := onTerminal(t, m, "run", "-it", "--name", "term", busyboxImage, "sh")
	s.expect("# ") // a prompt has no newline
	s.typed("stty size; tty; echo $TERM\n")
	s.expect("33 101")
	s.expect("/dev/pts/")
	must(t, pty.Setsize(s.tty, &pty.Winsize{Rows: 44, Cols: 122}))
	eventually(t, "the new size", func() error {
		s.typed("stty size\n")
		if !strings.Contains(s.text(), "44 122") {
			return errors.New(s.text())
		}
		return nil
	})
	s.typed("\x10\x11") // ctrl-p ctrl-q
	s.wantCode(0)
	other, _ := awayFrom(t, n, "term")
	again := onTerminal(t, other, "attach", "--detach-keys", "ctrl-a,d", "term")
	eventually(t, "an answer after attaching again", func() error {
		again.typed("echo ag''ain\n")
		if !strings.Contains(again.text(), "again\r\n") {
			return errors.New(again.text())
		}
		return nil
	})
	again.typed("\x01d")
	again.wantCode(0)
	ex := onTerminal(t, other, "exec", "-it", "term", "sh")
	ex.expect("# ")
	ex.typed("\x03stty size; exit 5\n")
	ex.expect("33 101")
	ex.wantCode(5)
	last := onTerminal(t, m, "attach", "term")
	time.Sleep(100 * time.Millisecond)
	last.typed("exit 6\n")
	last.wantCode(6)
	shoal(t, m, "rm", "term")
}

func foregroundSignals(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	for _, c := range []struct {
		script  string
		signals int
		code    int
	}{
		{"trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done", 1, 9},
		{"trap '' INT; echo ready; while :; do sleep 0.05; done", 2, 137},
	} {
		cmd := exec.Command(binary, "--host", m.Socket(), "run", "--rm", busyboxImage, "sh", "-c", c.script)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		buf := make([]byte, 6)
		_, err = io.ReadFull(out, buf)
		must(t, err)
		for range c.signals {
			must(t, cmd.Process.Signal(syscall.SIGINT))
			time.Sleep(300 * time.Millisecond)
		}
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.code {
			t.Errorf("%s: exit code %d, want %d", c.script, got, c.code)
		}
	}
}

func attachAgain(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	gone(t, m, "echo")
	shoal(t, m, "run", "-d", "-i", "--name", "echo", busyboxImage, "cat")
	eventually(t, "it to run", func() error { return exactly(m, "echo", 1) })
	other, owner := awayFrom(t, n, "echo")
	say := func(text string) {
		t.Helper()
		eventually(t, text, func() error {
			cmd := exec.Command(binary, "--host", other.Socket(), "attach", "echo")
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				return err
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			fmt.Fprintln(in, text)
			got := make([]byte, len(text)+1)
			read := make(chan error, 1)
			go func() { _, err := io.ReadFull(out, got); read <- err }()
			select {
			case err := <-read:
				if err != nil || string(got) != text+"\n" {
					return fmt.Errorf("it said %q, %v", got, err)
				}
				return nil
			case <-time.After(5 * time.Second):
				return errors.New("it says nothing")
			}
		})
	}
	say("one")
	must(t, owner.Signal(syscall.SIGKILL))
	_, _ = owner.AwaitEnd(patience)
	must(t, owner.Start())
	must(t, owner.AwaitReady(patience))
	say("two")
}

func copies(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	gone(t, m, "files")
	shoal(t, m, "run", "-d", "--name", "files", busyboxImage, "sh", "-c", "mkdir -p /var; trap 'exit 0' TERM; while :; do sleep 0.05; done")
	eventually(t, "it to run", func() error { return exactly(m, "files", 1) })
	other, _ := awayFrom(t, n, "files")
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d", "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "d", "f"), []byte("content"), 0o640))
	must(t, os.Symlink("../f", filepath.Join(dir, "d", "sub", "link")))
	// Docker's table: existing and new targets, files and directories, DIR/.
	shoal(t, other, "cp", filepath.Join(dir, "d"), "files:/tmp")
	shoal(t, other, "cp", filepath.Join(dir, "d"), "files:/tmp/new")
	shoal(t, other, "cp", filepath.Join(dir, "d")+"/.", "files:/tmp/new2")
	shoal(t, other, "cp", filepath.Join(dir, "d", "f"), "files:/tmp/g")
	got := shoal(t, other, "exec", "files", "sh", "-c", "cat /tmp/d/f /tmp/new/sub/link /tmp/new2/f /tmp/g; stat -c '%a %u' /tmp/g")
	if got != "contentcontentcontentcontent640 0\n" {
		t.Errorf("copied in: %q", got)
	}
	refuses(t, other, 3, []string{"not there"}, "", "cp", filepath.Join(dir, "d", "f"), "files:/none/x")
	refuses(t, other, 3, nil, "", "cp", "files:/none", dir)
	refuses(t, other, 4, []string{"is a file"}, "", "cp", filepath.Join(dir, "d"), "files:/tmp/g")
	shoal(t, other, "cp", "files:/tmp/d", filepath.Join(dir, "back"))
	if b, err := os.ReadFile(filepath.Join(dir, "back", "sub", "link")); err != nil || string(b) != "content" {
		t.Errorf("copied out: %q, %v", b, err)
	}
	archive := shoal(t, other, "cp", "files:/tmp/d", "-")
	shoalIn(t, other, archive, "cp", "-", "files:/var")
	contains(t, shoal(t, other, "exec", "files", "cat", "/var/d/f"), "content")
	// Links out of the container lead nowhere: /etc of the container, never of the machine.
	mark := filepath.Join(dir, "mark")
	shoal(t, other, "exec", "files", "sh", "-c", "ln -s "+dir+" /tmp/out; ln -s ../../../../../../../../../../"+mark+" /tmp/deep")
	_ = attempt(other, nil, "cp", filepath.Join(dir, "d", "f"), "files:/tmp/out/mark")
	_ = attempt(other, nil, "cp", filepath.Join(dir, "d", "f"), "files:/tmp/deep")
	if _, err := os.Lstat(mark); err == nil {
		t.Error("a link in the container led a copy out of it")
	}
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte("machine's"), 0o600))
	shoal(t, other, "exec", "files", "ln", "-s", secret, "/tmp/peek")
	if r := attempt(other, nil, "cp", "-L", "files:/tmp/peek", "-"); r.Code == 0 || strings.Contains(r.Stdout, "machine's") {
		t.Errorf("a link in the container showed a file of the machine: %v", r)
	}
	contains(t, shoal(t, other, "changes", "files"), "A /tmp/g")
	contains(t, shoal(t, other, "export", "files"), "tmp/d/f")
}

func smallVerbs(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	gone(t, m, "small")
	shoal(t, m, "run", "-d", "--name", "small", "--restart", "no", busyboxImage, "sh", "-c",
		"mkdir /w; echo it-serves > /w/index.html; httpd -p 127.0.0.1:81 -h /w; while :; do sleep 0.05; done")
	eventually(t, "it to run", func() error { return exactly(m, "small", 1) })
	other, owner := awayFrom(t, n, "small")
	contains(t, shoal(t, other, "top", "small"), "httpd -p")
	contains(t, shoal(t, other, "stats", "--no-stream", "small"), "small/small.1")
	contains(t, shoal(t, other, "inspect", "-f", "{{.container.state}} {{.status.state}}", "small/small.1"), "running running")

	cmd := exec.Command(binary, "--host", other.Socket(), "port-forward", "small", "0:81")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line := make([]byte, 256)
	k, err := out.Read(line)
	must(t, err)
	addr := strings.Fields(string(line[:k]))[1]
	eventually(t, "an answer through the forwarded port", func() error {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
		if b, err := io.ReadAll(conn); err != nil || !bytes.Contains(b, []byte("it-serves")) {
			return fmt.Errorf("%q, %v", b, err)
		}
		return nil
	})
	must(t, cmd.Process.Signal(syscall.SIGINT))
	_ = cmd.Wait()

	shoal(t, other, "pause", "small")
	eventually(t, "it to be shown as paused", func() error {
		if r := m.Shoal("ps", "small"); !strings.Contains(r.Stdout, "paused") {
			return errors.New(r.Stdout)
		}
		return nil
	})
	must(t, owner.Signal(syscall.SIGKILL))
	_, _ = owner.AwaitEnd(patience)
	must(t, owner.Start())
	must(t, owner.AwaitReady(patience))
	refuses(t, owner, 4, []string{"paused"}, "", "exec", "small/small.1", "true")
	shoal(t, owner, "unpause", "small")
	shoal(t, owner, "exec", "small/small.1", "true")
	shoal(t, owner, "exec", "-d", "small/small.1", "sh", "-c", "touch /tmp/behind")
	eventually(t, "what was executed in the background", func() error {
		if r := owner.Shoal("exec", "small/small.1", "test", "-e", "/tmp/behind"); r.Code != 0 {
			return r
		}
		return nil
	})

	waiting := exec.Command(binary, "--host", other.Socket(), "wait", "small")
	var codes bytes.Buffer
	waiting.Stdout = &codes
	must(t, waiting.Start())
	shoal(t, other, "kill", "small")
	must(t, waiting.Wait())
	if codes.String() != "137\n" {
		t.Errorf("wait printed %q", codes.String())
	}
	var got []struct{ Status job.Status }
	must(t, json.Unmarshal([]byte(shoal(t, other, "inspect", "small/small.1")), &got))
	if len(got) != 1 || got[0].Status.ExitCode == nil || *got[0].Status.ExitCode != 137 {
		t.Errorf("inspect: %+v", got)
	}
}
