package container_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal/runtime"
)

// A reader that takes nothing holds a container back for a while, never for good; the log has all of it.
func TestAttachedReaderThatTakesNothingDoesNotStopAContainer(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	const bytesOut = 9_000_000 // more than what is kept for a reader, and less than the log's limit
	sp := runtime.Spec{ID: "flood", Name: "flood", Image: testImage, Command: []string{"sh", "-c", "read go; /bin/busybox seq 10000001 11000000; sleep 100"},
		Stdin: true, Log: runtime.LogLimits{MaxBytes: 64 << 20, MaxFiles: 2}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := r.rt.Create(ctx, sp); err != nil {
		t.Fatal(err)
	}
	defer r.rt.Remove(context.Background(), sp.ID)
	if _, err := r.rt.Start(ctx, sp.ID); err != nil {
		t.Fatal(err)
	}
	stuck := make(chan struct{})
	var late bytes.Buffer
	entered := make(chan struct{}, 1)
	attachCtx, leave := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = r.rt.Attach(attachCtx, sp.ID, runtime.Attach{Stdin: strings.NewReader("go\n"), Stdout: writerFunc(func(p []byte) (int, error) {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-stuck
			return late.Write(p)
		}), Stderr: io.Discard})
	}()
	select {
	case <-entered:
	case <-ctx.Done():
		t.Fatal("no output came")
	}
	want := "11000000"
	end := time.Now().Add(time.Minute)
	for {
		last := ""
		err := r.rt.Logs(ctx, sp.ID, runtime.LogQuery{Tail: 1}, func(l runtime.LogLine) error { last = string(l.Text); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if last == want {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the container is still held back at line %q", last)
		}
		time.Sleep(200 * time.Millisecond)
	}
	close(stuck)
	time.Sleep(500 * time.Millisecond)
	leave()
	<-ended
	if late.Len() < runtime.KeptOutput/2 || late.Len() > bytesOut {
		t.Errorf("the reader got %d bytes in the end", late.Len())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// hostile archives and containers: nothing outside is made, changed or shown.
func TestCopyDoesNotLeaveTheContainer(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	links := "ln -s " + outside + " /tmp/abs; ln -s " + up[:len(up)-1] + outside + " /tmp/rel; ln -s /proc/1/root" + outside + " /tmp/magic; ln -s /proc/self/root" + outside + " /tmp/self; "
	for _, state := range []string{"running", "stopped"} {
		t.Run(state, func(t *testing.T) {
			sp := runtime.Spec{ID: runtime.ID("hostile-" + state), Name: "h", Image: testImage, Command: []string{"sh", "-c", links + "touch /tmp/ready; exec sleep 100"}}
			if state == "stopped" {
				sp.Command[2] = links + "touch /tmp/ready"
			}
			if _, err := r.rt.Create(ctx, sp); err != nil {
				t.Fatal(err)
			}
			defer r.rt.Remove(context.Background(), sp.ID)
			if _, err := r.rt.Start(ctx, sp.ID); err != nil {
				t.Fatal(err)
			}
			for {
				_, err := r.rt.StatPath(ctx, sp.ID, "/tmp/ready")
				in, ierr := r.rt.Inspect(ctx, sp.ID)
				if err == nil && ierr == nil && (state == "running" || in.State == runtime.Stopped) {
					break
				}
				if ctx.Err() != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			for _, link := range []string{"abs", "rel", "magic", "self"} {
				var out bytes.Buffer
				err := r.rt.CopyOut(ctx, sp.ID, runtime.CopyOut{Path: "/tmp/" + link + "/secret", Follow: true}, &out)
				if err == nil || strings.Contains(out.String(), "secret\x00") {
					t.Errorf("%s shows a file of the machine", link)
				}
				_ = r.rt.CopyIn(ctx, sp.ID, runtime.CopyIn{Path: "/tmp/" + link}, tarOf(tar.Header{Name: "made"}))
				_ = r.rt.CopyIn(ctx, sp.ID, runtime.CopyIn{Path: "/tmp"}, tarOf(tar.Header{Name: link + "/made"}))
			}
			for name, a := range map[string][]tar.Header{
				"dots":             {{Name: "../../../../../../../../.." + outside + "/made"}},
				"absolute":         {{Name: outside + "/made"}},
				"hard link out":    {{Name: "l", Typeflag: tar.TypeLink, Linkname: up + outside[1:] + "/secret"}, {Name: "l"}},
				"hard link abs":    {{Name: "l2", Typeflag: tar.TypeLink, Linkname: outside + "/secret"}},
				"device":           {{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1}},
				"block device":     {{Name: "blk", Typeflag: tar.TypeBlock, Devmajor: 8}},
				"link then file":   {{Name: "s", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "s/made"}},
				"link over itself": {{Name: "t", Typeflag: tar.TypeSymlink, Linkname: outside + "/made"}, {Name: "t"}},
				"unknown":          {{Name: "u", Typeflag: 'Z'}},
			} {
				err := r.rt.CopyIn(ctx, sp.ID, runtime.CopyIn{Path: "/tmp"}, tarOf(a...))
				refused := !strings.HasPrefix(name, "link")
				if refused && !errors.Is(err, runtime.ErrInvalid) {
					t.Errorf("%s: %v, want it refused as invalid", name, err)
				}
			}
			for name, data := range map[string][]byte{
				"noise": []byte("this is no archive, and longer than a block of one: " + strings.Repeat("x", 600)), "bad gzip": []byte("\x1f\x8b\x08garbage garbage"),
				"xz": []byte("\xfd7zXZ\x00rest"), "cut": tarOf(tar.Header{Name: "f", Size: 5}).Bytes()[:700],
			} {
				if err := r.rt.CopyIn(ctx, sp.ID, runtime.CopyIn{Path: "/tmp"}, bytes.NewReader(data)); name != "cut" && !errors.Is(err, runtime.ErrInvalid) {
					t.Errorf("%s: %v, want invalid", name, err)
				}
			}
			left, err := os.ReadDir(outside)
			if err != nil || len(left) != 1 {
				t.Fatalf("the machine's directory holds %v, %v", left, err)
			}
			if b, _ := os.ReadFile(filepath.Join(outside, "secret")); string(b) != "secret" {
				t.Fatalf("the machine's file is %q", b)
			}
			limited := r.rt.CopyIn(ctx, sp.ID, runtime.CopyIn{Path: "/tmp", MaxBytes: 3}, tarOf(tar.Header{Name: "large"}))
			if !errors.Is(limited, runtime.ErrInvalid) {
				t.Errorf("more than allowed: %v", limited)
			}
		})
	}
}

// A container that swaps a directory for a link while files are copied into it gains nothing.
func TestCopyWinsNoRace(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	outside := t.TempDir()
	sp := runtime.Spec{ID: "racer", Name: "racer", Image: testImage, Command: []string{"sh", "-c",
		"mkdir -p /tmp/real; ln -s " + outside + " /tmp/link; ln -s /proc/1/root" + outside + " /tmp/link2; while :; do mv -T /tmp/real /tmp/d; mv -T /tmp/d /tmp/real; mv -T /tmp/link /tmp/d; mv -T /tmp/d /tmp/link; done"}}
	if _, err := r.rt.Create(ctx, sp); err != nil {
		t.Fatal(err)
	}
	defer r.rt.Remove(context.Background(), sp.ID)
	if _, err := r.rt.Start(ctx, sp.ID); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		_ = r.rt.CopyIn(ctx, sp.ID, runtime.CopyIn{Path: "/tmp"}, tarOf(tar.Header{Name: "d/made"}))
		_ = r.rt.CopyIn(ctx, sp.ID, runtime.CopyIn{Path: "/tmp/d"}, tarOf(tar.Header{Name: "made"}))
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Fatalf("the machine's directory holds %v, %v", left, err)
	}
}

func tarOf(heads ...tar.Header) *bytes.Buffer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range heads {
		h.Mode = 0o644
		text := ""
		if h.Typeflag == 0 {
			h.Typeflag, text = tar.TypeReg, "hello"
		}
		h.Size = int64(len(text))
		_ = w.WriteHeader(&h) // into memory
		_, _ = io.WriteString(w, text)
	}
	_ = w.Close()
	return &b
}
