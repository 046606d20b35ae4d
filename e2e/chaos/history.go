package chaos

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"shoal/consensus/job"
	"shoal/node/api"
)

// Kinds of operations on a job.
const (
	opPut = iota
	opScale
	opStop
	opStart
	opRemove
	opRead  // confirmed by the leader
	opLocal // what the asked node knows
)

var opNames = [...]string{"put", "scale", "stop", "start", "remove", "read", "local read"}

// input of an operation.
type input struct {
	kind     int
	label    string // of a put: unique
	replicas int    // of a put or scale
}

func (in input) writes() bool { return in.kind <= opRemove }

// keyed operations carry an idempotency key and may be sent again.
func (in input) keyed() bool { return in.kind == opPut || in.kind == opScale || in.kind == opStart }

// output of an operation.
type output struct {
	known   bool // the answer came
	unsent  bool // it was never sent: nothing happened
	missing bool // the answer: there is no such job
	stale   bool // no leader confirmed the read
	version uint64
	stopped bool
	label   string
	repl    int
	changed uint64 // index at which the job was last changed
	index   uint64 // of the state that answered
	odd     string // an answer that should not be
}

// operation is one that a client made. Times are since the load's begin.
type operation struct {
	client     int
	in         input
	out        output
	call, back time.Duration
	maybe      bool // a try was sent and not answered
	retried    bool
}

func (o operation) String() string {
	return fmt.Sprintf("%v..%v client %d %s", o.call.Round(time.Millisecond), o.back.Round(time.Millisecond), o.client, describe(o.in, o.out))
}

func describe(in input, out output) string {
	s := opNames[in.kind]
	if in.kind == opPut {
		s += " " + in.label
	}
	if in.kind == opPut || in.kind == opScale {
		s += fmt.Sprintf(" x%d", in.replicas)
	}
	switch {
	case !out.known:
		return s + " -> ?" + out.odd
	case out.missing:
		return s + " -> none"
	case in.kind == opStop || in.kind == opRemove:
		return s + " -> done"
	}
	return fmt.Sprintf("%s -> version %d %s x%d stopped %v, changed at %d, seen at %d, stale %v", s, out.version, out.label, out.repl, out.stopped, out.changed, out.index, out.stale)
}

// send makes one try.
func (o *operation) send(ctx context.Context, c *api.Client, key, name string) error {
	var r api.SubmitResult
	var err error
	switch o.in.kind {
	case opPut:
		r, err = c.Submit(ctx, key, api.SubmitRequest{Spec: loadSpec(name, o.in.label, o.in.replicas)})
	case opScale:
		r, err = c.Scale(ctx, key, name, map[string]int{"s": o.in.replicas})
	case opStart:
		r, err = c.StartJob(ctx, key, name)
	case opStop:
		return c.StopJob(ctx, name)
	case opRemove:
		return c.RemoveJob(ctx, name)
	case opRead, opLocal:
		d, err := readJob(ctx, c, name, o.in.kind == opLocal)
		if err == nil {
			o.out = seen(&d.Job)
			o.out.index, o.out.stale = d.Index, d.Stale
		}
		return err
	}
	if err == nil {
		o.out = seen(&r.Job)
		o.out.index = r.Index
	}
	return err
}

func readJob(ctx context.Context, c *api.Client, name string, local bool) (api.JobDetail, error) {
	if local {
		return c.JobLocal(ctx, name)
	}
	return c.Job(ctx, name, false)
}

func seen(j *job.Job) output {
	out := output{version: j.Version, stopped: j.Stopped, changed: j.Index}
	if s := j.Spec.Service("s"); s != nil {
		out.label, out.repl = s.Labels["v"], s.Replicas
	}
	return out
}

// loadSpec is a job that costs the cluster decisions and no container: no node meets what it asks for.
func loadSpec(name, label string, replicas int) job.Spec {
	return job.Spec{Name: name, Services: []job.Service{{
		Name: "s", Image: Image, Replicas: replicas, Labels: map[string]string{"v": label},
		Constraints: []job.Constraint{{Key: "node.labels.never", Op: "==", Value: "yes"}},
	}}}
}

// history is all that the clients did with one job.
type history struct {
	name   string
	ops    []operation
	open   int // writes whose fate is unknown
	flying int // under way
}

func (h *history) add(o operation) {
	switch {
	case o.out.unsent, !o.out.known && !o.in.writes():
		return // it had no effect, and nobody learned anything
	case !o.out.known, o.late():
		h.open++
	}
	h.ops = append(h.ops, o)
}

// late tells of a change that was tried again and refused because there was no such job: a former try may still be on its way,
// and find one. Refusals are not remembered under a key, so that who mends what was wrong can use it again.
func (o operation) late() bool { return o.retried && o.in.writes() && o.out.known && o.out.missing }

// register is a job as its clients see it.
type register struct {
	exists  bool
	version uint64
	stopped bool
	label   string
	repl    int
}

