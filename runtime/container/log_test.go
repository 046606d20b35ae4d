package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/runtime"
)

func TestLogIsBoundedAndInOrder(t *testing.T) {
	r := newRig(t)
	const limit, files = 4096, 3
	r.run(runtime.Spec{
		ID: "chatty", Command: []string{"sh", "-c", "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done"},
		Log: runtime.LogLimits{MaxBytes: limit, MaxFiles: files},
	})
	r.stopped("chatty")
	dir := filepath.Join(r.dir, "containers/chatty/log")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != files {
		t.Errorf("%d log files, want %d (%v)", len(entries), files, err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err != nil || fi.Size() > limit {
			t.Errorf("%s has %d bytes, want at most %d", e.Name(), fi.Size(), limit)
		}
	}
	got := r.lines("chatty", runtime.LogQuery{})
	if len(got) < 100 {
		t.Fatalf("only %d lines are kept", len(got))
	}
	for i, l := range got {
		if want := fmt.Sprint("line ", 1000-len(got)+i); l != want {
			t.Fatalf("line %d is %q, want %q", i, l, want)
		}
	}
	for _, n := range []int{1, 2, 50, len(got), len(got) + 5} {
		want := got[max(0, len(got)-n):]
		if tail := r.lines("chatty", runtime.LogQuery{Tail: n}); !slices.Equal(tail, want) {
			t.Errorf("tail %d brings %d lines, first %q, want %d, first %q", n, len(tail), tail[0], len(want), want[0])
		}
	}
}

func TestFollowAcrossRotationLosesNothing(t *testing.T) {
	r := newRig(t)
	const lines = 3000
	r.create(runtime.Spec{
		ID: "rotating", Command: []string{"sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done", lines)},
		Log: runtime.LogLimits{MaxBytes: 8192, MaxFiles: 50},
	})
	done := make(chan error, 1)
	n := 0
	go func() {
		done <- r.rt.Logs(t.Context(), "rotating", runtime.LogQuery{Follow: true}, func(l runtime.LogLine) error {
			if want := fmt.Sprint("line ", n); string(l.Text) != want {
				return fmt.Errorf("got %q, want %q", l.Text, want)
			}
			if n++; n == lines {
				return errEnough
			}
			return nil
		})
	}()
	if _, err := r.rt.Start(t.Context(), "rotating"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != errEnough {
		t.Errorf("after %d lines: %v", n, err)
	}
}

var errEnough = fmt.Errorf("enough")

func TestLongAndUnfinishedLines(t *testing.T) {
	r := newRig(t)
	// 40000 bytes, a line of exactly 16 KiB, an empty line, and one without its newline.
	r.shell("long", "head -c 40000 /dev/zero | tr '\\0' a; echo; head -c 16384 /dev/zero | tr '\\0' b; echo; echo; printf end")
	r.stopped("long")
	var got []string
	err := r.rt.Logs(t.Context(), "long", runtime.LogQuery{}, func(l runtime.LogLine) error {
		text := string(l.Text)
		if len(text) > 10 {
			text = fmt.Sprint(text[:1], len(text))
		}
		got = append(got, fmt.Sprintf("%s/%v", text, l.Partial))
		return nil
	})
	want := []string{"a16384/true", "a16384/true", "a7232/false", "b16384/false", "/false", "end/false"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v (%v), want %v", got, err, want)
	}
}

// A full disk costs log lines and says so; it neither blocks the container nor hides its exit code.
func TestFullDisk(t *testing.T) {
	r := newRig(t)
	r.close()
	dir := filepath.Join(r.dir, "containers")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.run(runtime.Spec{
		ID: "full", Command: []string{"sh", "-c", "trap 'echo after; exit 9' USR1; i=0; while [ $i -lt 30000 ]; do echo a line that says little $i; i=$((i+1)); done; echo > /dev/shm/done; while :; do sleep 0.05; done"},
		Log: runtime.LogLimits{MaxBytes: 100 << 20},
	})
	r.eventually("through", func() bool { _, code := r.exec("full", "test", "-e", "/dev/shm/done"); return code == 0 })
	before := r.lines("full", runtime.LogQuery{})
	if len(before) == 30000 {
		t.Fatal("the disk was not full")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=2m"); err != nil {
		t.Fatal(err)
	}
	if err := r.rt.Signal(t.Context(), "full", "USR1"); err != nil {
		t.Fatal(err)
	}
	if in := r.stopped("full"); in.ExitCode != 9 {
		t.Errorf("exit %+v", in)
	}
	got := r.lines("full", runtime.LogQuery{Tail: 2})
	if len(got) != 2 || !strings.Contains(got[0], "the disk was full") || got[1] != "after" {
		t.Errorf("the log goes on with %q", got)
	}
	// Small writes may still have fitted between large ones that did not: every gap has its note.
	kept, lost := 0, 0
	for _, l := range r.lines("full", runtime.LogQuery{}) {
		var n int
		if _, err := fmt.Sscanf(l, "[shoal: %d lines", &n); err == nil {
			lost += n
		} else if strings.HasPrefix(l, "a line") {
			kept++
		}
	}
	if kept+lost != 30000 {
		t.Errorf("%d lines kept and %d told lost, of 30000", kept, lost)
	}

	// Full to the last byte: the exit code still has its place.
	r.run(runtime.Spec{ID: "last", Command: []string{"sh", "-c", "cat /dev/zero > /fill; exit 3"}})
	if in := r.stopped("last"); in.ExitCode != 3 || in.Error != "" {
		t.Errorf("exit on a full disk: %+v", in)
	}
	if _, err := r.rt.Create(t.Context(), runtime.Spec{ID: "more", Name: "more", Image: testImage}); err == nil {
		if _, err = r.rt.Start(t.Context(), "more"); err == nil {
			t.Error("a container starts on a full disk")
		}
	}
	for _, id := range []runtime.ID{"full", "last", "more"} {
		if err := r.rt.Remove(t.Context(), id); err != nil {
			t.Errorf("remove on a full disk: %v", err)
		}
	}
	r.close()
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
	r.open()
}
