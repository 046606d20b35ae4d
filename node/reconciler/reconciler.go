// Package reconciler keeps one node's containers as its tasks say: it compares the tasks that it was given with the
// containers that there are, makes the runtime calls that bring the two together, and reports what became of each task.
// It knows tasks and the runtime's contract; it refuses to know where tasks come from, who reads its reports, and
// anything of other nodes.
package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

// Assignment is a task of this node with the service that it runs, as the feed gives it.
type Assignment struct {
	Task    job.Task    `json:"task"`
	Service job.Service `json:"service"`
}

// Config is what a Reconciler needs. Runtime, Node, Report and Dir are required.
type Config struct {
	Runtime runtime.Runtime
	Node    job.NodeID

	// Report brings statuses to the leader: at most one per task and MaxBatch in all, sorted by task. It blocks until
	// they are in the log, and nil means that they are. After an error it is called again, with the newest statuses. Its
	// context ends after ReportTimeout. It is called from one goroutine at a time.
	Report func(ctx context.Context, batch []job.Status) error

	// Dir keeps the last assignments and statuses, so that a node goes on without a quorum after a restart. It belongs
	// to one node of one cluster: whoever gives the node a new life empties it.
	Dir string

	// Env adds to a container's environment when it is made; nil adds nothing. It must not block.
	Env func(a Assignment) []string

	// Drain blocks until a task that served and is to end may be asked to stop, because nobody is sent to it any more; index
	// is that of the set by which it is to end. Its context ends when the task is given up, or with Run. nil: a fixed time.
	Drain func(ctx context.Context, a Assignment, index uint64)

	// OnChange is told the whole set of local tasks whenever it changed, and once at the start. It is called from Run's
	// goroutine and must not block; the slice is the callee's.
	OnChange func(local []Local)

	Logger *slog.Logger // nil: discards

	// Parallel is how many containers are created or started at once, and how many images are pulled at once; 0 is 4.
	// More finishes a full machine's start sooner, at the price of its CPU while others serve.
	Parallel int

	// Wall is the wall clock, of which a node's first numbers are made; nil: time.Now.
	Wall func() time.Time

	// BootID tells one run of the machine's kernel from another; "" reads the kernel's own where there is one.
	BootID string
}

// Local is a task of this node as DNS and routing want it.
type Local struct {
	Task      job.TaskID
	Job       string
	Service   string
	Slot      int
	Name      string     // "web.2"
	Container runtime.ID // "" while there is none
	Address   netip.Addr // zero while there is no container
	Ports     []job.Port // as bound
	State     job.State
	Health    job.Healthiness
	Ready     bool // runs, and is not known to be unwell
	Leaving   bool // it is meant to stop
}

// Bounds of what the reconciler does; each was chosen, not measured.
const (
	DefaultParallel = 4
	MaxBatch        = 1000                   // statuses in one report
	ReportTimeout   = 30 * time.Second       // of one report
	coalesce        = 100 * time.Millisecond // between a change and its report
	drainTime       = 500 * time.Millisecond // from "leave" to the stop signal of a task that was ready, when nobody says when its name has left
	hesitation      = 4 * time.Second        // after a start without the cluster's word: longer than an election
	resyncEvery     = 30 * time.Second       // all containers are compared, also without an event
	firstRetry      = 500 * time.Millisecond // doubled up to maxRetry
	maxRetry        = 30 * time.Second
	slowRetry       = 5 * time.Second // where trying again seldom helps: an image that does not exist
	hopelessTries   = 4               // of those
	unclearTries    = 10              // of errors without a kind
)

// Reconciler is one node's. Its methods may be called from any goroutine, also before and after Run.
type Reconciler struct {
	cfg    Config
	pulled pulls // its own lock
	log    *slog.Logger
	disk   *disk

	wakeCh   chan struct{} // something is in the inbox
	resultCh chan result
	probeCh  chan probed
	listCh   chan listed
	ackCh    chan acked
	endCh    chan struct{} // closed when Run ends
	leaseCh  chan struct{} // see LeaseWanted

	// What Run's goroutine alone touches.
	tasks  map[job.TaskID]*task
	order  []*task // by raft index, then id: who came first starts first
	resort bool
	// hesitateUntil: nothing of the saved set is started before, because a machine that was away may have been replaced;
	// the cluster's first word ends it.
	hesitateUntil time.Time
	complete      bool // a complete set came since the start: what is not in it is not ours to run
	index         uint64
	seq           uint64
	rebooted      bool // the machine was started anew since the statuses were saved
	adopted       bool // the first list came
	listing       bool
	listAt        time.Time
	listTries     int
	early         map[job.TaskID]bool // of which no task is known yet, and of which an event came while the list was made
	started       uint64              // counts workers: tells which is newer, a list or a task's last change
	pulls         int                 // under way
	starts        int
	reportAt      time.Time // zero: nothing to report
	reportWait    int       // failed reports in a row
	reporting     bool
	saveAt        time.Time
	viewOld       bool    // view is not what is true
	told          []Local // by OnChange
	toldOnce      bool
	workers       sync.WaitGroup

	mu    sync.Mutex // guards what follows
	inbox inbox
	view  view
	// tooOld is the last set if it was not taken.
	tooOld *set
}

