package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

const runWeb = "run --name web --replicas 2 example"

func running() *job.Status { return &job.Status{State: job.Running} }

func TestRunEndsWhenTheJobIsHealthy(t *testing.T) {
	cl := newCluster()
	cl.onSubmit = func(cl *cluster, j *job.Job) {
		place(cl, j, nil)
		time.AfterFunc(20*time.Millisecond, func() { cl.change(func() { place(cl, j, &job.Status{State: job.Pulling}) }) })
		time.AfterFunc(40*time.Millisecond, func() { cl.change(func() { place(cl, j, running()) }) })
	}
	code, out, errs := shoal(t, cl.serve(t), runWeb)
	if code != 0 || !strings.Contains(out, "job web: submitted") || !strings.Contains(out, "job web: healthy, 2 of 2 tasks ready") {
		t.Errorf("code %d, out %q", code, out)
	}
	if !strings.Contains(errs, "web: 0/2 ready, 2 placed\n") || !strings.Contains(errs, "web: 2/2 ready\n") || strings.Contains(errs, "\x1b") {
		t.Errorf("progress in a pipe: %q", errs)
	}
}

func TestRunSaysWhatItChanges(t *testing.T) {
	cl := newCluster()
	cl.onSubmit = func(cl *cluster, j *job.Job) { place(cl, j, running()) }
	socket := cl.serve(t)
	shoal(t, socket, runWeb)
	code, out, _ := shoal(t, socket, "run --name web --replicas 3 example")
	if code != 0 || !strings.Contains(out, "job web changes:\n  ~ web: 2 -> 3 replicas\njob web: submitted as version 2\n") {
		t.Errorf("code %d, out %q", code, out)
	}
}

func TestRunTriesAgainWithTheSameKeyWhileThereIsNoLeader(t *testing.T) {
	cl := newCluster()
	cl.refuse = 1
	cl.onSubmit = func(cl *cluster, j *job.Job) { place(cl, j, running()) }
	code, _, errs := shoal(t, cl.serve(t), runWeb)
	if code != 0 || !strings.Contains(errs, "no leader is known; trying again") {
		t.Errorf("code %d, stderr %q", code, errs)
	}
	if len(cl.keys) != 2 || cl.keys[0] != cl.keys[1] {
		t.Errorf("keys of the submits: %q, want two that are equal", cl.keys)
	}
}

func TestRunGivesUpOnAJobWithoutHope(t *testing.T) {
	three := 3
	for name, c := range map[string]struct {
		line string
		st   job.Status
		try  int
		want []string
	}{
		"failed three times": {runWeb, job.Status{State: job.Failed, ExitCode: &three}, 2, []string{"failed 3 times in a row: exit code 3"}},
		"never restarted":    {"run --replicas 1 --name web --restart no example", job.Status{State: job.Failed, ExitCode: &three, OOM: true}, 0, []string{"failed: exit code 3, out of memory, and its restart policy is no"}},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster()
			cl.onSubmit = func(cl *cluster, j *job.Job) {
				place(cl, j, &c.st)
				cl.tasks[0].Attempt = c.try
				cl.logs[cl.tasks[0].ID] = []api.LogRecord{{Text: "cannot open the database"}}
			}
			code, _, errs := shoal(t, cl.serve(t), c.line)
			if code != exitUnhealthy {
				t.Errorf("exit code %d, want %d", code, exitUnhealthy)
			}
			for _, want := range append(c.want, "web/web.1 (task taskweb1 on node a)", "    | cannot open the database\n", "`shoal why taskweb1`", "`shoal rm web`") {
				if !strings.Contains(errs, want) {
					t.Errorf("stderr lacks %q:\n%s", want, errs)
				}
			}
		})
	}
}

func TestRunSaysWhyNothingIsPlacedWhenTimeIsUp(t *testing.T) {
	cl := newCluster()
	cl.onSubmit = func(cl *cluster, _ *job.Job) {
		cl.blocked = []job.Blocked{{Job: "web", Service: "web", Slots: 2, Reason: "no node fits: 1 lacks CPU (want 64)"}}
	}
	code, _, errs := shoal(t, cl.serve(t), "run --timeout 100ms --name web --replicas 2 example")
	if code != exitUnhealthy || !strings.Contains(errs, "did not become healthy in 100ms: 0 of 2 tasks ready\n  2 tasks of web cannot be placed: no node fits: 1 lacks CPU (want 64)") {
		t.Errorf("code %d, stderr %q", code, errs)
	}
}

func TestCtrlCLeavesTheJobAndSaysSo(t *testing.T) {
	cl := newCluster()
	ctx, cancel := context.WithCancel(t.Context())
	cl.onSubmit = func(cl *cluster, j *job.Job) {
		place(cl, j, nil)
		time.AfterFunc(50*time.Millisecond, cancel)
	}
	code, _, errs := shoalIn(t, ctx, cl.serve(t), "", runWeb)
	if code != exitInterrupted || !strings.Contains(errs, "job web stays submitted") {
		t.Errorf("code %d, stderr %q", code, errs)
	}
}

func TestDetachDoesNotWait(t *testing.T) {
	cl := newCluster()
	if code, out, errs := shoal(t, cl.serve(t), "run -d --name web example"); code != 0 || errs != "" || out != "job web: submitted\n" {
		t.Errorf("code %d, out %q, stderr %q", code, out, errs)
	}
}

