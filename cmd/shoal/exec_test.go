package main

import (
	"fmt"
	"io"
	"testing"

	"shoal/consensus/job"
	"shoal/node/api"
)

func TestExecPassesAllThroughAndEndsWithTheCommandsCode(t *testing.T) {
	cl := newCluster()
	var got api.ExecRequest
	cl.onExec = func(s *api.ExecSession) (int, error) {
		got = s.ExecRequest
		in, _ := io.ReadAll(s.Stdin)
		fmt.Fprintf(s.Stdout, "out %s", in)
		fmt.Fprint(s.Stderr, "err")
		return 42, nil
	}
	code, out, errs := shoalIn(t, t.Context(), cl.serve(t), "hello", "exec -ie A=1,2 -w /tmp web/front.1 sh -c --json")
	if code != 42 || out != "out hello" || errs != "err" {
		t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
	}
	if want := "[sh -c --json] [A=1,2] /tmp"; fmt.Sprint(got.Args, got.Env, " ", got.WorkingDir) != want {
		t.Errorf("the node was asked for %v %v %s, want %s", got.Args, got.Env, got.WorkingDir, want)
	}
}

func TestExecThatCannotBeginSaysWhy(t *testing.T) {
	cl := newCluster()
	cl.onExec = func(*api.ExecSession) (int, error) { return -1, job.Errorf(job.NotFound, "task x has no container") }
	if code, _, errs := shoal(t, cl.serve(t), "exec x true"); code != exitNotFound || errs != "shoal: task x has no container\n" {
		t.Errorf("code %d, stderr %q", code, errs)
	}
}
