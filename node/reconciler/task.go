package reconciler

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// maxMessage bounds Status.Message, in bytes.
const maxMessage = 512

// defaults of job.Restart.
const (
	defaultRestartDelay  = 100 * time.Millisecond
	defaultRestartWindow = 10 * time.Second
)

// task is one task's record: what is wanted, what is there, and what became of it. Its methods decide; they call nobody.
type task struct {
	Assignment      // zero but for what labels tell, if it was never assigned
	assigned   bool // it is in the set

	have   bool         // there is a container
	info   runtime.Info // of it
	stale  bool         // info may be old
	image  *runtime.Image
	absent bool // image is nil, and was not here when last looked for

	status job.Status
	last   job.Status // status as it was when it got its number
	sent   uint64     // number of the last status that the leader has
	unsent uint64     // an answer to an older number than this does not count

	busy      op
	cancel    context.CancelFunc // of the worker
	starting  bool               // the worker is one of Parallel
	unhook    context.CancelFunc // of the post_start hooks, of which the worker that starts it makes an end
	touched   uint64             // when a worker last began or ended
	notBefore time.Time          // nothing is done until then
	tries     int                // failed calls in a row

	draining bool // it served: its stop signal waits until nobody is sent to it any more

	startsSeen int  // starts of this container that were noted: that ended, or run and have their post_start hooks behind them
	hooked     int  // the start whose post_start hooks are done, before it is noted
	exitsSeen  int  // starts of this container whose exit was noted
	failures   int  // exits that count, within the window
	wasHealthy bool // in this run
	unwell     bool // stop it: it has been unhealthy for too long
	probe      *prober

	boot      func() time.Duration // the runtime's clock of leases
	until     time.Duration        // the leader's word that a fenced task may run, on that clock
	rejoining bool                 // stop it: it is in namespaces that are gone
}

func newTask(id job.TaskID, node job.NodeID) *task {
	t := &task{}
	t.Task.ID = id
	t.status = job.Status{Task: id, Node: node, State: job.Placed}
	return t
}

// assign takes what the leader says. What it wants goes forward only, so that an old word cannot revive a task.
func (t *task) assign(a Assignment) {
	if t.assigned || t.Task.Desired != "" {
		if order := map[job.Desired]int{job.DesiredStop: 1, job.DesiredLost: 2}; order[a.Task.Desired] < order[t.Task.Desired] {
			a.Task.Desired = t.Task.Desired
		}
	}
	t.Assignment = a
	t.assigned = true
	if t.running() && !t.hooksDue() && t.check() == nil && t.notBefore.IsZero() {
		t.status.Health = job.HealthNone // a check that was taken away in place
	}
}

// leaving tells whether it is to be stopped and removed. complete says that the whole set is known.
func (t *task) leaving(complete bool) bool {
	if !t.assigned {
		return complete
	}
	return t.Task.Desired == job.DesiredStop || t.Task.Desired == job.DesiredLost
}

// idle tells that nothing may be done: it is not known yet whether it is wanted.
func (t *task) idle(complete bool) bool { return !t.assigned && !complete }

// leave drops what only matters to a task that is to run.
func (t *task) leave() {
	switch {
	case t.busy == opPull, t.busy == opCreate, t.busy == opDrain && t.Task.Desired == job.DesiredLost:
		t.cancel()
	case t.busy == opStart, t.busy == opHooks:
		t.unhook() // not the start: what runs then must be stopped, and that is the worker's too
	}
	if !t.status.State.Terminal() && t.status.State != job.Stopping {
		t.tries, t.notBefore = 0, time.Time{} // no restart to wait for
	}
}

func (t *task) running() bool { return t.have && t.info.State == runtime.Running }

// to moves the state forward, never back.
func (t *task) to(now time.Time, s job.State) {
	if t.status.State.Terminal() || s.Before(t.status.State) {
		return
	}
	t.status.State = s
	t.at(now, s)
	if s.Terminal() {
		t.status.Health = job.HealthNone
	}
}

func (t *task) at(now time.Time, s job.State) {
	if _, ok := t.status.At[s]; ok {
		return
	}
	m := maps.Clone(t.status.At) // copies of the status are out there
	if m == nil {
		m = map[job.State]time.Time{}
	}
	m[s] = now.UTC().Round(0) // as it comes back from a file
	t.status.At = m
}

func (t *task) say(format string, args ...any) {
	t.status.Message = clip(fmt.Sprintf(format, args...))
}

