package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"shoal/consensus/job"
)

func TestARehearsalTellsWhatWouldBeWhereAndChangesNothing(t *testing.T) {
	w := newWorld(t, 1)
	w.node("a", memory(1024))
	w.node("b", memory(1024))
	w.submit("j", svc("db", 1, wantMemory(256)), svc("web", 2, wantMemory(256)))
	w.settle()
	hash := w.store.View().Hash()
	tell := func(ss ...job.Service) string {
		t.Helper()
		r, err := Rehearse(w.store.Fork(), job.Spec{Name: "j", Services: ss}, w.now)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, k := range r.Tasks {
			out = append(out, fmt.Sprintf("%s@%s was %q kept %v", k.Name, k.Node, k.Was, k.Kept))
		}
		for _, b := range r.Blocked {
			out = append(out, b.Service+": "+b.Reason)
		}
		return strings.Join(out, "\n")
	}
	got := tell(svc("db", 1, wantMemory(256)), svc("web", 4, wantMemory(512)))
	want := `db.1@a was "a" kept true
web.1@b was "b" kept true
web.2@a was "a" kept true
web.3@b was "" kept false
web.4@a was "" kept false
web: the update to version 2 waits: no node fits: 2 lack memory (want 512 MiB, most free 0 B)`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if w.store.View().Hash() != hash {
		t.Error("a rehearsal changed the state")
	}
	if got := tell(svc("new", 1, func(s *job.Service) { s.Restart.Policy = job.RestartNever })); got != `new.1@b was "" kept false` && got != `new.1@a was "" kept false` {
		t.Errorf("got\n%s", got)
	}
}
