package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// reason is why slots of a service are empty or held up.
type reason struct {
	slots int
	no    refusals
	text  string
}

// join adds another slot's reason, which is the one that is told.
func (r *reason) join(o reason) {
	r.slots += o.slots
	r.text = cmp.Or(o.text, r.text)
}

// explain tells a service's reason where it differs from what the state has. A plan cut short tells nothing: it has not
// seen all slots.
func (w *work) explain(s *service, why reason) {
	if w.left <= 0 {
		return
	}
	if len(why.text) > state.MaxMessage {
		why.text = strings.ToValidUTF8(why.text[:state.MaxMessage-len("…")], "") + "…"
	}
	switch {
	case why.slots == 0 && s.blocked != nil:
		w.plan.Unblock = append(w.plan.Unblock, state.ServiceRef{Job: s.job.name, Service: s.name})
	case why.slots > 0 && (s.blocked == nil || s.blocked.Slots != why.slots || w.differs(s.blocked, why.text)):
		w.plan.Block = append(w.plan.Block, job.Blocked{
			Job: s.job.name, Service: s.name, Slots: why.slots, Reason: why.text, Since: w.now,
		})
	default:
		return
	}
	w.again(s)
}

// figuresAfter is how old a reason must be for new figures of what is free to be worth a line in the log.
const figuresAfter = 10 * time.Second

// differs tells whether a reason says something new: new figures alone are not, as long as the old ones are young.
func (w *work) differs(was *job.Blocked, text string) bool {
	if was.Reason == text || w.now.Sub(was.Since) < figuresAfter && withoutFigures(was.Reason) == withoutFigures(text) {
		return false
	}
	return true
}

// withoutFigures leaves out how much is free at most.
func withoutFigures(text string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(text, mostFree)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		_, text, _ = strings.Cut(after, ")")
	}
}

const mostFree = ", most free "

// refusal is the first way in which a node cannot take a task.
type refusal int

const (
	fits refusal = iota
	isDown
	isDraining
	breaks // a constraint
	lacksCPU
	lacksMemory
	lacksPIDs
	lacksGeneric
	portTaken
	hasMost
	lacksFriend
	hasFoe
	breaksFollower
	refusalKinds
)

// refusals counts nodes by why they refuse, with what a person needs to see why.
type refusals struct {
	count  [refusalKinds]int
	broken map[string]int // constraints that did not hold
	peers  map[string]int // services to be with or apart from, with the sign of which
	free   job.Resources  // the most that is free where CPU, memory or pids lack, each by itself
	lacks  map[string]int // the most that is free of a generic resource where it lacks
	// because says all where nodes were not asked. bound says why one node alone was asked.
	because, bound string
	all            bool // every node is to be asked
}

func (r *refusals) any() bool { return r.because != "" || r.count != [refusalKinds]int{} }

// join adds the refusal of one slot to those of others. A slot that had a choice says nothing itself: then all nodes are
// to be asked. Of those that were bound to a node for a reason of their own the first speaks.
func (r *refusals) join(o refusals) {
	switch {
	case !o.any():
		r.all = true
	case o.because == "" && o.bound == "":
		r.add(o)
	case !r.any():
		all := r.all
		*r = o
		r.all = all
	}
}

// explain words why slots stay empty.
func (k *picker) explain(r refusals) string {
	if r.all {
		r = k.whyNone()
	}
	return r.String(k.ask)
}

func (r *refusals) add(o refusals) {
	for i, n := range o.count {
		r.count[i] += n
	}
	addCounts(&r.broken, o.broken)
	addCounts(&r.peers, o.peers)
	for k, v := range o.lacks {
		if r.lacks == nil {
			r.lacks = map[string]int{}
		}
		r.lacks[k] = max(r.lacks[k], v)
	}
	r.free.NanoCPUs = max(r.free.NanoCPUs, o.free.NanoCPUs)
	r.free.MemoryBytes = max(r.free.MemoryBytes, o.free.MemoryBytes)
	r.free.PIDs = max(r.free.PIDs, o.free.PIDs)
	r.because, r.bound = cmp.Or(r.because, o.because), cmp.Or(r.bound, o.bound)
}

func addCounts(to *map[string]int, more map[string]int) {
	for k, v := range more {
		if *to == nil {
			*to = map[string]int{}
		}
		(*to)[k] += v
	}
}

