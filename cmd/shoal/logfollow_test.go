package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// following runs `shoal logs -f` until stop, which gives its exit code.
func following(t *testing.T, cl *cluster, target string, stdout io.Writer) (errs *output, ended <-chan int, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	errs = &output{}
	socket := cl.serve(t)
	go func() {
		done <- run(ctx, []string{"shoal", "logs", "-f", target, "--host", socket}, strings.NewReader(""), stdout, errs)
	}()
	return errs, done, func() int {
		cancel()
		return <-done
	}
}

func TestFollowingCountsOnlyTheTasksThatItFollows(t *testing.T) {
	cl := newCluster()
	for i := range maxStreams + 5 {
		id := fmt.Sprintf("t%03d", i)
		cl.tasks = append(cl.tasks, task(id, "front", i+1, "d", &job.Status{State: job.Complete}))
		cl.logs[job.TaskID(id)] = []api.LogRecord{record(1, "line of "+id)}
	}
	var out output
	errs, _, stop := following(t, cl, "web", &out)
	eventually(t, func() bool { return strings.Count(out.String(), "line of t") == len(cl.tasks) })
	if code := stop(); code != 0 || strings.Count(errs.String(), "200 tasks are followed, the most at a time; 5 more wait") != 1 {
		t.Errorf("code %d, %q", code, errs.String())
	}
}

func TestFollowingEndsWhenNoLogCanCome(t *testing.T) {
	cl := logCluster()
	cl.logErrs["bbb1"] = job.Errorf(job.Invalid, "it keeps no log")
	errs, ended, _ := following(t, cl, "web/db", &output{})
	if code := <-ended; code != exitInvalid || strings.Count(errs.String(), "logs of web/db.1: it keeps no log") != 1 {
		t.Errorf("code %d, %q", code, errs.String())
	}
	cl = logCluster()
	cl.tasks[2].Status = &job.Status{State: job.Complete}
	cl.logErrs["bbb1"] = job.Errorf(job.NotFound, "it was cleaned up")
	errs, ended, _ = following(t, cl, "bbb1", &output{})
	if code := <-ended; code != exitNotFound || !strings.Contains(errs.String(), "it was cleaned up") {
		t.Errorf("code %d, %q", code, errs.String())
	}
}

func TestFollowingSaysOnceWhichLogsItCannotHave(t *testing.T) {
	cl := logCluster()
	cl.logErrs["aaa1"] = job.Errorf(job.Invalid, "it keeps no log")
	cl.logErrs["aab2"] = job.Errorf(job.Unavailable, "its node does not answer")
	cl.logErrs["bbb1"] = job.Errorf(job.NotFound, "it was cleaned up")
	var out output
	errs, _, stop := following(t, cl, "web", &out)
	eventually(t, func() bool {
		return strings.Contains(errs.String(), "keeps no log") && strings.Contains(errs.String(), "does not answer")
	})
	for range 5 { // each news makes it try again
		cl.change(func() {})
	}
	cl.change(func() { delete(cl.logErrs, "aab2") })
	eventually(t, func() bool { return strings.Contains(out.String(), "two") })
	want := []string{"shoal: logs of web/front.1: it keeps no log\n", "shoal: logs of web/front.2: its node does not answer\n"}
	if code := stop(); code != 0 || len(errs.String()) != len(want[0]+want[1]) || !strings.Contains(errs.String(), want[0]) || !strings.Contains(errs.String(), want[1]) {
		t.Errorf("code %d, %q, want %q", code, errs.String(), want)
	}
}

// slow is a terminal that takes its time, and tells of each line.
type slow struct {
	output
	each  time.Duration
	lines chan struct{}
}

func (w *slow) Write(p []byte) (int, error) {
	time.Sleep(w.each)
	n, err := w.output.Write(p)
	select {
	case w.lines <- struct{}{}:
	default:
	}
	return n, err
}

// longLog is more than what lies between server and client at a time.
func longLog(lines int) (records []api.LogRecord) {
	for i := range lines {
		records = append(records, record(i/3, fmt.Sprintf("line %03d %s", i, strings.Repeat("x", 60<<10)))) // three of one time
	}
	return records
}

func wantLines(t *testing.T, out string, lines int) {
	t.Helper()
	for i := range lines {
		if n := strings.Count(out, fmt.Sprintf("line %03d ", i)); n != 1 {
			t.Fatalf("line %d of %d was printed %d times", i, lines, n)
		}
	}
}

// However long it takes to print what a task wrote.
func TestFollowingATaskThatHasEndedPrintsAllThatItWrote(t *testing.T) {
	cl := logCluster()
	cl.tasks[2].Status = &job.Status{State: job.Complete}
	cl.logs["bbb1"] = longLog(60)
	out := &slow{each: 2 * lingering / 60}
	errs, ended, _ := following(t, cl, "bbb1", out)
	if code := <-ended; code != 0 || errs.String() != "" {
		t.Errorf("code %d, %q", code, errs.String())
	}
	wantLines(t, out.String(), 60)
}

func TestFollowingATaskThatEndsMeanwhilePrintsAllThatItWrote(t *testing.T) {
	for name, stall := range map[string]int{"its reader is slow": 0, "its stream stalls": 20} {
		t.Run(name, func(t *testing.T) {
			cl := logCluster()
			cl.logs["bbb1"], cl.stall = longLog(60), stall
			out := &slow{each: 2 * lingering / 60, lines: make(chan struct{}, 1)}
			errs, ended, _ := following(t, cl, "bbb1", out)
			<-out.lines
			cl.change(func() { cl.tasks[2].Status = &job.Status{State: job.Complete} })
			if code := <-ended; code != 0 || errs.String() != "" {
				t.Errorf("code %d, %q", code, errs.String())
			}
			wantLines(t, out.String(), 60)
		})
	}
}

// The task that is to replace it is placed before: until it has ended, what it writes is wanted.
func TestFollowingGoesOnWithATaskThatIsBeingReplaced(t *testing.T) {
	cl := logCluster()
	var out output
	_, _, stop := following(t, cl, "web/db", &out)
	cl.change(func() { cl.logs["bbb1"] = []api.LogRecord{record(1, "first")} })
	eventually(t, func() bool { return strings.Contains(out.String(), "first") })
	cl.change(func() {
		cl.tasks[2].Desired = job.DesiredStop
		next := task("ccc1", "db", 1, "e", &job.Status{State: job.Pulling})
		next.Task.Index = 2
		cl.tasks = append(cl.tasks, next)
	})
	time.Sleep(lingering + lingering/2)
	cl.change(func() { cl.logs["bbb1"] = append(cl.logs["bbb1"], record(2, "second")) })
	eventually(t, func() bool { return strings.Contains(out.String(), "second") })
	cl.change(func() {
		cl.tasks[3].Status = running()
		cl.logs["ccc1"] = []api.LogRecord{record(3, "third")}
	})
	eventually(t, func() bool { return strings.Contains(out.String(), "third") })
	if code := stop(); code != 0 {
		t.Errorf("code %d", code)
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestFollowingEndsWhenItsOutputCannotBeWritten(t *testing.T) {
	errs, ended, _ := following(t, logCluster(), "web/front.1", full{})
	if code := <-ended; code != exitFailed || errs.String() != "shoal: no space left on device\n" {
		t.Errorf("code %d, %q", code, errs.String())
	}
}
