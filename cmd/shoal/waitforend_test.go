package main

import (
	"strings"
	"testing"

	"shoal/consensus/job"
)

func TestWaitTellsOfATaskThatIsRemoved(t *testing.T) {
	cl := logCluster()
	three := 3
	cl.tasks[2].Status = &job.Status{State: job.Failed, ExitCode: &three}
	cl.onWait = func() { _ = cl.RemoveJob(t.Context(), "web") }
	socket := cl.serve(t)
	code, out, errs := shoal(t, socket, "wait web")
	if code != exitFailed || out != "removed\nremoved\n3\n" || !strings.Contains(errs, "web/front.1, web/front.2: removed") {
		t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
	}
}

func TestWaitPrintsTheExitCodes(t *testing.T) {
	cl := logCluster()
	zero, four := 0, 4
	cl.onWait = func() {
		cl.change(func() { cl.tasks[0].Status = &job.Status{State: job.Complete, ExitCode: &zero} })
		cl.change(func() { cl.tasks[1].Status = &job.Status{State: job.Failed, ExitCode: &four} })
	}
	socket := cl.serve(t)
	if code, out, errs := shoal(t, socket, "wait web/front"); code != 0 || out != "0\n4\n" || errs != "" {
		t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
	}
}
