package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/e2e/machines"
	"shoal/node/api"
)

// A checker that cannot fail proves nothing: each of these tables has what is right, which it must let pass, and what is
// wrong, which it must find.

// told is an operation that was answered; each takes a tick of its own, one after the other.
func told(tick int, in input, out output) operation {
	out.known = true
	return operation{client: tick, in: in, out: out, call: time.Duration(2 * tick), back: time.Duration(2*tick + 1)}
}

func put(tick int, label string, version, changed uint64) operation {
	return told(tick, input{opPut, label, 1}, output{version: version, label: label, repl: 1, changed: changed, index: changed})
}

func read(tick int, label string, version, changed uint64) operation {
	return told(tick, input{kind: opRead}, output{version: version, label: label, repl: 1, changed: changed, index: changed + 1})
}

func local(tick int, label string, version, changed, index uint64) operation {
	return told(tick, input{kind: opLocal}, output{version: version, label: label, repl: 1, changed: changed, index: index, stale: true})
}

func missing(tick int, kind int) operation {
	return told(tick, input{kind: kind}, output{missing: true})
}

func lost(tick int, in input) operation {
	return operation{client: tick, in: in, call: time.Duration(2 * tick), back: time.Duration(2*tick + 1), maybe: true}
}

func gone(tick int) operation { return told(tick, input{kind: opRemove}, output{}) }

// again makes an operation one whose first try was not answered.
func again(o operation) operation {
	o.maybe, o.retried = true, true
	return o
}

// during makes an operation last from before the first to after the last.
func during(o operation) operation {
	o.call, o.back = 0, 1000
	return o
}

