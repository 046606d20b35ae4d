package scheduler

import (
	"fmt"
	"strings"

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
	case why.slots > 0 && (s.blocked == nil || s.blocked.Slots != why.slots || s.blocked.Reason != why.text):
		w.plan.Block = append(w.plan.Block, job.Blocked{
			Job: s.job.name, Service: s.name, Slots: why.slots, Reason: why.text, Since: w.now,
		})
	default:
		return
	}
	w.again(s)
}

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
	isClosed
	hasMost
	refusalKinds
)

// refusals counts nodes by why they refuse.
type refusals struct {
	count  [refusalKinds]int
	broken string // one of the constraints that did not hold
}

func (r *refusals) add(o refusals) {
	for i, n := range o.count {
		r.count[i] += n
	}
}

// whyNone asks every node why it takes no task of the service.
func (p *Planner) whyNone(s *service) (r refusals) {
	var brokenOn *node
	k := &picker{p: p, s: s}
	for _, n := range p.nodes {
		no := fits
		c := s.class.broken(n.n)
		switch {
		case c != nil:
			no = breaks
			if brokenOn == nil || n.n.ID < brokenOn.n.ID {
				brokenOn, r.broken = n, c.String()
			}
		case n.n.State != job.NodeReady:
			no = isDown
		case n.n.Drained:
			no = isDraining
		default:
			no = k.refuses(n)
		}
		r.count[no]++
	}
	return r
}

// String is a sentence with counts: "no node fits: 2 lack memory (want 512 MiB), 1 is draining".
func (r refusals) String(i *info) string {
	var parts []string
	say := func(k refusal, one, many, detail string) {
		switch n := r.count[k]; {
		case n == 1:
			parts = append(parts, "1 "+one+detail)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s%s", n, many, detail))
		}
	}
	d := i.demand
	say(lacksCPU, "lacks CPU", "lack CPU", fmt.Sprintf(" (want %g)", float64(d.NanoCPUs)/1e9))
	say(lacksMemory, "lacks memory", "lack memory", fmt.Sprintf(" (want %s)", mebibytes(d.MemoryBytes)))
	say(lacksPIDs, "lacks pids", "lack pids", fmt.Sprintf(" (want %d)", d.PIDs))
	say(lacksGeneric, "lacks", "lack", " "+genericList(i.spec.Generic))
	say(portTaken, "has the host port taken", "have the host port taken", " ("+portList(i.ports)+")")
	say(hasMost, "has", "have", fmt.Sprintf(" %d of it already, the most allowed", i.spec.MaxPerNode()))
	say(isClosed, "takes no new tasks for now", "take no new tasks for now", "")
	say(breaks, "does not satisfy a constraint", "do not satisfy a constraint", " ("+r.broken+")")
	say(isDraining, "is draining", "are draining", "")
	say(isDown, "is down or left", "are down or left", "")
	if len(parts) == 0 {
		return "no node fits: there is no node"
	}
	return "no node fits: " + strings.Join(parts, ", ")
}

func mebibytes(b int64) string {
	return units.CustomSize("%.4g %s", float64(b), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

func genericList(gs []job.GenericRequest) string {
	ss := make([]string, len(gs))
	for i, g := range gs {
		ss[i] = fmt.Sprintf("%s (want %d)", g.Kind, g.Count)
	}
	return strings.Join(ss, ", ")
}

func portList(ps []job.Port) string {
	ss := make([]string, len(ps))
	for i, p := range ps {
		ss[i] = fmt.Sprintf("%d/%s", p.Published, p.Protocol)
	}
	return strings.Join(ss, ", ")
}