func TestJSONIsAllThatRunPrintsForPrograms(t *testing.T) {
	cl := newCluster()
	cl.onSubmit = func(cl *cluster, j *job.Job) { place(cl, j, running()) }
	if code, out, _ := shoal(t, cl.serve(t), "run --json --name web example"); code != 0 || !strings.HasPrefix(out, "{\n  \"job\": {") {
		t.Errorf("code %d, out %q", code, out)
	}
}

func TestRmWaitsForTheLastTask(t *testing.T) {
	cl := newCluster()
	cl.onSubmit = func(cl *cluster, j *job.Job) { place(cl, j, running()) }
	socket := cl.serve(t)
	shoal(t, socket, runWeb)
	code, out, _ := shoal(t, socket, "rm web")
	if code != 0 || out != "job web: removed\n" || len(cl.tasks) != 0 {
		t.Errorf("code %d, out %q, %d tasks left", code, out, len(cl.tasks))
	}
	if code, _, errs := shoal(t, socket, "rm wbe"); code != exitNotFound || !strings.Contains(errs, "there is none") {
		t.Errorf("rm of what is not there: code %d, stderr %q", code, errs)
	}
}

func TestAnswersWithoutALeaderAreMarkedStale(t *testing.T) {
	cl := newCluster()
	cl.leader = false
	code, out, errs := shoal(t, cl.serve(t), "ps")
	if code != 0 || !strings.HasPrefix(out, "ID ") || !strings.Contains(errs, "STALE") {
		t.Errorf("code %d, out %q, stderr %q", code, out, errs)
	}
	for _, verb := range []string{"token ls", "events"} {
		if code, _, errs := shoal(t, cl.serve(t), verb); code != 0 || !strings.Contains(errs, "STALE") {
			t.Errorf("%s: code %d, stderr %q", verb, code, errs)
		}
	}
}

// rolled is how an update of web from version 1 to 2 stands.
func rolled(r job.Rollout) []job.Rollout {
	r.Job, r.Service = "web", "web"
	return []job.Rollout{r}
}

func TestRunTellsHowAnUpdateEnded(t *testing.T) {
	for name, c := range map[string]struct {
		then []job.Rollout
		code int
		want []string
	}{
		"healthy": {rolled(job.Rollout{Version: 2, Status: job.RolloutComplete}), 0, []string{"job web: healthy"}},
		"rolled back": {rolled(job.Rollout{Version: 3, RollbackOf: 2, RollbackTo: 1, Automatic: true, Status: job.RolloutComplete, Reason: "web.1 failed: exit code 3"}),
			8, []string{"version 2 failed, and web was rolled back", "web.1 failed: exit code 3", "web runs version 1 again, as version 3", "shoal history web"}},
		"paused": {rolled(job.Rollout{Version: 2, Status: job.RolloutPaused, Reason: "web.1 is unhealthy"}),
			8, []string{"the update of web to version 2 is paused", "web.1 is unhealthy", "shoal rollback web"}},
		"way back fails": {rolled(job.Rollout{Version: 3, RollbackOf: 2, RollbackTo: 1, Automatic: true, Status: job.RolloutPaused, Reason: "web.2 failed"}),
			8, []string{"version 2 failed, and so does the rollback of web to version 1", "web.2 failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster()
			cl.onSubmit = func(cl *cluster, j *job.Job) { place(cl, j, running()) }
			socket := cl.serve(t)
			shoal(t, socket, runWeb)
			cl.onSubmit = func(cl *cluster, j *job.Job) {
				place(cl, j, running())
				cl.rollouts = rolled(job.Rollout{Version: 2, Status: job.RolloutRunning})
				time.AfterFunc(30*time.Millisecond, func() { cl.change(func() { cl.rollouts = c.then }) })
			}
			code, out, errs := shoal(t, socket, "run --name web --replicas 2 -e A=1 example")
			if code != c.code {
				t.Errorf("code %d, want %d", code, c.code)
			}
			for _, w := range c.want {
				if !strings.Contains(out+errs, w) {
					t.Errorf("%q is not in\n%s%s", w, out, errs)
				}
			}
		})
	}
}

func TestRunSaysThatAnUpdateGoesOnWhenItsTimeIsOver(t *testing.T) {
	cl := newCluster()
	cl.onSubmit = func(cl *cluster, j *job.Job) {
		place(cl, j, running())
		if j.Version > 1 {
			cl.rollouts = rolled(job.Rollout{Version: 2, Status: job.RolloutRunning})
		}
	}
	socket := cl.serve(t)
	shoal(t, socket, runWeb)
	code, _, errs := shoal(t, socket, "run --timeout 300ms --name web --replicas 2 -e A=1 example")
	if code != 8 || !strings.Contains(errs, "the update is still under way after 300ms") {
		t.Errorf("code %d, %q", code, errs)
	}
}

func TestDiffOfVersionsTakesNoFlagsOfFiles(t *testing.T) {
	for _, flag := range []string{"--env-file x", "--lenient", "--profile p", "--project-directory .", "--name web"} {
		if code, _, errs := shoal(t, newCluster().serve(t), "diff web "+flag); code != exitUsage || !strings.Contains(errs, "with -f") {
			t.Errorf("diff web %s: code %d, %q", flag, code, errs)
		}
	}
}