func TestHistoriesAreJudged(t *testing.T) {
	putB := input{opPut, "b", 1}
	for name, x := range map[string]struct {
		ops  []operation
		want string // part of what is wrong; "": nothing
	}{
		"in order":                        {[]operation{missing(0, opRead), put(1, "a", 1, 10), read(2, "a", 1, 10), put(3, "b", 2, 20), read(4, "b", 2, 20)}, ""},
		"same again is no new version":    {[]operation{put(1, "a", 1, 10), put(2, "a", 1, 10), read(3, "a", 1, 10)}, ""},
		"beside each other":               {[]operation{put(1, "a", 1, 10), during(put(2, "b", 2, 20)), read(3, "a", 1, 10), read(4, "b", 2, 20)}, ""},
		"nobody knows, and it happened":   {[]operation{put(1, "a", 1, 10), lost(2, putB), read(3, "a", 1, 10), read(4, "b", 2, 20)}, ""},
		"nobody knows, and it never does": {[]operation{put(1, "a", 1, 10), lost(2, putB), read(3, "a", 1, 10), put(4, "c", 2, 20)}, ""},
		"removed":                         {[]operation{put(1, "a", 1, 10), told(2, input{kind: opRemove}, output{}), missing(3, opRead), missing(4, opStop), put(5, "b", 1, 20)}, ""},
		"what the node knew":              {[]operation{put(1, "a", 1, 10), put(2, "b", 2, 20), local(3, "a", 1, 10, 19)}, ""},
		"a read that no leader confirmed": {[]operation{put(1, "a", 1, 10), put(2, "b", 2, 20), told(3, input{kind: opRead}, output{version: 1, label: "a", repl: 1, changed: 10, index: 15, stale: true})}, ""},
		"refused, and a former try late":  {[]operation{put(1, "a", 1, 10), gone(2), again(missing(3, opScale)), put(4, "b", 1, 20), read(5, "b", 1, 20), told(6, input{kind: opRead}, output{version: 2, label: "b", repl: 0, changed: 30, index: 30})}, ""},
		"refused, and no former try":      {[]operation{put(1, "a", 1, 10), gone(2), missing(3, opScale), put(4, "b", 1, 20), read(5, "b", 1, 20), told(6, input{kind: opRead}, output{version: 2, label: "b", repl: 0, changed: 30, index: 30})}, "not linearizable"},
		"an acknowledged change is lost":  {[]operation{put(1, "a", 1, 10), put(2, "b", 2, 20), read(3, "a", 1, 10)}, "not linearizable"},
		"an acknowledged job is lost":     {[]operation{put(1, "a", 1, 10), missing(2, opRead)}, "not linearizable"},
		"a removed job is back":           {[]operation{put(1, "a", 1, 10), told(2, input{kind: opRemove}, output{}), read(3, "a", 1, 10)}, "not linearizable"},
		"it came and went":                {[]operation{put(1, "a", 1, 10), lost(2, putB), read(3, "b", 2, 20), read(4, "a", 1, 10)}, "not linearizable"},
		"done twice":                      {[]operation{put(1, "a", 1, 10), put(2, "b", 2, 20), read(3, "b", 3, 30)}, "not linearizable"},
		"a stop is lost":                  {[]operation{put(1, "a", 1, 10), told(2, input{kind: opStop}, output{}), read(3, "a", 1, 10)}, "not linearizable"},
		"a scale is lost":                 {[]operation{put(1, "a", 1, 10), told(2, input{opScale, "", 3}, output{version: 2, repl: 3}), put(3, "a", 2, 30)}, "not linearizable"},
		"never written":                   {[]operation{put(1, "a", 1, 10), read(2, "z", 1, 10)}, "not linearizable"},
		"two answers of one index":        {[]operation{put(1, "a", 1, 10), lost(2, putB), local(3, "a", 1, 20, 20), local(4, "b", 2, 20, 20)}, "told in two ways"},
		"and the job was removed later":   {[]operation{put(1, "a", 1, 10), put(2, "b", 2, 20), local(3, "a", 1, 10, 20), gone(4), put(5, "c", 1, 40)}, "misses the change"},
		"removed and begun anew":          {[]operation{put(1, "a", 1, 10), gone(2), put(3, "b", 1, 30), local(4, "a", 1, 10, 15), local(5, "b", 1, 30, 35), missing(6, opLocal)}, ""},
		"the node misses what was in it":  {[]operation{put(1, "a", 1, 10), put(2, "b", 2, 20), local(3, "a", 1, 10, 20)}, "misses the change"},
	} {
		h := &history{name: name}
		for _, o := range x.ops {
			h.add(o)
		}
		wrong, undecided := h.check()
		all := strings.Join(wrong, "; ")
		if undecided || x.want == "" && all != "" || !strings.Contains(all, x.want) {
			t.Errorf("%s: %q, undecided %v; want %q\n%s", name, all, undecided, x.want, h.text(nil))
		}
	}
}

// A history of many clients, made by a right register, passes; the same with one answer changed does not.
func TestHistoriesOfManyClientsAreJudged(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		h := &history{name: fmt.Sprint(seed)}
		var s register
		for tick := range 200 {
			o := draw(r)
			_, next := s.step(o.in, output{})
			out := output{known: true, version: next.version, stopped: next.stopped, label: next.label, repl: next.repl, missing: !s.exists && o.in.kind != opPut}
			if out.missing {
				out = output{known: true, missing: true}
			}
			// It took effect in the middle of a time that overlaps those of others.
			o.client, o.call, o.back, o.out = tick, time.Duration(10*tick-r.IntN(30)), time.Duration(10*tick+1+r.IntN(30)), out
			s = next
			if r.IntN(40) == 0 && o.in.writes() {
				o.out = output{} // the answer was lost
			}
			h.add(o)
		}
		if wrong, undecided := h.check(); len(wrong) > 0 || undecided {
			t.Fatalf("seed %d: %v, undecided %v", seed, wrong, undecided)
		}
		var reads []int
		for i, o := range h.ops {
			if o.in.kind == opRead && !o.out.missing {
				reads = append(reads, i)
			}
		}
		o := &h.ops[reads[r.IntN(len(reads))]]
		o.out.version += 3
		if wrong, _ := h.check(); len(wrong) == 0 {
			t.Errorf("seed %d: %v was not noticed", seed, o)
		}
	}
}

