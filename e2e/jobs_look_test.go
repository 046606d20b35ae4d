package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

func jobLogs(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "talk")
	runCompose(t, m[0], "talk", web(`command: [sh, -c, "for i in $$(seq 1 200); do echo line $$i of $$HOSTNAME; done; echo wrong >&2; exec sleep 100000"]`,
		"deploy: { replicas: 3 }"))
	eventually(t, "all lines", func() error {
		if got := strings.Count(shoal(t, m[1], "logs", "talk"), "\n"); got != 603 {
			return fmt.Errorf("%d lines, want 603", got)
		}
		return nil
	})
	for _, m := range m { // from any node, merged, and named when there are several
		out := shoal(t, m, "logs", "talk")
		for _, slot := range []string{"web-1", "web-2", "web-3"} {
			if got := strings.Count(out, " of "+slot+"\n"); got != 200 {
				t.Errorf("%s shows %d lines of %s, want 200", m.Name, got, slot)
			}
		}
		one := shoal(t, m, "logs", "--tail", "3", "talk/web.2")
		if want := "line 199 of web-2\nline 200 of web-2\n"; !strings.HasPrefix(one, want) {
			t.Errorf("the last 3 lines of one task are %q", one)
		}
	}
	if out := shoal(t, m[0], "logs", "--tail", "0", "talk"); out != "" {
		t.Errorf("--tail 0 shows %q", out)
	}
	streams, last := map[string]int{}, time.Time{}
	for line := range strings.Lines(shoal(t, m[2], "logs", "--json", "talk")) {
		var r api.LogRecord
		must(t, json.Unmarshal([]byte(line), &r))
		if r.Time.Before(last) {
			t.Fatalf("merged lines are not in the order of time: %v after %v", r.Time, last)
		}
		streams[r.Stream]++
		last = r.Time
	}
	if streams["stdout"] != 600 || streams["stderr"] != 3 {
		t.Errorf("lines by stream: %v", streams)
	}
	// What is written now is younger than what is there.
	since := last.Add(time.Nanosecond).Format(time.RFC3339Nano)
	if out := shoal(t, m[1], "logs", "--since", since, "talk"); out != "" {
		t.Errorf("--since the last line shows %q", out)
	}
	shoal(t, m[1], "exec", "talk/web.3", "sh", "-c", "echo late > /proc/1/fd/1")
	eventually(t, "the late line", func() error {
		if out := shoal(t, m[1], "logs", "--since", since, "talk/web.3"); out != "late\n" {
			return fmt.Errorf("--since shows %q", out)
		}
		return nil
	})
	refuses(t, m[0], 3, []string{"nobody"}, "", "logs", "nobody")
	refuses(t, m[0], 2, []string{"--since"}, "", "logs", "--since", "yesterday", "talk")
}

// following runs a verb that goes on until it is interrupted, and collects its lines.
type following struct {
	cancel context.CancelFunc
	cmd    *exec.Cmd
	mu     sync.Mutex
	lines  []string
	done   chan struct{}
}

func follow(t *testing.T, m *machines.Machine, args ...string) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{cancel: cancel, done: make(chan struct{})}
	f.cmd = exec.CommandContext(ctx, binary, append([]string{"--host", m.Socket()}, args...)...)
	f.cmd.Cancel = func() error { return f.cmd.Process.Signal(os.Interrupt) }
	f.cmd.WaitDelay = 10 * time.Second
	out, err := f.cmd.StdoutPipe()
	must(t, err)
	must(t, f.cmd.Start())
	go func() {
		defer close(f.done)
		s := bufio.NewScanner(out)
		for s.Scan() {
			f.mu.Lock()
			f.lines = append(f.lines, s.Text())
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() { f.end() })
	return f
}

// end interrupts it as Ctrl-C does and gives its exit code.
func (f *following) end() int {
	f.cancel()
	<-f.done
	_ = f.cmd.Wait()
	return f.cmd.ProcessState.ExitCode()
}

func (f *following) await(t *testing.T, what string) {
	t.Helper()
	pattern := regexp.MustCompile(what)
	eventually(t, "a line like "+what, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, l := range f.lines {
			if pattern.MatchString(l) {
				return nil
			}
		}
		return fmt.Errorf("there are %q", f.lines)
	})
}

func jobLogsFollow(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "stream")
	runCompose(t, m[0], "stream", web(`command: [sh, -c, "echo hello from $$HOSTNAME; exec sleep 100000"]`))
	f := follow(t, m[1], "logs", "-f", "stream")
	f.await(t, "hello from web-1")
	shoal(t, m[2], "exec", "stream/web.1", "sh", "-c", "echo more > /proc/1/fd/1")
	f.await(t, "more")
	shoal(t, m[2], "scale", "stream/web=2") // new tasks are followed as they come
	f.await(t, "hello from web-2")
	if code := f.end(); code != 0 && code != 130 {
		t.Errorf("after Ctrl-C it ended with %d", code)
	}
	if got := strings.Count(strings.Join(f.lines, "\n"), "hello from web-1"); got != 1 {
		t.Errorf("a line came %d times: %q", got, f.lines)
	}
}

