package fake_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/runtime"
	"shoal/runtime/fake"
)

func inBubble(t *testing.T, cfg fake.Config, f func(t *testing.T, ctx context.Context, rt *fake.Runtime)) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(cfg)
		defer rt.Close()
		f(t, t.Context(), rt)
	})
}

func run(t *testing.T, rt *fake.Runtime, id runtime.ID, command ...string) {
	t.Helper()
	if _, err := rt.Create(t.Context(), runtime.Spec{ID: id, Image: "web", Command: command}); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

var present = fake.Config{Images: map[string]fake.Image{"web": {}}}

func TestPullOfAbsentImageTakesItsTime(t *testing.T) {
	inBubble(t, fake.Config{Images: map[string]fake.Image{"web": {Absent: true, PullDelay: time.Minute}}},
		func(t *testing.T, ctx context.Context, rt *fake.Runtime) {
			_, err := rt.Create(ctx, runtime.Spec{ID: "a", Image: "web"})
			if !errors.Is(err, runtime.ErrNotFound) {
				t.Errorf("create before the pull: %v", err)
			}
			begin := time.Now()
			for range 2 {
				if _, err := rt.Pull(ctx, "web", nil); err != nil {
					t.Error(err)
				}
			}
			if d := time.Since(begin); d != time.Minute {
				t.Errorf("two pulls took %v, want one minute for the first", d)
			}
			run(t, rt, "a")
		})
}

func TestFailNextFailsSoManyCalls(t *testing.T) {
	inBubble(t, present, func(t *testing.T, ctx context.Context, rt *fake.Runtime) {
		rt.FailNext(fake.CallStart, "a", 2, runtime.ErrBusy)
		rt.FailNext(fake.CallStart, "other", 1, runtime.ErrNoSpace)
		if _, err := rt.Create(ctx, runtime.Spec{ID: "a", Image: "web"}); err != nil {
			t.Fatal(err)
		}
		var got []bool
		for range 3 {
			_, err := rt.Start(ctx, "a")
			got = append(got, errors.Is(err, runtime.ErrBusy))
		}
		if !slices.Equal(got, []bool{true, true, false}) {
			t.Errorf("failed: %v", got)
		}
		if want := []string{"create a", "start a", "start a", "start a"}; !slices.Equal(rt.Calls(), want) {
			t.Errorf("calls %v, want %v", rt.Calls(), want)
		}
	})
}

func TestScriptedEnds(t *testing.T) {
	inBubble(t, present, func(t *testing.T, ctx context.Context, rt *fake.Runtime) {
		run(t, rt, "a")
		run(t, rt, "b")
		if !rt.Exit("a", 42) || !rt.OOM("b") || rt.Exit("a", 1) {
			t.Error("scripted ends do not tell whether it ran")
		}
		a, _ := rt.Inspect(ctx, "a")
		b, _ := rt.Inspect(ctx, "b")
		if a.ExitCode != 42 || a.OOMKilled || b.ExitCode != 137 || !b.OOMKilled {
			t.Errorf("ended as %+v and %+v", a, b)
		}
	})
}

func TestPowerCutAndCrash(t *testing.T) {
	inBubble(t, present, func(t *testing.T, ctx context.Context, rt *fake.Runtime) {
		run(t, rt, "a")
		rt.PowerCut()
		if in, err := rt.Inspect(ctx, "a"); err != nil || in.State != runtime.Stopped || in.Error == "" {
			t.Errorf("after a power cut: %+v, %v", in, err)
		}
		if _, err := rt.Start(ctx, "a"); err != nil {
			t.Error(err)
		}
		rt.Crash()
		if infos, err := rt.List(ctx); err != nil || len(infos) != 0 {
			t.Errorf("after a crash: %v, %v", infos, err)
		}
	})
}

func TestHealthAndExecHook(t *testing.T) {
	inBubble(t, present, func(t *testing.T, ctx context.Context, rt *fake.Runtime) {
		run(t, rt, "a")
		exec := func(args ...string) (int, string) {
			var out strings.Builder
			code, err := rt.Exec(ctx, "a", runtime.Exec{Args: args, Stdout: &out})
			if err != nil {
				t.Error(err)
			}
			return code, out.String()
		}
		rt.Health("a", 3, "sick")
		if code, out := exec("sh", "-c", "check"); code != 3 || out != "sick\n" {
			t.Errorf("check: %d, %q", code, out)
		}
		rt.OnExec(func(_ runtime.ID, args []string) (int, string, bool) { return 5, "hooked", args[0] == "curl" })
		if code, out := exec("curl"); code != 5 || out != "hooked" {
			t.Errorf("hook: %d, %q", code, out)
		}
		if code, _ := exec("true"); code != 0 {
			t.Errorf("past the hook: %d", code)
		}
	})
}

func TestSlowReaderIsToldThatEventsAreLost(t *testing.T) {
	inBubble(t, present, func(t *testing.T, ctx context.Context, rt *fake.Runtime) {
		ctx, cancel := context.WithCancel(ctx)
		evs := rt.Events(ctx)
		run(t, rt, "a", "true")
		for range 300 {
			synctest.Wait()
			if _, err := rt.Start(ctx, "a"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		lost := false
		for range 10 {
			lost = lost || (<-evs).Kind == runtime.EventLost
		}
		if !lost {
			t.Error("600 events in nobody's hand, and none of the first ten read says so")
		}
		cancel()
		for range evs { // must end
		}
	})
}