// note counts one node's refusal.
func (r *refusals) note(k *picker, n *node, no refusal) {
	r.count[no]++
	switch no {
	case breaks:
		addCounts(&r.broken, map[string]int{k.s.class.broken(n.n).String(): 1})
	case lacksCPU:
		r.free.NanoCPUs = max(r.free.NanoCPUs, n.have.NanoCPUs-n.used.NanoCPUs)
	case lacksMemory:
		r.free.MemoryBytes = max(r.free.MemoryBytes, n.have.MemoryBytes-n.used.MemoryBytes)
	case lacksPIDs:
		r.free.PIDs = max(r.free.PIDs, n.have.PIDs-n.used.PIDs)
	case lacksGeneric:
		if r.lacks == nil {
			r.lacks = map[string]int{}
		}
		for _, g := range k.ask.spec.Generic {
			if free := n.n.GenericTotal(g.Kind) - n.generic[g.Kind]; free < g.Count {
				r.lacks[g.Kind] = max(r.lacks[g.Kind], free)
			}
		}
	case lacksFriend, hasFoe:
		addCounts(&r.peers, map[string]int{k.rules.breaks(n).String(): 1})
	}
}

// String is what a rule asks: "with db", "apart from db by node.labels.zone".
func (r *peerRule) String() string {
	text := "with "
	switch {
	case r.theirs:
		text = "disturb "
	case r.Apart:
		text = "apart from "
	}
	text += r.name
	if r.By != "" {
		text += " by " + r.By
	}
	return text
}

// whyNone asks every node why it takes no task of the service.
func (k *picker) whyNone() (r refusals) {
	for _, n := range k.p.nodes {
		r.note(k, n, k.p.refusal(k, n))
	}
	return r
}

// String is a sentence with counts: "no node fits: 2 lack memory (want 512 MiB, most free 300 MiB), 1 is draining".
func (r refusals) String(i *info) string {
	if r.because != "" {
		return r.because
	}
	parts := r.parts(i)
	switch {
	case r.bound != "" && len(parts) == 1:
		return r.bound + ", which " + strings.TrimPrefix(parts[0], "1 ")
	case len(parts) == 0:
		return "no node fits: there is no node"
	}
	return "no node fits: " + strings.Join(parts, ", ")
}

func (r *refusals) parts(i *info) (parts []string) {
	say := func(k refusal, one, many, detail string) {
		switch n := r.count[k]; {
		case n == 1:
			parts = append(parts, "1 "+one+detail)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s%s", n, many, detail))
		}
	}
	each := func(m map[string]int, one, many string) {
		for _, k := range mostFirst(m) {
			if m[k] == 1 {
				parts = append(parts, "1 "+one+k)
			} else {
				parts = append(parts, fmt.Sprintf("%d %s%s", m[k], many, k))
			}
		}
	}
	d := i.demand
	say(lacksCPU, "lacks CPU", "lack CPU", fmt.Sprintf(" (want %g, most free %g)", float64(d.NanoCPUs)/1e9, float64(max(r.free.NanoCPUs, 0))/1e9))
	say(lacksMemory, "lacks memory", "lack memory", fmt.Sprintf(" (want %s, most free %s)", mebibytes(d.MemoryBytes), mebibytes(max(r.free.MemoryBytes, 0))))
	say(lacksPIDs, "lacks pids", "lack pids", fmt.Sprintf(" (want %d, most free %d)", d.PIDs, max(r.free.PIDs, 0)))
	say(lacksGeneric, "lacks ", "lack ", r.genericList(i.spec.Generic))
	say(portTaken, "has the host port taken", "have the host port taken", " ("+portList(i.ports)+")")
	say(hasMost, "has", "have", fmt.Sprintf(" %d of it already, the most allowed", i.spec.MaxPerNode()))
	var musts, theirs map[string]int
	for k, n := range r.peers {
		if o, ok := strings.CutPrefix(k, "disturb "); ok {
			addCounts(&theirs, map[string]int{o: n})
		} else {
			addCounts(&musts, map[string]int{k: n})
		}
	}
	each(musts, "is not ", "are not ")
	each(theirs, "has a task that must be apart from it, of ", "have a task that must be apart from it, of ")
	say(breaksFollower, "cannot take", "cannot take", " those that share its node")
	each(r.broken, "does not match ", "do not match ")
	say(isDraining, "is draining", "are draining", "")
	say(isDown, "is down or left", "are down or left", "")
	return parts
}

// maxKinds bounds how many constraints or peers one reason names.
const maxKinds = 4

// mostFirst lists the keys of the largest counts.
func mostFirst(m map[string]int) []string {
	keys := sortedNames(m)
	slices.SortStableFunc(keys, func(a, b string) int { return m[b] - m[a] })
	return keys[:min(len(keys), maxKinds)]
}

func (r *refusals) genericList(gs []job.GenericRequest) string {
	var ss []string
	for _, g := range gs {
		if free, lacks := r.lacks[g.Kind]; lacks {
			ss = append(ss, fmt.Sprintf("%s (want %d, most free %d)", g.Kind, g.Count, max(free, 0)))
		}
	}
	return strings.Join(ss, ", ")
}

func mebibytes(b int64) string {
	return units.CustomSize("%.4g %s", float64(b), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

func portList(ps []job.Port) string {
	ss := make([]string, len(ps))
	for i, p := range ps {
		ss[i] = fmt.Sprintf("%d/%s", p.Published, p.Protocol)
	}
	return strings.Join(ss, ", ")
}