func jobExec(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "shell")
	runCompose(t, m[0], "shell", web("environment: { FROM: spec }", "working_dir: /tmp"))
	k := slots(t, m[0], "shell")["web.1"]
	for _, m := range m { // also from those that do not run it
		if r := attempt(m, nil, "exec", "shell/web.1", "sh", "-c", "echo out; echo err >&2; exit 7"); r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
			t.Errorf("from %s: %v", m.Name, r)
		}
		big := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10) // 1 MiB there and back
		if r := attempt(m, bytes.NewReader(big), "exec", "-i", string(k.ID), "cat"); r.Code != 0 || r.Stdout != string(big) {
			t.Errorf("from %s: exit %d, %d of %d bytes came back: %s", m.Name, r.Code, len(r.Stdout), len(big), r.Stderr)
		}
	}
	if got := shoal(t, m[1], "exec", "-e", "MORE=flag", "-w", "/bin", "-u", "nobody", "shell/web.1", "sh", "-c", "echo $FROM $MORE $PWD $(id -u)"); got != "spec flag /bin 65534\n" {
		t.Errorf("environment, directory and user: %q", got)
	}
	if got := shoal(t, m[1], "exec", "shell/web.1", "pwd"); got != "/tmp\n" {
		t.Errorf("it runs in %q", got)
	}
	if r := attempt(m[2], nil, "exec", "shell/web.1", "/no/such/program"); r.Code != 127 || !strings.Contains(r.Stderr, "/no/such/program") {
		t.Errorf("a program that does not exist: %v", r)
	}
	if r := attempt(m[2], nil, "exec", "shell/web.1", "sh", "-c", "kill -9 $$"); r.Code != 137 {
		t.Errorf("a command that was killed: %v", r)
	}
	refuses(t, m[2], 3, []string{"web.9"}, "", "exec", "shell/web.9", "true")
}

func jobExecTerminal(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "terminal")
	runCompose(t, m[0], "terminal", web())
	k := slots(t, m[0], "terminal")["web.1"]
	from := m[0]
	if from.Name == k.NodeName {
		from = m[1]
	}
	cmd := exec.Command(binary, "--host", from.Socket(), "exec", "-it", "terminal/web.1", "sh")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	must(t, err)
	defer tty.Close()
	var mu sync.Mutex
	var screen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			k, err := tty.Read(b)
			mu.Lock()
			screen.Write(b[:k])
			mu.Unlock()
			if err != nil {
				return // EIO when the other end is closed
			}
		}
	}()
	shows := func(text string) {
		t.Helper()
		eventually(t, "the terminal to show "+text, func() error {
			mu.Lock()
			defer mu.Unlock()
			if !strings.Contains(screen.String(), text) {
				return fmt.Errorf("it shows %q", screen.String())
			}
			return nil
		})
	}
	typed := func(text string) {
		_, err := tty.WriteString(text)
		must(t, err)
	}
	typed("stty size; tty\n")
	shows("33 101\r\n")
	shows("/dev/pts/")
	must(t, pty.Setsize(tty, &pty.Winsize{Rows: 44, Cols: 122}))
	eventually(t, "the new size", func() error {
		typed("stty size\n")
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(screen.String(), "44 122\r\n") {
			return fmt.Errorf("it shows %q", screen.String())
		}
		return nil
	})
	typed("sleep 100000\n")
	time.Sleep(100 * time.Millisecond)
	typed("\x03echo after $((40+2))\n") // Ctrl-C ends the sleep, not the shell
	shows("after 42")
	typed("exit 5\n")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("it ended with %v, want exit code 5", err)
	}
	<-done
}

func jobEvents(t *testing.T, n *machines.Net) {
	m := n.Machines()
	gone(t, m[0], "news")
	f := follow(t, m[1], "events", "-f", "--json", "--job", "news")
	runCompose(t, m[2], "news", web())
	f.await(t, `"job-submitted"`)
	f.await(t, `"task-placed"`)
	f.await(t, `"task-state".*"running"`)
	shoal(t, m[0], "rm", "news")
	f.await(t, `"job-removed"`)
	if code := f.end(); code != 0 {
		t.Errorf("after Ctrl-C it ended with %d", code)
	}
	var last uint64
	for _, l := range f.lines {
		var e job.Event
		must(t, json.Unmarshal([]byte(l), &e))
		if e.Index < last || e.Job != "news" {
			t.Errorf("event %s of job %q at index %d after %d", e.Kind, e.Job, e.Index, last)
		}
		last = e.Index
	}
	contains(t, shoal(t, m[0], "events", "--job", "news"), "job-submitted", "news/web", "on m")
}