func TestWritersAreJudged(t *testing.T) {
	for name, x := range map[string]struct {
		record string
		want   string
	}{
		"one after the other":       {"5 a\n5 a\n9 b\n9 b\n12 c\n", ""},
		"the last line is not done": {"5 a\n9 b\n5", ""},
		"two at a time":             {"5 a\n9 b\n5 a\n", "after one with token 9"},
		"an older token":            {"9 b\n5 a\n", "came after"},
		"ten after nine":            {"9 b\n10 c\n9 b\n", "after one with token 10"},
		"torn":                      {"5 a\n5 \n", "is"},
	} {
		path := filepath.Join(t.TempDir(), "record")
		r := recordReader{path: path}
		var wrong []string
		for i := range len(x.record) { // also when it is read in pieces
			if err := os.WriteFile(path, []byte(x.record[:i+1]), 0o644); err != nil {
				t.Fatal(err)
			}
			wrong = append(wrong, r.read()...)
		}
		if all := strings.Join(wrong, "; "); x.want == "" && all != "" || !strings.Contains(all, x.want) {
			t.Errorf("%s: %q, want %q", name, all, x.want)
		}
	}
}

func TestNumberedLinesAreJudged(t *testing.T) {
	for name, x := range map[string]struct {
		lines []string
		lossy bool
		want  string
	}{
		"without gap":                  {[]string{"0", "1", "2"}, false, ""},
		"a gap that was reported":      {[]string{"0", "[shoal: 2 lines, 10 bytes of log lost here: the disk was full]", "3"}, false, ""},
		"begun again, as it may":       {[]string{"0", "1", "0", "1"}, true, ""},
		"begun again":                  {[]string{"0", "1", "0", "1"}, false, "began again"},
		"a gap":                        {[]string{"0", "1", "3"}, false, "line 3 came after line 1"},
		"a gap on a lossy machine too": {[]string{"0", "1", "3"}, true, "line 3 came after line 1"},
		"a gap of another size":        {[]string{"0", "[shoal: 1 lines, 10 bytes of log lost here: the disk was full]", "3"}, false, "1 lines were reported"},
		"twice":                        {[]string{"0", "1", "1"}, false, "line 1 came after line 1"},
		"the first is missing":         {[]string{"4", "5"}, false, "first line is 4"},
		"garbage":                      {[]string{"0", "1\x00"}, false, "a line is"},
	} {
		n := &numbered{next: -1, lossy: x.lossy}
		for i, text := range x.lines {
			if err := n.record(api.LogRecord{Time: time.Unix(int64(i), 1), Text: text}); err != nil {
				t.Fatal(err)
			}
		}
		if all := strings.Join(n.wrong, "; "); x.want == "" && all != "" || !strings.Contains(all, x.want) {
			t.Errorf("%s: %q, want %q", name, all, x.want)
		}
	}
}