// unsay takes back what was said, if nothing else was said since.
func (t *task) unsay(msg string) {
	if t.status.Message == msg {
		t.status.Message = ""
	}
}

// clip bounds a message to what a status may carry.
func clip(msg string) string { return msg[:min(len(msg), maxMessage)] }

func (t *task) fail(now time.Time, format string, args ...any) {
	t.say(format, args...)
	t.to(now, job.Failed)
}

// succeeded forgets failed calls, and what was said of them.
func (t *task) succeeded() {
	if t.tries > 0 {
		t.status.Message = ""
	}
	t.tries, t.notBefore = 0, time.Time{}
}

// retry waits longer each time: first, twice that, …, at most maxRetry.
func (t *task) retry(now time.Time, first time.Duration) {
	t.notBefore = now.Add(backoff(first, t.tries, maxRetry))
	t.tries++
}

func backoff(first time.Duration, tries int, limit time.Duration) time.Duration {
	d := first
	for range tries {
		if d *= 2; d >= limit {
			return limit
		}
	}
	return min(d, limit)
}

// observe takes the truth about the container, as it was a moment ago.
func (t *task) observe(now time.Time, in runtime.Info, seen sight) {
	if t.have && !in.CreatedAt.Equal(t.info.CreatedAt) && !t.info.CreatedAt.IsZero() { // another of the same id
		t.startsSeen, t.exitsSeen, t.hooked = 0, 0, 0
	}
	t.have, t.info = true, in // stale stays: an event may have come since this was seen
	if !t.assigned && t.Task.Job == "" {
		t.fromLabels(in.Labels)
	}
	t.status.Image = in.Image
	t.status.Address = in.Address
	t.status.Paused = in.Paused
	t.to(in.CreatedAt, job.Created) // made by an earlier try, or by an agent that could not say so any more
	if in.Starts > t.startsSeen && !t.hooksDue() {
		t.startsSeen = in.Starts
		t.noteStart(now)
	}
	if in.State == runtime.Running {
		t.status.Ports = boundPorts(in.Ports)
	}
	if in.State == runtime.Stopped && in.Starts > t.exitsSeen {
		t.exitsSeen = in.Starts
		t.noteExit(now, seen)
	}
}

// sight tells how a container's end came to our eyes.
type sight int

const (
	seenLive   sight = iota // while we watched
	seenAtBoot              // it had ended when we came, in the same run of the machine
	seenReboot              // the machine was started anew between
)

func (t *task) noteStart(now time.Time) {
	t.wasHealthy, t.unwell = false, false
	if t.status.State.Terminal() || t.status.State == job.Stopping {
		return
	}
	if t.info.Starts == 1 {
		now = t.info.StartedAt
	}
	t.to(now, job.Running)
	t.status.Message = t.allIsWell()
	t.status.Health = job.HealthNone
	if t.check() != nil {
		t.status.Health = job.HealthStarting
	}
}

// noteExit records an exit and decides what follows from it under the restart policy.
func (t *task) noteExit(now time.Time, seen sight) {
	in := t.info
	code, unwell := in.ExitCode, t.unwell
	t.unwell = false
	rejoining := t.rejoining
	t.rejoining = false
	t.status.ExitCode, t.status.OOM = &code, in.OOMKilled
	if t.status.State.Terminal() || t.status.State == job.Stopping {
		return
	}
	unknown := in.Error != ""
	if !t.assigned {
		return // whoever stops it decides
	}
	if rejoining {
		t.again("the container whose namespaces it joins was started anew")
		return
	}
	policy := t.Service.Restart
	if t.expired() && policy.Policy != job.RestartNever {
		t.again(saysExpired)
		return
	}
	why := exitReason(in, unwell)
	switch {
	case policy.Policy == job.RestartNever || policy.Policy == job.RestartOnFailure && !unknown:
		if t.Service.JudgeExit(code) == job.ExitSuccess && !unwell && !unknown {
			t.status.Message = ""
			t.to(now, job.Complete)
			return
		}
		if t.lostWithMachine(now, seen != seenLive && (unknown || seen == seenReboot)) {
			return
		}
		if policy.Policy == job.RestartNever {
			t.fail(now, "%s", why)
			return
		}
	}
	if seen == seenReboot || seen == seenAtBoot && unknown {
		t.again("the machine was started anew")
		return
	}
	t.countFailure(now, why, in.FinishedAt.Sub(in.StartedAt) >= window(policy) && (!unwell || t.wasHealthy))
}