// inbox is what callers want of Run's goroutine.
type inbox struct {
	set       *set
	holds     uint64 // see Holds
	reportAll bool
	until     map[job.TaskID]time.Duration // leases that were granted
}

type set struct {
	assignments []Assignment
	index       uint64
	complete    bool
}

// view is what callers may see.
type view struct {
	statuses   []job.Status
	local      []Local
	leased     []Leased
	containers map[job.TaskID]runtime.ID
}

// New checks cfg and reads what was saved in Dir. It starts nothing.
func New(cfg Config) (*Reconciler, error) {
	switch {
	case cfg.Runtime == nil:
		return nil, errors.New("reconciler: no runtime")
	case cfg.Node == "":
		return nil, errors.New("reconciler: no node id")
	case cfg.Report == nil:
		return nil, errors.New("reconciler: no way to report")
	case cfg.Dir == "":
		return nil, errors.New("reconciler: no directory")
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	if cfg.BootID == "" {
		cfg.BootID = bootID()
	}
	r := &Reconciler{
		cfg: cfg, log: cfg.Logger,
		disk:     &disk{dir: cfg.Dir, kick: make(chan struct{}, 1)},
		wakeCh:   make(chan struct{}, 1),
		resultCh: make(chan result, 64), probeCh: make(chan probed), listCh: make(chan listed), ackCh: make(chan acked),
		endCh: make(chan struct{}), leaseCh: make(chan struct{}, 1),
		tasks: map[job.TaskID]*task{},
	}
	if err := r.restore(); err != nil {
		return nil, fmt.Errorf("reconciler: %w", err)
	}
	r.viewOld = true
	r.publish()
	return r, nil
}

// Set tells the node's tasks as they were at a raft index. A complete set replaces what was known: a task that is not in
// it is stopped and removed. Another only adds and updates. A set older than one that was seen is ignored. Until the
// first complete set after a start, the saved one holds and nothing unknown is removed.
func (r *Reconciler) Set(assignments []Assignment, index uint64, complete bool) {
	r.mu.Lock()
	r.inbox.add(set{slices.Clone(assignments), index, complete})
	r.inbox.holds = 0 // was said of another
	r.mu.Unlock()
	r.wake()
}

// add keeps the inbox as small as what it says: a complete set makes those before it void, and others melt into one.
func (in *inbox) add(s set) {
	last := in.set
	switch {
	case last != nil && s.index < last.index:
		return
	case s.complete || last == nil:
		in.set = &s
		return
	}
	last.index = s.index
	for _, a := range s.assignments {
		last.assignments = slices.DeleteFunc(last.assignments, func(b Assignment) bool { return b.Task.ID == a.Task.ID })
	}
	last.assignments = append(last.assignments, s.assignments...)
}

// Holds tells that the set that Set was given last is what there is at a later index of the log too. One that was too old to be
// taken, because this node's copy of the log was still behind, may be good enough then.
func (r *Reconciler) Holds(index uint64) {
	r.mu.Lock()
	news := r.tooOld != nil || r.inbox.set != nil // which may be too old
	if news {
		r.inbox.holds = max(r.inbox.holds, index)
	}
	r.mu.Unlock()
	if news {
		r.wake()
	}
}

// ReportAll sends all statuses again, as after a new leader or a new connection to it.
func (r *Reconciler) ReportAll() {
	r.mu.Lock()
	r.inbox.reportAll = true
	r.mu.Unlock()
	r.wake()
}

func (r *Reconciler) wake() {
	select {
	case r.wakeCh <- struct{}{}:
	default:
	}
}

// Statuses tells what is true here, reported or not, sorted by task.
func (r *Reconciler) Statuses() []job.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.view.statuses)
}

// Local tells all local tasks that have not ended, sorted by task.
func (r *Reconciler) Local() []Local {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.view.local)
}

// Container tells a task's container, also of one that has ended; false if there is none.
func (r *Reconciler) Container(t job.TaskID) (runtime.ID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, ok := r.view.containers[t]
	return id, ok
}

