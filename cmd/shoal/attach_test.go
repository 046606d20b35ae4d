package main

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

func TestAttachEndsWithTheTasksCodeAfterASignalThatItSentOn(t *testing.T) {
	for _, want := range []int{3, 0} {
		cl := logCluster()
		cl.jobs["web"] = &job.Job{Name: "web", Spec: job.Spec{Services: []job.Service{{Name: "front"}}}}
		ctx, cancel := context.WithCancel(t.Context())
		cl.onAttach = func(*api.Streams) (int, error) {
			cancel() // as main's context is by the signal
			return want, nil
		}
		if code, _, errs := shoalIn(t, ctx, cl.serve(t), "", "attach web/front.1"); code != want {
			t.Errorf("code %d, %q, want %d", code, errs, want)
		}
	}
}

// stdinCluster has one task with standard input.
func stdinCluster() *cluster {
	cl := logCluster()
	cl.jobs["web"] = &job.Job{Name: "web", Spec: job.Spec{Services: []job.Service{{Name: "front", Stdin: true}}}}
	return cl
}

func TestAttachingAgainLosesNoInput(t *testing.T) {
	cl := stdinCluster()
	r, w := io.Pipe()
	times := 0
	got := make(chan string, 1)
	cl.onAttach = func(st *api.Streams) (int, error) {
		if times++; times == 1 {
			time.Sleep(100 * time.Millisecond) // so that its client waits for input
			return -1, job.Errorf(job.Unavailable, "the agent ends")
		}
		go func() {
			_, _ = w.Write([]byte("the first line\n"))
			_ = w.Close()
		}()
		b, err := io.ReadAll(st.Stdin)
		got <- string(b)
		return 0, err
	}
	var out, errs output
	if code := run(t.Context(), []string{"shoal", "attach", "web/front.1", "--host", cl.serve(t)}, r, &out, &errs); code != 0 {
		t.Errorf("code %d, %q", code, errs.String())
	}
	if in := <-got; in != "the first line\n" {
		t.Errorf("the task got %q", in)
	}
}

// A half of what was piped in must not pass for the whole.
func TestPipedInputThatMayBeLostEndsAttach(t *testing.T) {
	cl := stdinCluster()
	times := 0
	cl.onAttach = func(st *api.Streams) (int, error) {
		times++
		_, _ = st.Stdin.Read(make([]byte, 3))
		return -1, job.Errorf(job.Unavailable, "the agent ends")
	}
	code, _, errs := shoalIn(t, t.Context(), cl.serve(t), "some input", "attach web/front.1")
	if code != exitUnavailable || !strings.Contains(errs, "standard input") || times != 1 {
		t.Errorf("code %d, %q, attached %d times", code, errs, times)
	}
}

// Also where a container was between two runs: what went to a session that was refused is gone.
func TestPipedInputToASessionThatIsRefusedEndsAttach(t *testing.T) {
	for _, kind := range []job.Kind{job.Conflict, job.NotFound} {
		cl := stdinCluster()
		times, got := 0, ""
		cl.onAttach = func(st *api.Streams) (int, error) {
			if times++; times == 1 {
				time.Sleep(100 * time.Millisecond) // so that its client has sent what there is
				return -1, job.Errorf(kind, "it is not running")
			}
			b, err := io.ReadAll(st.Stdin)
			got = string(b)
			return 0, err
		}
		code, _, errs := shoalIn(t, t.Context(), cl.serve(t), "some input", "attach web/front.1")
		if code == 0 && got != "some input" || code != 0 && !strings.Contains(errs, "standard input") {
			t.Errorf("%v: code %d, %q; the task got %q of it", kind, code, errs, got)
		}
	}
}
