package scheduler

import (
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// ratioWorld runs four slots of image "old" and begins an update of them to "new".
func ratioWorld(t *testing.T, u job.Update, behave func(*job.Task) job.State) *world {
	w := newWorld(t, 1)
	w.node("a")
	w.node("b")
	w.submit("j", svc("s", 4, image("old"), updating(u)))
	w.settle()
	w.behave = func(k *job.Task) job.State {
		if s := w.store.View().Service(k.Digest); s == nil || s.Image == "old" {
			return job.Running
		}
		return behave(k)
	}
	w.submit("j", svc("s", 4, image("new"), updating(u)))
	return w
}

// images tells which image serves in each slot: "old new new -".
func (w *world) images(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = "-"
	}
	for _, k := range w.running("j", "s") {
		if v := w.store.View(); v.Status(k.ID).Ready() {
			out[k.Slot-1] = v.Service(k.Digest).Image
		}
	}
	return strings.Join(out, " ")
}

func onlySlot(slot int, bad job.State) func(*job.Task) job.State {
	return func(k *job.Task) job.State {
		if k.Slot == slot {
			return bad
		}
		return job.Running
	}
}

// Slots that fail within the ratio hold up neither the others nor the end of the update.
func TestFailuresWithinTheRatioHoldUpNobody(t *testing.T) {
	for _, tt := range []struct {
		name   string
		update job.Update
		bad    job.State
		takes  time.Duration
		images string
		says   string
	}{
		{"start first", job.Update{MaxFailureRatio: 0.25}, job.Failed, time.Minute, "old new new new", "crash loop: s.1 failed"},
		{"two at a time", job.Update{MaxFailureRatio: 0.25, Parallelism: 2}, job.Failed, time.Minute, "old new new new", "crash loop: s.1 failed"},
		{"stop first", job.Update{MaxFailureRatio: 0.25, Order: job.StopFirst}, job.Failed, time.Minute, "old new new new", "crash loop: s.1 failed"},
		{"never ready", job.Update{MaxFailureRatio: 0.25}, job.Pulling, progressDeadline + time.Minute, "old new new new", "the update to version 2 waits for s.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ratioWorld(t, tt.update, onlySlot(1, tt.bad))
			w.pass(tt.takes, nil)
			if got := w.images(4); got != tt.images || w.status("s") != job.RolloutComplete {
				t.Errorf("%s: %s, want %s %s", w.status("s"), got, tt.images, w.dump())
			}
			w.pass(10*time.Minute, nil)
			if got := w.blocked("j", "s"); !strings.Contains(got, tt.says) {
				t.Errorf("blocked: %q, want %q", got, tt.says)
			}
			w.behave = nil // and they are tried on
			w.pass(2*time.Minute, nil)
			w.allRun("j", "s", 4, "new")
			if got := w.blocked("j", "s"); got != "" {
				t.Errorf("blocked: %q", got)
			}
		})
	}
}

func TestFailuresBeyondTheRatioTakeItBack(t *testing.T) {
	for _, parallel := range []int{1, 2} {
		w := ratioWorld(t, job.Update{MaxFailureRatio: 0.5, Parallelism: parallel}, func(*job.Task) job.State { return job.Failed })
		w.pass(time.Minute, nil)
		w.allRun("j", "s", 4, "old")
		if j := w.store.View().Job("j"); j.Version != 3 || !strings.Contains(j.Cause, "rolled back from version 2: s.1 failed: exit code 1, and ") {
			t.Errorf("version %d: %s", j.Version, j.Cause)
		}
	}
}

// What goes on in spite of failures is not complete before it got anywhere, and gets there when it can.
func TestAnUpdateThatContinuesTriesAllSlotsOn(t *testing.T) {
	broken := true
	w := ratioWorld(t, job.Update{Failure: job.FailContinue}, func(*job.Task) job.State {
		if broken {
			return job.Failed
		}
		return job.Running
	})
	w.pass(10*time.Minute, nil)
	if got := w.images(4); got != "old old old old" || w.status("s") != job.RolloutRunning || !strings.HasPrefix(w.blocked("j", "s"), "4: crash loop: s.") {
		t.Errorf("%s: %s, blocked %q", w.status("s"), got, w.blocked("j", "s"))
	}
	broken = false
	w.pass(3*time.Minute, nil)
	w.allRun("j", "s", 4, "new")
	if w.status("s") != job.RolloutComplete {
		t.Error(w.dump())
	}
}

// sicken makes the task of a slot unhealthy if it runs an image.
func (w *world) sicken(slot int, img string) {
	w.t.Helper()
	v := w.store.View()
	for _, k := range w.running("j", "s") {
		if st := v.Status(k.ID); k.Slot == slot && v.Service(k.Digest).Image == img && st != nil && st.State == job.Running && st.Health != job.Unhealthy {
			w.seq++
			up := *st
			up.Seq, up.Health = w.seq, job.Unhealthy
			w.apply(state.Report{Node: k.Node, Statuses: []job.Status{up}, At: w.now})
		}
	}
}

func TestAnUnhealthySlotWithinTheRatioHoldsUpNobody(t *testing.T) {
	w := ratioWorld(t, job.Update{MaxFailureRatio: 0.25}, onlySlot(0, job.Failed))
	w.pass(10*time.Minute, func() { w.sicken(1, "new") })
	if got := w.images(4); got != "old new new new" || w.status("s") != job.RolloutComplete {
		t.Errorf("%s: %s %s", w.status("s"), got, w.dump())
	}
}

func TestACanaryThatIsUnhealthyIsNotPromoted(t *testing.T) {
	w := ratioWorld(t, job.Update{MaxFailureRatio: 0.25, Canaries: 2, AutoPromote: true}, onlySlot(0, job.Failed))
	w.pass(10*time.Minute, func() { w.sicken(1, "new") })
	if got := w.images(4); got != "old new old old" || w.status("s") != job.RolloutRunning {
		t.Errorf("%s: %s %s", w.status("s"), got, w.dump())
	}
	if got := w.blocked("j", "s"); !strings.Contains(got, "the update to version 2 waits for s.1") {
		t.Errorf("blocked: %q", got)
	}
}