// Run reconciles until ctx ends, and then returns nil; it touches no container on its way out. It may be called once.
func (r *Reconciler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		r.disk.run(ctx, r.log)
	}()
	defer func() {
		cancel()
		close(r.endCh)
		r.workers.Wait()
		<-saved
		r.save()
		r.disk.flush(r.log) // what changed last must not be lost
	}()

	r.hesitateUntil = time.Now().Add(hesitation)
	evCh := r.cfg.Runtime.Events(ctx) // before the first list, so that nothing is missed between them
	r.reportAll()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		r.pass(ctx)
		timer.Reset(time.Until(r.due()))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-r.wakeCh:
			r.takeInbox()
		case ev, ok := <-evCh:
			if !ok { // the runtime gave up; List tells what we miss until it is back
				evCh = nil
				r.listAgain(time.Now())
				continue
			}
			r.event(ev)
		case res := <-r.resultCh:
			if ctx.Err() != nil {
				return nil // what a worker could not do because the agent ends is no failure
			}
			r.finish(res)
			r.finishReady()
		case p := <-r.probeCh:
			r.probed(p)
		case l := <-r.listCh:
			r.listed(l)
			if evCh == nil {
				evCh = r.cfg.Runtime.Events(ctx)
				r.listAgain(time.Now().Add(time.Second))
			}
		case a := <-r.ackCh:
			r.acked(a)
		}
	}
}

// pass does what is due now: workers, report, save, and the word to those who watch.
func (r *Reconciler) pass(ctx context.Context) {
	now := time.Now()
	if !r.listing && !now.Before(r.listAt) {
		r.list(ctx)
	}
	if r.adopted {
		r.act(ctx, now)
	}
	r.publish()
	if !r.reportAt.IsZero() && !r.reporting && !now.Before(r.reportAt) {
		r.report(ctx)
	}
	if !r.saveAt.IsZero() && !now.Before(r.saveAt) {
		r.save()
	}
}

// due tells when the next pass must be, at the latest.
func (r *Reconciler) due() time.Time {
	at := time.Now().Add(resyncEvery)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if r.hesitateUntil.After(time.Now()) {
		sooner(r.hesitateUntil)
	}
	if !r.listing {
		sooner(r.listAt)
	}
	if !r.reporting {
		sooner(r.reportAt)
	}
	sooner(r.saveAt)
	if r.adopted {
		now := time.Now()
		for _, t := range r.tasks {
			if t.busy == opNone && t.notBefore.After(now) {
				sooner(t.notBefore)
			}
		}
	}
	return at
}

func (r *Reconciler) takeInbox() {
	r.mu.Lock()
	in := r.inbox
	r.inbox = inbox{}
	r.mu.Unlock()
	if in.set != nil {
		r.apply(*in.set)
	}
	if old := r.tooOld; old != nil && in.holds >= r.index {
		r.apply(set{old.assignments, in.holds, old.complete})
	}
	if in.reportAll {
		r.reportAll()
	}
	r.takeGrants(in.until)
}

// apply makes a set the truth about what is wanted.
func (r *Reconciler) apply(s set) {
	var tooOld *set
	if s.index < r.index {
		tooOld = &s
	}
	r.mu.Lock()
	r.tooOld = tooOld // written here alone, so that this goroutine reads it without the lock
	r.mu.Unlock()
	if tooOld != nil {
		r.log.Warn("ignored tasks older than what is known", "index", s.index, "known", r.index)
		return
	}
	r.index = s.index
	r.hesitateUntil = time.Time{}
	if s.complete {
		r.complete = true
		for _, t := range r.tasks {
			t.assigned = false
		}
	}
	for _, a := range s.assignments {
		r.task(a.Task.ID).assign(a)
	}
	for _, t := range r.tasks {
		if t.leaving(r.complete) {
			t.leave()
		}
	}
	r.viewOld = true
	r.resort = true // a task may have got its index only now
	r.saveAssignments()
}

// task finds or makes a task's record.
func (r *Reconciler) task(id job.TaskID) *task {
	t := r.tasks[id]
	if t == nil {
		t = newTask(id, r.cfg.Node)
		t.boot = r.cfg.Runtime.Boot
		r.tasks[id] = t
		r.resort = true
	}
	return t
}

// event marks what a hint is about; the truth is asked by a worker.
func (r *Reconciler) event(ev runtime.Event) {
	if ev.Kind == runtime.EventLost {
		r.listAgain(time.Now())
		return
	}
	id := job.TaskID(ev.ID)
	if t := r.tasks[id]; t != nil {
		t.stale = true
	} else if r.listing { // the list may have read it before that
		if r.early == nil {
			r.early = map[job.TaskID]bool{}
		}
		r.early[id] = true
	}
}
