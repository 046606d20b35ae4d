package container_test

import (
	"testing"

	"shoal/runtime"
)

func TestExitCodeIsReported(t *testing.T) {
	r := newRig(t)
	in := r.shell("one", "exit 7")
	if in.State != runtime.Running || in.PID == 0 {
		t.Errorf("after start: %+v", in)
	}
	if in := r.stopped("one"); in.ExitCode != 7 {
		t.Errorf("exit code %d, want 7 (%+v)", in.ExitCode, in)
	}
	if err := r.rt.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
}