// noteGone takes that there is no container any more, though nobody here removed it.
func (t *task) noteGone(now time.Time, seen sight) {
	ran := max(t.startsSeen, t.info.Starts) > t.exitsSeen // an exit that was noted is judged already
	t.have, t.info, t.stale = false, runtime.Info{}, false
	t.startsSeen, t.exitsSeen, t.hooked, t.unwell = 0, 0, 0, false
	if !ran || t.status.State.Terminal() || t.status.State == job.Stopping || !t.assigned {
		return
	}
	if t.lostWithMachine(now, seen != seenLive) {
		return
	}
	if t.Service.Restart.Policy == job.RestartNever {
		t.fail(now, "its container is gone, and with it how it ended")
		return
	}
	if seen != seenLive {
		t.again("the machine was started anew")
		return
	}
	t.countFailure(now, "its container was removed by someone else", false)
}

// lostWithMachine reports a batch's task lost that ended because its machine did: that is no failure of its own, and the
// leader tries it again.
func (t *task) lostWithMachine(now time.Time, machine bool) bool {
	if !machine || !t.Service.IsBatch() {
		return false
	}
	t.say("the machine was started anew")
	t.to(now, job.Lost)
	return true
}

// again starts it without counting a failure.
func (t *task) again(why string) {
	t.failures = 0
	t.tries, t.notBefore = 0, time.Time{}
	t.status.Health = job.HealthStarting // not ready until it runs again
	t.say("starting again: %s", why)
}

// crashLoop is from how many failures in a row people are told that it is one, and when the next try is.
const crashLoop = 3

// countFailure starts it again after a delay, or gives up. anew says that it had run well for long enough.
func (t *task) countFailure(now time.Time, why string, anew bool) {
	p := t.Service.Restart
	if anew {
		t.failures = 0
	}
	limit := cmp.Or(p.Max, job.DefaultRestarts)
	if t.failures >= limit {
		t.fail(now, "%s; gave up after %d restarts", why, t.failures)
		return
	}
	delay := backoff(cmp.Or(p.Delay, defaultRestartDelay), t.failures, job.MaxRestartDelay)
	t.failures++
	t.status.Restarts++
	t.tries = 0
	t.notBefore = now.Add(delay)
	t.status.Health = job.HealthStarting // not ready until it runs again
	if t.failures >= crashLoop {
		t.say("crash loop: %s; restart %d of %d at %s", why, t.failures, limit, t.notBefore.UTC().Format(time.TimeOnly))
		return
	}
	t.say("%s; restart %d of %d in %v", why, t.failures, limit, delay)
}

func window(p job.Restart) time.Duration { return cmp.Or(p.Window, defaultRestartWindow) }

func exitReason(in runtime.Info, unwell bool) string {
	switch {
	case unwell:
		return "stopped because it stayed unhealthy"
	case in.OOMKilled:
		return "killed at its memory limit (exit code " + strconv.Itoa(in.ExitCode) + ")"
	case in.Error != "":
		return in.Error
	default:
		return "exit code " + strconv.Itoa(in.ExitCode)
	}
}

// check is the health check that applies: the service's, else the image's; nil if there is none.
func (t *task) check() *job.Health {
	h := t.Service.Health
	if h == nil || h.Probe == nil && len(h.Test) == 0 {
		var fromImage job.Health
		if text := t.info.Labels[labelHealth]; text == "" || json.Unmarshal([]byte(text), &fromImage) != nil {
			return nil
		}
		h = withTimesOf(&fromImage, h)
	}
	if h.Probe != nil {
		return h
	}
	if len(h.Test) < 2 || h.Test[0] == "NONE" {
		return nil
	}
	return h
}

// fromLabels fills in what a container of an unknown task tells about it.
func (t *task) fromLabels(l map[string]string) {
	t.Task.Job, t.Task.Service, t.Task.Digest = l[labelJob], l[labelService], job.Digest(l[labelDigest])
	t.Task.Slot, _ = strconv.Atoi(l[labelSlot])
	t.Task.Node = t.status.Node
}

// local is what others on this node see of it.
func (t *task) local(complete bool) Local {
	l := Local{
		Task: t.Task.ID, Job: t.Task.Job, Service: t.Task.Service, Slot: t.Task.Slot, Name: t.Task.Name(),
		State: t.status.State, Health: t.status.Health,
		Leaving: t.leaving(complete),
	}
	if t.have {
		l.Container, l.Address, l.Ports = t.info.ID, t.info.Address, t.status.Ports
	}
	l.Ready = t.running() && t.status.Ready()
	return l
}
