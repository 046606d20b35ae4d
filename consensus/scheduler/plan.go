// Package scheduler decides what runs where: from the agreed state and the time it makes the next Plan, and a reason for
// every task that it cannot place. It is pure: it reads no clock, holds no connection, and knows neither how a plan gets
// into the log nor what a container is.
package scheduler

import (
	"cmp"
	"crypto/rand"
	"encoding/base32"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// Delays of the planner.
const (
	// minBackoff doubles with each task in a row that failed in a slot, up to maxBackoff.
	minBackoff = time.Second
	maxBackoff = time.Minute
	// steadyAfter is how long a task must have run for its failure to count as the first one again.
	steadyAfter = 5 * time.Minute
	// patience is how long a slot may take to stop or to become ready before it is said to hold up the others.
	patience = 30 * time.Second
	// drainPatience is how long a moved task may take to become ready before the next one of its service is moved.
	drainPatience = time.Minute
	// progressDeadline is how long a task of an update may take to become ready before it counts as failed (Nomad's).
	progressDeadline = 10 * time.Minute
	// verifyAfter is when to plan again after a plan that was not empty: it may have been refused or lost.
	verifyAfter = time.Second
)

// Next says when to plan again without any change.
type Next struct {
	At    time.Time // zero: only on change
	Dirty bool      // the limit cut the plan short: plan again once this one was applied
}

// Planner plans from its own index of the state, which New reads once and Update keeps. One goroutine owns it.
//
// The loop of its owner: Subscribe, New(view); then Plan, propose, Update with all batches up to the proposal's index,
// Plan again. A plan that was refused or lost is simply made again by the next Plan: nothing in the planner assumes that
// a plan came true until Update says so.
type Planner struct {
	// NewID makes task ids. New sets one that is random; tests set their own.
	NewID func() job.TaskID

	index uint64
	now   time.Time // of the plan in the making
	anchors
	// strategy is that of services without one of their own. preempts: a task may take the room of a lesser one.
	strategyOf job.Strategy
	preempts   bool
	nodes      map[job.NodeID]*node
	jobs       map[string]*jobState
	tasks      map[job.TaskID]*task
	infos      map[job.Digest]*info
	classes    map[string]*class

	queue    []*service             // dirty, each once
	globals  map[*service]struct{}  // services with a slot per node
	starved  map[*service]struct{}  // services with a slot that fits nowhere
	wakes    map[*service]time.Time // when a service must be looked at without a change
	freed    bool                   // since the last plan something ended or a node changed
	fresh    bool                   // it has made no plan yet
	balance  balancer
	shifting map[*service]struct{} // services that rebalancing moves
	flaps    map[job.NodeID]flaps
	claims   []claim // of the plan in the making
	cands    []cand  // memory of pickers

	whereabouts
}

type claim struct {
	n *node
	s *service // nil: one of its tasks was counted already
	i *info
	k *job.Task
}

// New builds the planner's index from a view: O(all), once per term.
func New(v *state.View) *Planner {
	p := &Planner{
		NewID: randomIDs(), index: v.Index(),
		nodes: map[job.NodeID]*node{}, jobs: map[string]*jobState{}, tasks: map[job.TaskID]*task{},
		infos: map[job.Digest]*info{}, classes: map[string]*class{},
		whereabouts: newWhereabouts(),
		globals:     map[*service]struct{}{}, starved: map[*service]struct{}{}, wakes: map[*service]time.Time{},
		fresh: true, shifting: map[*service]struct{}{},
		flaps: flapsOf(v),
	}
	p.putCluster(v.Cluster())
	for _, n := range v.Nodes() {
		p.putNode(nil, n)
	}
	// All of them, also those that nothing runs: a later rollout may name one as what was before.
	v.Services(func(d job.Digest, s *job.Service) { p.infos[d] = newInfo(s) })
	for _, j := range v.Jobs() {
		p.putJob(j.Name, j)
	}
	for _, t := range v.Tasks() {
		p.putTask(t, v.Status(t.ID))
	}
	for _, h := range v.Homes("") {
		p.putHome(nil, h)
	}
	for _, b := range v.Blocked("") {
		p.service(b.Job, b.Service).blocked = b
	}
	for _, a := range v.Autoscales("") {
		s := p.service(a.Job, a.Service)
		s.scaled = a
		s.noteCause()
	}
	for _, r := range v.Runs("", "") {
		p.putRun(nil, r)
	}
	for _, r := range v.Rollouts("") {
		s := p.service(r.Job, r.Service)
		s.rollout, s.former = r, p.formerOf(r)
	}
	return p
}

// randomIDs makes ids from a generator with 256 bits of seed: as hard to guess as the system's, at a tenth of its price.
func randomIDs() func() job.TaskID {
	var seed [32]byte
	rand.Read(seed[:]) // never fails (crypto/rand)
	return SeededIDs(seed)
}

// SeededIDs makes the same task ids for the same seed.
func SeededIDs(seed [32]byte) func() job.TaskID {
	r := mrand.NewChaCha8(seed)
	enc := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	return func() job.TaskID {
		var b [8]byte
		r.Read(b[:])
		var out [13]byte
		enc.Encode(out[:], b[:])
		return job.TaskID(out[:])
	}
}

// Index is the raft index of the last change that the planner knows.
func (p *Planner) Index() uint64 { return p.index }

// Plan decides at most about limit placements and stops (0: no limit but state.MaxPlan). now is the leader's clock, with its
// monotonic reading; Wall may tell another wall clock.
func (p *Planner) Plan(now time.Time, limit int) (state.Plan, Next) {
	if limit <= 0 || limit > state.MaxPlan {
		limit = state.MaxPlan
	}
	w := &work{p: p, now: now, left: limit, plan: state.Plan{Base: p.index, At: now}}
	p.now = now
	p.tick(now)
	p.beginBalance(now)
	p.wakeUp(now)
	// Classify all before deciding anything: what is found of one service can let another one of its job go on, which then
	// joins the end of the queue.
	for i := 0; i < len(p.queue); i++ {
		p.classifySlots(p.queue[i])
	}
	all := p.queue
	p.queue = nil
	// By priority and name, so that equal states make equal plans, but what a limit cut off last time goes first, and who
	// must be where others are comes after those.
	slices.SortFunc(all, func(a, b *service) int {
		return cmp.Or(cmp.Compare(a.cut, b.cut), cmp.Compare(b.priority(), a.priority()), compareBool(a.waitsFor(), b.waitsFor()), strings.Compare(a.job.name, b.job.name), strings.Compare(a.name, b.name))
	})
	for _, s := range all {
		s.queued = false
	}
	w.trailing = p.trailing()
	for todo := all; len(todo) > 0; {
		first, peers := todo[0], 1
		for peers < len(todo) && todo[peers].cut == first.cut && todo[peers].priority() == first.priority() {
			peers++
		}
		w.services(todo[:peers])
		todo = todo[peers:]
	}
	w.rebalance()
	if len(p.claims) > 0 { // what took the room may be refused, and then nothing is freed that would tell of it
		for _, s := range all {
			if _, waits := p.starved[s]; waits {
				w.wakeAt(s, now.Add(verifyAfter))
			}
		}
	}
	p.undoClaims()
	if !w.plan.Empty() {
		w.wake(now.Add(verifyAfter))
	}
	for _, at := range p.wakes {
		w.wake(at)
	}
	return w.plan, w.next
}

// wakeUp marks what waited for capacity, when some was freed, and what waited for a time that has come.
func (p *Planner) wakeUp(now time.Time) {
	if p.freed {
		for s := range p.starved {
			p.mark(s)
		}
		p.freed = false
	}
	for s := range p.promised { // nobody else shall take the room meanwhile
		p.mark(s)
	}
	for s, at := range p.wakes {
		if !at.After(now) {
			p.mark(s)
			delete(p.wakes, s)
		}
	}
}

// undoClaims takes back what the plan in the making claimed: only Update makes a plan true.
func (p *Planner) undoClaims() {
	for i := len(p.claims) - 1; i >= 0; i-- {
		c := p.claims[i]
		if c.s == nil {
			c.n.add(c.i, nil, -1)
			continue
		}
		p.release(c.n, c.s, c.i, c.k)
	}
	p.claims = p.claims[:0]
	clear(p.seats)
	for sl := range p.kept {
		p.dropKept(nil, sl)
	}
	for _, o := range p.promises {
		o.n.add(o.i, o.i.counts(), -1)
	}
	p.promises = p.promises[:0]
}

// mark has a service looked at by the next plan.
func (p *Planner) mark(s *service) {
	if !s.queued {
		s.queued = true
		p.queue = append(p.queue, s)
	}
}

// work is one plan in the making.
type work struct {
	p    *Planner
	hit  map[*service]bool // services of which tasks stop for others: what else they need, the next plan decides
	gone map[*task]bool    // tasks that stop for one of higher priority, or whose room one gets
	// lowest is the lowest priority of what runs; nil: not looked for yet.
	lowest   *int
	trailing []*service // those whose followers' room is not kept yet
	now      time.Time
	left     int
	plan     state.Plan
	next     Next
}

func (w *work) wake(at time.Time) {
	if w.next.At.IsZero() || at.Before(w.next.At) {
		w.next.At = at
	}
}
