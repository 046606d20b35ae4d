package machines

import (
	"os/exec"
	"testing"
	"time"
)

// The kernel gives the name of a namespace that is gone to the next one: a process that takes it is not a remnant, even
// if it began before the namespace's end, as a parked launcher of another machine does. Power cuts once waited half a
// minute for such a process to end.
func TestStrangersUnderAReusedName(t *testing.T) {
	p, err := startApart(exec.Command("unshare", "--net", "sleep", "60"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.kill() }()
	var spaces []string
	if err := await(10*time.Second, "a namespace of its own", func() bool {
		spaces = ownSpaces(p.PID)
		return len(spaces) == 1
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		others map[being]bool
		want   int
	}{
		{"a remnant", outsiders(spaces), 1},
		{"it was elsewhere", outsiders(nil), 0},
	} {
		l := &ledger{spaces: map[string]tenancy{spaces[0]: {until: ticks() + 1, others: c.others}}}
		if got := l.processes(); len(got) != c.want {
			t.Errorf("%s: %q, want %d", c.name, got, c.want)
		}
	}
	l := &ledger{spaces: map[string]tenancy{spaces[0]: {until: 1}}}
	if got := l.processes(); len(got) != 0 {
		t.Errorf("it began after the end: %q", got)
	}
}