func TestTouchedContainersAreFound(t *testing.T) {
	was := container{Task: "t", Machine: "m1", PID: 5, Start: "100", Job: jobWeb}
	again := was
	again.PID = 6
	reused := was
	reused.Start = "200"
	for name, x := range map[string]struct {
		after []container
		inLog bool
		may   licence
		want  string
	}{
		"the same":              {[]container{was}, true, mayNothing, ""},
		"gone":                  {nil, false, mayNothing, "ended"},
		"another process":       {[]container{again}, true, mayNothing, "started again"},
		"the same number":       {[]container{reused}, true, mayNothing, "started again"},
		"moved":                 {nil, false, mayMove, ""},
		"dead and still wanted": {nil, true, mayMove, "still meant to run"},
		"again although moved":  {[]container{again}, true, mayMove, "started again"},
		"power was cut":         {[]container{again}, true, mayEnd, ""},
	} {
		got := strings.Join(touched([]container{was}, x.after, map[string]bool{"t": x.inLog}, func(container) licence { return x.may }), "; ")
		if x.want == "" && got != "" || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

func TestAllowancesHoldForTheirMachines(t *testing.T) {
	m1, m2 := &machines.Machine{Name: "m1"}, &machines.Machine{Name: "m2"}
	for _, x := range []struct {
		job   string
		allow []Allowance
		want  licence
	}{
		{jobWeb, nil, mayNothing},
		{jobWeb, []Allowance{{}}, mayNothing},
		{jobWeb, []Allowance{{Restarts: []*machines.Machine{m2}, Moves: []*machines.Machine{m2}, LogGaps: []*machines.Machine{m1}}}, mayNothing},
		{jobWeb, []Allowance{{Moves: []*machines.Machine{m1}}}, mayMove},
		{jobWeb, []Allowance{{MovesAll: true}}, mayMove},
		{jobFenced, []Allowance{{MovesAll: true}}, mayEnd},
		{jobWeb, []Allowance{{Moves: []*machines.Machine{m1}}, {Restarts: []*machines.Machine{m1}}}, mayEnd},
		{jobWeb, []Allowance{{Gone: []*machines.Machine{m1}}}, mayEnd},
	} {
		if got := mayHappen(container{Machine: "m1", Job: x.job}, x.allow); got != x.want {
			t.Errorf("%s on m1 with %+v: %v, want %v", x.job, x.allow, got, x.want)
		}
	}
}

func TestWhatRunsIsComparedWithWhatWasAsked(t *testing.T) {
	right := func() (api.TaskList, []container) {
		var list api.TaskList
		var live []container
		add := func(name string, slot int, node string) {
			id := fmt.Sprintf("%s-%d-%s", name, slot, node)
			list.Tasks = append(list.Tasks, api.Task{
				Task: job.Task{ID: job.TaskID(id), Job: name, Service: "s", Slot: slot, Node: job.NodeID(node), Desired: job.DesiredRun}, NodeName: node, Ready: true,
			})
			live = append(live, container{Task: id, Machine: node, Job: name})
		}
		for i := range webReplicas {
			add(jobWeb, i+1, "m1")
		}
		add(jobFenced, 1, "m1")
		add(jobLines, 0, "m1")
		add(jobLines, 0, "m2")
		return list, live
	}
	for name, x := range map[string]struct {
		spoil func(*api.TaskList, *[]container)
		want  string
	}{
		"right":           {func(*api.TaskList, *[]container) {}, ""},
		"one is missing":  {func(l *api.TaskList, c *[]container) { l.Tasks, *c = l.Tasks[1:], (*c)[1:] }, "want 5"},
		"not ready":       {func(l *api.TaskList, _ *[]container) { l.Tasks[0].Ready = false }, "is placed"},
		"not wanted":      {func(l *api.TaskList, _ *[]container) { l.Tasks[0].Desired = job.DesiredStop }, "not meant to run"},
		"two in a slot":   {func(l *api.TaskList, _ *[]container) { l.Tasks[1].Slot = 1 }, "another one too"},
		"only said":       {func(_ *api.TaskList, c *[]container) { *c = (*c)[1:] }, "does not"},
		"elsewhere":       {func(_ *api.TaskList, c *[]container) { (*c)[0].Machine = "m2" }, "runs on m2"},
		"twice":           {func(_ *api.TaskList, c *[]container) { *c = append(*c, (*c)[0]) }, "second time"},
		"nobody knows it": {func(_ *api.TaskList, c *[]container) { *c = append(*c, container{Task: "x", Job: jobWeb}) }, "does not know"},
	} {
		list, live := right()
		x.spoil(&list, &live)
		got := fmt.Sprint(asAsked(list, live, 2))
		if x.want == "" && got != "<nil>" || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

func TestDifferentStatesAreFound(t *testing.T) {
	a := api.StateHash{Index: 7, Hash: "aa", Tables: map[string]string{"jobs": "1", "tasks": "2"}}
	b := a
	b.Hash, b.Tables = "bb", map[string]string{"jobs": "1", "tasks": "3"}
	later := b
	later.Index = 8
	if got := differing(map[string]api.StateHash{"m1": a, "m2": a, "m3": later}); got != "" {
		t.Errorf("equal: %s", got)
	}
	if got := differing(map[string]api.StateHash{"m1": a, "m2": a, "m3": b}); !strings.Contains(got, "differ in tasks") {
		t.Errorf("different: %q", got)
	}
}

func TestALoadUnderItsFloorIsNoLoad(t *testing.T) {
	begun := time.Now()
	l := &load{begun: begun, ended: begun.Add(10 * time.Second)}
	for s := range 10 {
		for i := range 120 {
			at := begun.Add(time.Duration(s)*time.Second + time.Duration(i)*time.Millisecond)
			if s == 4 {
				continue // no leader: nothing was acknowledged
			}
			l.done = append(l.done, at)
			if i%4 == 0 {
				l.acks = append(l.acks, at)
			}
		}
	}
	if f := l.figures(); f.Rate != 120 || f.Without != 1 || f.tooLow() != "" {
		t.Errorf("%+v: %s", f, f.tooLow())
	}
	if got := l.longestSilence(begun, begun.Add(10*time.Second)); got < time.Second || got > 2*time.Second {
		t.Errorf("the longest silence is %v", got)
	}
	l.done = l.done[:len(l.done)/2]
	if f := l.figures(); f.tooLow() == "" {
		t.Errorf("%+v is enough", f)
	}
}

func TestASeedGivesTheSameFaults(t *testing.T) {
	plan := func(seed uint64) (out []string) {
		faults, err := choose(Faults, "", false)
		if err != nil {
			t.Fatal(err)
		}
		p := newPlanner(seed, faults)
		for range 200 {
			s := p.next(2)
			for _, f := range s.faults {
				out = append(out, fmt.Sprintf("%s %d %v", f.Name, f.rand().Uint64(), s.lag))
			}
			if len(s.faults) == 2 && (s.faults[0].Alone || s.faults[1].Alone || s.faults[0].Class != "" && s.faults[0].Class == s.faults[1].Class) {
				t.Errorf("%s and %s at a time", s.faults[0].Name, s.faults[1].Name)
			}
		}
		return out
	}
	if !slices.Equal(plan(1), plan(1)) {
		t.Error("one seed gives two sequences")
	}
	if slices.Equal(plan(1), plan(2)) {
		t.Error("two seeds give one sequence")
	}
	names := map[string]bool{}
	for _, f := range Faults {
		if names[f.Name] || f.Name == "" || f.Play == nil {
			t.Errorf("fault %q: names are unique, and each is played", f.Name)
		}
		names[f.Name] = true
	}
}

func TestTheExitCodeSaysWhatCameOfIt(t *testing.T) {
	for want, r := range map[int]Report{
		0: {},
		1: {Violated: []Violation{{}}, Void: []string{"x"}, Trouble: "y"},
		2: {Trouble: "y", Void: []string{"x"}},
		3: {Void: []string{"x"}},
	} {
		if r.Code() != want {
			t.Errorf("%+v: %d, want %d", r, r.Code(), want)
		}
	}
}

func TestOutagesAddUp(t *testing.T) {
	begun := time.Now()
	l := &load{}
	for _, at := range []float64{0, 0.1, 1.6, 1.7, 2.9, 3, 3.1} {
		l.acks = append(l.acks, begun.Add(time.Duration(at*float64(time.Second))))
	}
	end := begun.Add(3200 * time.Millisecond)
	if got := l.longestWithout(fencedLease, begun, end).Round(time.Millisecond); got != 2700*time.Millisecond {
		t.Errorf("two outages of 1.5 and 1.2 s add up to %v", got)
	}
	if got := l.longestWithout(time.Second, begun, end).Round(time.Millisecond); got != 1500*time.Millisecond {
		t.Errorf("in one second: %v", got)
	}
}