// step is the job's sequential specification: whether the answer fits, and what the job is afterwards.
func (s register) step(in input, out output) (bool, register) {
	if in.kind != opPut && !s.exists {
		return !out.known || out.missing, s
	}
	if out.known && out.missing {
		return false, s
	}
	n := s
	switch in.kind {
	case opPut:
		n = register{exists: true, version: 1, label: in.label, repl: in.replicas}
		if s.exists {
			n.version = s.version
			if s.label != in.label || s.repl != in.replicas {
				n.version++
			}
		}
		return !out.known || out.version == n.version, n
	case opScale:
		if s.repl != in.replicas {
			n.version++
			n.repl = in.replicas
		}
		return !out.known || out.version == n.version, n
	case opStop:
		n.stopped = true
		return true, n
	case opStart:
		n.stopped = false
		return !out.known || out.version == n.version, n
	case opRemove:
		return true, register{}
	}
	return out.version == s.version && out.stopped == s.stopped && out.label == s.label && out.repl == s.repl, s
}

var model = porcupine.Model{
	Init:              func() any { return register{} },
	Step:              func(state, in, out any) (bool, any) { return state.(register).step(in.(input), out.(output)) },
	DescribeOperation: func(in, out any) string { return describe(in.(input), out.(output)) },
}

// checkFor bounds one check of a history.
const checkFor = 20 * time.Second

// check tells what is wrong with a history; undecided says that the search was given up.
func (h *history) check() (wrong []string, undecided bool) {
	wrong = append(h.checkContents(), h.checkIndexes()...)
	switch porcupine.CheckOperationsTimeout(model, h.linear(), checkFor) {
	case porcupine.Illegal:
		wrong = append(wrong, fmt.Sprintf("the history of job %s (%d operations) is not linearizable, at the latest when this came: %v", h.name, len(h.ops), h.firstWrong()))
	case porcupine.Unknown:
		undecided = true
	}
	return wrong, undecided
}

// firstWrong finds the operation with whose end the history cannot be linearized any more. What was under way then counts
// as unknown, so that it is blamed for nothing.
func (h *history) firstWrong() operation {
	ends := slices.Clone(h.ops)
	slices.SortFunc(ends, func(a, b operation) int { return int(a.back - b.back) })
	i, _ := slices.BinarySearchFunc(ends, true, func(end operation, _ bool) int {
		so := &history{}
		for _, o := range h.ops {
			if o.back > end.back && (o.call > end.back || !o.in.writes()) {
				continue
			}
			if o.back > end.back {
				o.out = output{}
			}
			so.ops = append(so.ops, o)
		}
		if porcupine.CheckOperationsTimeout(model, so.linear(), checkFor) == porcupine.Illegal {
			return 1
		}
		return -1
	})
	return ends[min(i, len(ends)-1)]
}

// linear is what must be linearizable: all but reads that no leader confirmed. What may have happened may happen until
// the end of time.
func (h *history) linear() []porcupine.Operation {
	var out []porcupine.Operation
	for _, o := range h.ops {
		if o.in.kind == opLocal || o.in.kind == opRead && o.out.stale {
			continue
		}
		back := int64(o.back)
		if !o.out.known || o.late() {
			back = math.MaxInt64
		}
		res := o.out
		if o.late() {
			res.known = false
		}
		if o.retried && o.in.kind != opRead && res.known && !res.missing {
			// A second answer to one key tells of the job as it was then, or as it is now if that is forgotten: that it
			// happened is known, at which version is not.
			res.known = false
		}
		out = append(out, porcupine.Operation{ClientId: o.client, Input: o.in, Output: res, Call: int64(o.call), Return: back})
	}
	return out
}

// checkContents: a job that was last changed at an index is the same in every answer of every node.
func (h *history) checkContents() (wrong []string) {
	at := map[uint64]operation{}
	for _, o := range h.ops {
		if !o.out.known || o.out.missing || o.out.changed == 0 {
			continue
		}
		first, known := at[o.out.changed]
		if !known {
			at[o.out.changed] = o
			continue
		}
		a, b := first.out, o.out
		if a.version != b.version || a.label != b.label || a.repl != b.repl || a.stopped != b.stopped {
			wrong = append(wrong, fmt.Sprintf("job %s, last changed at index %d, was told in two ways: %v, and %v", h.name, b.changed, first, o))
		}
	}
	return wrong
}

// checkIndexes: who answers from index i knows every acknowledged change up to i. This binds reads of all kinds. A job that was
// removed in between is missing, or was last changed when it began anew.
func (h *history) checkIndexes() (wrong []string) {
	var writes []operation
	for _, o := range h.ops {
		if o.in.writes() && o.out.known && !o.out.missing && o.out.changed > 0 {
			writes = append(writes, o)
		}
	}
	slices.SortFunc(writes, func(a, b operation) int { return int(a.out.changed) - int(b.out.changed) })
	for _, o := range h.ops {
		if o.in.writes() || !o.out.known {
			continue
		}
		for _, w := range writes {
			if w.out.changed > o.out.index {
				break
			}
			if o.out.index > 0 && !o.out.missing && o.out.changed < w.out.changed {
				wrong = append(wrong, fmt.Sprintf("job %s: %v misses the change of %v", h.name, o, w))
			}
		}
	}
	return wrong
}

// text is the history for people who look for the cause.
func (h *history) text(wrong []string) string {
	ops := slices.Clone(h.ops)
	slices.SortFunc(ops, func(a, b operation) int { return int(a.call - b.call) })
	var b strings.Builder
	for _, w := range wrong {
		fmt.Fprintln(&b, w)
	}
	for _, o := range ops {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}
