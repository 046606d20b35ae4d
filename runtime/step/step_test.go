package step

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestNothingHappensUnlessArmed(t *testing.T) {
	if err := Reach("a"); err != nil || Reached() != nil {
		t.Errorf("%v %v", err, Reached())
	}
	if n := testing.AllocsPerRun(100, func() { _ = Reach("a") }); n != 0 {
		t.Errorf("a step that is off costs %v allocations", n)
	}
}

func TestPlansHappenAtTheirPass(t *testing.T) {
	called := 0
	plans, err := Parse("a=eio@2; b=1ms@0;c=enospc")
	if err != nil {
		t.Fatal(err)
	}
	defer Arm(append(plans, &Plan{At: "d", Act: Call, Do: func() error { called++; return nil }})...)()
	if err := Reach("a"); err != nil {
		t.Error(err)
	}
	if err := Reach("a"); !errors.Is(err, syscall.EIO) {
		t.Errorf("second pass: %v", err)
	}
	if err := Reach("a"); err != nil {
		t.Errorf("third pass: %v", err)
	}
	if err := Reach("c"); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	before := time.Now()
	for range 2 {
		if err := Reach("b"); err != nil {
			t.Error(err)
		}
		_ = Reach("d")
	}
	if time.Since(before) < 2*time.Millisecond || called != 2 {
		t.Errorf("slept %v, called %d times", time.Since(before), called)
	}
	if r := Reached(); r["a"] != 3 || r["b"] != 2 || r["e"] != 0 {
		t.Errorf("%v", r)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for _, spec := range []string{"a", "a=die", "a=kill@x", "a=kill@-1"} {
		if _, err := Parse(spec); err == nil {
			t.Errorf("%q was taken", spec)
		}
	}
}

// TestAProcessIsKilledAtItsStep runs this test binary again, armed by its environment.
func TestAProcessIsKilledAtItsStep(t *testing.T) {
	if os.Getenv(Env) != "" {
		if err := FromEnv(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_ = Reach("one")
			_ = Reach("two")
		}
		return
	}
	file := filepath.Join(t.TempDir(), "reached")
	cmd := exec.Command(os.Args[0], "-test.run=^TestAProcessIsKilledAtItsStep$")
	cmd.Env = append(os.Environ(), Env+"=two=kill@2", ReachedEnv+"="+file)
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
	b, err := os.ReadFile(file)
	if r := ParseReached(b); err != nil || r["one"] != 1 || r["two"] != 1 {
		t.Errorf("%v %v", r, err)
	}
}
