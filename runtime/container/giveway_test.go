package container_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/runtime"
	"shoal/runtime/container"
)

// Who reads or sends a copy of a stopped container and stops doing so does not keep it from being started.
func TestAStalledCopyGivesWay(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	fresh := func(t *testing.T, id runtime.ID) {
		t.Helper()
		if _, err := r.rt.Create(t.Context(), runtime.Spec{ID: id, Name: "c", Image: testImage, Command: []string{"sleep", "100"}}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.rt.Remove(context.Background(), id) })
		if err := r.rt.CopyIn(t.Context(), id, runtime.CopyIn{Path: "/tmp"}, tarOf(tar.Header{Name: "f"})); err != nil {
			t.Fatal(err)
		}
	}
	// started waits until the container runs, which must not take as long as the client, who waits for us.
	started := func(t *testing.T, id runtime.ID) {
		t.Helper()
		ended := make(chan error, 1)
		go func() { _, err := r.rt.Start(t.Context(), id); ended <- err }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the copy keeps the container from being started")
		}
	}
	// slow is a client who takes the first piece when he is told to.
	slow := func() (w io.Writer, got *bytes.Buffer, begun, goOn chan struct{}) {
		got, begun, goOn = &bytes.Buffer{}, make(chan struct{}), make(chan struct{})
		first := sync.OnceFunc(func() { close(begun); <-goOn })
		return writerFunc(func(p []byte) (int, error) { first(); return got.Write(p) }), got, begun, goOn
	}

	t.Run("out", func(t *testing.T) {
		defer container.SetCopyPatience(50 * time.Millisecond)()
		fresh(t, "stalled-out")
		w, _, begun, goOn := slow()
		copied := make(chan error, 1)
		go func() { copied <- r.rt.CopyOut(t.Context(), "stalled-out", runtime.CopyOut{Path: "/tmp/f"}, w) }()
		<-begun
		started(t, "stalled-out")
		close(goOn)
		if err := <-copied; !errors.Is(err, runtime.ErrConflict) {
			t.Errorf("the copy ended with %v, not with a conflict", err)
		}
	})
	t.Run("in", func(t *testing.T) {
		defer container.SetCopyPatience(50 * time.Millisecond)()
		fresh(t, "stalled-in")
		from, to := io.Pipe()
		copied := make(chan error, 1)
		go func() { copied <- r.rt.CopyIn(t.Context(), "stalled-in", runtime.CopyIn{Path: "/tmp"}, from) }()
		if _, err := to.Write(tarOf(tar.Header{Name: "g"}).Bytes()[:512]); err != nil {
			t.Fatal(err)
		}
		started(t, "stalled-in")
		if err := <-copied; !errors.Is(err, runtime.ErrConflict) {
			t.Errorf("the copy ended with %v, not with a conflict", err)
		}
	})
	t.Run("to a start alone", func(t *testing.T) {
		defer container.SetCopyPatience(50 * time.Millisecond)()
		fresh(t, "looked-at")
		w, got, begun, goOn := slow()
		copied := make(chan error, 1)
		go func() { copied <- r.rt.CopyOut(t.Context(), "looked-at", runtime.CopyOut{Path: "/tmp/f"}, w) }()
		<-begun
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := r.rt.StatPath(ctx, "looked-at", "/tmp/f"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who only looks is given way: %v", err)
		}
		close(goOn)
		if err := <-copied; err != nil || !strings.Contains(got.String(), "hello") {
			t.Errorf("%q copied, %v", got, err)
		}
	})
	t.Run("wanted no longer", func(t *testing.T) {
		defer container.SetCopyPatience(50 * time.Millisecond)()
		fresh(t, "unwanted")
		w, got, begun, goOn := slow()
		copied := make(chan error, 1)
		go func() { copied <- r.rt.CopyOut(t.Context(), "unwanted", runtime.CopyOut{Path: "/tmp/f"}, w) }()
		<-begun
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := r.rt.Start(ctx, "unwanted"); err == nil {
			t.Fatal("started under a copy")
		}
		time.Sleep(200 * time.Millisecond)
		close(goOn)
		if err := <-copied; err != nil || !strings.Contains(got.String(), "hello") {
			t.Errorf("%q copied, %v", got, err)
		}
	})
	t.Run("soon enough", func(t *testing.T) {
		fresh(t, "soon")
		w, got, begun, goOn := slow()
		copied := make(chan error, 1)
		go func() { copied <- r.rt.CopyOut(t.Context(), "soon", runtime.CopyOut{Path: "/tmp/f"}, w) }()
		<-begun
		ended := make(chan error, 1)
		go func() { _, err := r.rt.Start(t.Context(), "soon"); ended <- err }()
		time.Sleep(100 * time.Millisecond) // it waits by now, or comes later: the same holds
		select {
		case err := <-ended:
			t.Errorf("started under a copy: %v", err)
		default:
		}
		close(goOn)
		if err := errors.Join(<-copied, <-ended); err != nil || !strings.Contains(got.String(), "hello") {
			t.Errorf("%q copied, %v", got, err)
		}
	})
}
