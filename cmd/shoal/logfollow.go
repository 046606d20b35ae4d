package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// lingering is for how long nothing must have come of a task that has ended before its stream is taken to be at its end.
const lingering = time.Second

// follower prints the logs of all tasks that its targets match, attaching to new tasks as they are made.
type follower struct {
	s       *screen
	cl      *api.Client
	targets []target
	query   api.LogQuery
	printer *logPrinter
	open    map[job.TaskID]*attachment // only run and what it calls touch it
	waiting map[job.TaskID]bool        // were there at first, when too many others were followed
	left    int                        // tasks that are not followed, because too many others are
	full    bool                       // that was said
	group   sync.WaitGroup
}

// attachment is the stream of one task.
type attachment struct {
	name   string // of the task
	cancel context.CancelFunc
	ended  chan struct{} // closed when the stream is over
	err    error         // what ended it, once it is over; nil: its own end, or ours
	told   bool          // the person knows that its log cannot be had
	final  bool          // the task has ended: do not attach again

	from time.Time // last, when the stream was opened
	late bool      // the task came while we watched: all that it wrote is new

	mu       sync.Mutex
	last     time.Time   // of the last record, to go on after it
	same     int         // how many of the last records in a row have that time
	printing bool        // a record, for as long as whoever reads it takes
	quiet    *time.Timer // once the task has ended: cancels
}

// unwritable is the cause of a follower's end whose output cannot be written.
type unwritable struct{ error }

func (f *follower) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer f.group.Wait()
	defer cancel(nil)
	f.waiting = map[job.TaskID]bool{}
	giveUp := func(err error) { cancel(unwritable{err}) }
	q := api.TaskQuery{All: true}
	for first := true; ; first = false {
		var list api.TaskList
		ask := func() (err error) {
			list, err = f.cl.Tasks(ctx, q)
			return err
		}
		var err error
		if first {
			err = persist(ctx, f.s, f.cl, ask)
		} else {
			err = outlast(ctx, f.s, ask)
		}
		if ctx.Err() != nil {
			return f.interrupted(ctx)
		}
		if err != nil {
			return err
		}
		tasks, err := pick(f.targets, list.Tasks)
		if err != nil {
			if first {
				return err
			}
			f.wind(nil) // all that was followed is gone
			f.await()
			f.tell(len(f.open))
			return f.interrupted(ctx)
		}
		tasks = f.withOpen(tasks, list.Tasks)
		f.forget(list.Tasks)
		if err := f.hopeless(tasks); err != nil {
			return err
		}
		f.tell(len(tasks))
		f.attach(ctx, giveUp, tasks, first)
		if f.wind(tasks) {
			if ctx.Err() != nil {
				return f.interrupted(ctx)
			}
			return f.lastWord()
		}
		q.After, q.Wait = list.Index, time.Second // also look at streams that broke
		if list.Stale {
			_ = pause(ctx, retryPause) // ctx is looked at above
		}
	}
}

// interrupted tells Ctrl-C, which is how following ends, from output that cannot be written.
func (f *follower) interrupted(ctx context.Context) error {
	var u unwritable
	if errors.As(context.Cause(ctx), &u) {
		return u.error
	}
	return nil
}

// attach opens the streams that should be and are not. What a task wrote before this began counts only at first.
func (f *follower) attach(ctx context.Context, giveUp func(error), tasks []api.Task, first bool) {
	live := 0
	for _, a := range f.open {
		if !a.over() {
			live++
		}
	}
	f.left = 0
	for i := range tasks {
		t := &tasks[i]
		if state := t.State(); state == job.Placed || state == job.Pulling {
			continue // nothing to read yet
		}
		a := f.open[t.ID]
		q := f.query
		q.Follow = !t.State().Terminal() // all that it wrote is there: read to the end
		late := a == nil && !first && !f.waiting[t.ID] || a != nil && a.late
		if late {
			q.Tail = 0 // a task that came while we watched: all of it is new
		}
		switch {
		case a == nil:
		case a.final || !a.over() || a.vain():
			continue
		case !q.Follow && a.err == nil: // its container is gone, and its log was read to the end
			a.final = true
			continue
		default: // the stream broke: go on after what was printed
			q = a.rest(q)
		}
		if live >= maxStreams {
			f.waiting[t.ID] = f.waiting[t.ID] || first
			f.left++
			continue
		}
		live++
		f.follow(ctx, giveUp, t, q, a)
		f.open[t.ID].late = late
	}
	if f.left > 0 && !f.full {
		f.full = true
		f.s.note("%s are followed, the most at a time; %d more wait until others end: name a service or a task", plural(live, "task"), f.left)
	}
}

func (f *follower) follow(ctx context.Context, giveUp func(error), t *api.Task, q api.LogQuery, before *attachment) {
	all := ctx
	ctx, cancel := context.WithCancel(ctx)
	a := &attachment{name: fullName(t), cancel: cancel, ended: make(chan struct{}), final: !q.Follow}
	if before != nil {
		a.last, a.same = before.lastRecords()
		a.from = a.last
		a.told = before.told && a.last.Equal(before.from)
	}
	f.open[t.ID] = a
	f.printer.expect(a.name)
	f.group.Go(func() {
		defer close(a.ended)
		defer cancel()
		err := f.read(ctx, giveUp, t.ID, q, a)
		if err != nil && all.Err() == nil && a.waning() { // it was only quiet, or broke: what is left is read to the end
			q = a.rest(q)
			q.Follow = false
			if err = f.read(all, giveUp, t.ID, q, a); job.KindOf(err) == job.NotFound {
				err = nil // its log went with it
			}
		}
		if err != nil && all.Err() == nil {
			a.err = fmt.Errorf("logs of %s: %w", a.name, err)
		}
	})
}

// read prints one stream to its end. It leaves out what is before the end of a's records: a stream that goes on begins with
// the time of the last one.
func (f *follower) read(ctx context.Context, giveUp func(error), task job.TaskID, q api.LogQuery, a *attachment) error {
	last, seen := a.lastRecords()
	return f.cl.Logs(ctx, string(task), q, func(r api.LogRecord) error { // a stream that breaks is opened again
		if err := r.Err(); err != nil {
			return err
		}
		if seen > 0 && r.Time.Equal(last) {
			seen--
			return nil
		}
		a.mark(r.Time)
		defer a.printed()
		if err := f.printer.print(a.name, &r); err != nil {
			giveUp(err)
			return err
		}
		return nil
	})
}

// tell says of each task once why its log cannot be had. Among several, one that has none does not matter.
func (f *follower) tell(of int) {
	for _, a := range f.open {
		if !a.over() || a.err == nil || a.told || of > 1 && job.KindOf(a.err) == job.NotFound {
			continue
		}
		a.told = true
		f.s.note("%v", a.err)
	}
}

// hopeless is the error of a follower that no log can come to: that of one task stands for all.
func (f *follower) hopeless(tasks []api.Task) error {
	var why error
	for i := range tasks {
		a := f.open[tasks[i].ID]
		if a == nil || !a.over() || !a.vain() {
			return nil
		}
		why = a.err
	}
	return why
}

// lastWord is how the following of single tasks that have ended ends.
func (f *follower) lastWord() error {
	if len(f.open) == 1 {
		for _, a := range f.open {
			return a.err
		}
	}
	f.tell(len(f.open))
	return nil
}

// forget drops what is known of tasks that the cluster has forgotten.
func (f *follower) forget(tasks []api.Task) {
	known := make(map[job.TaskID]bool, len(tasks))
	for i := range tasks {
		known[tasks[i].ID] = true
	}
	for id, a := range f.open {
		if !known[id] && a.over() {
			delete(f.open, id)
		}
	}
	for id := range f.waiting {
		if !known[id] {
			delete(f.waiting, id)
		}
	}
}

// withOpen adds those that are followed already and go on: of one slot pick takes the next task as soon as there is one.
// One that was given up does not count: nobody knows whether it goes on.
func (f *follower) withOpen(picked, all []api.Task) []api.Task {
	has := map[job.TaskID]bool{}
	for i := range picked {
		has[picked[i].ID] = true
	}
	for i := range all {
		t := &all[i]
		if a := f.open[t.ID]; a != nil && !a.final && !has[t.ID] && !t.State().Terminal() && t.Desired != job.DesiredLost {
			picked = append(picked, *t)
		}
	}
	return picked
}

// wind lets the streams of tasks that have ended or are gone come to their ends, and tells whether nothing is left to wait
// for: every target was a single task and has ended.
func (f *follower) wind(tasks []api.Task) (finished bool) {
	running := map[job.TaskID]bool{}
	for i := range tasks {
		if !tasks[i].State().Terminal() {
			running[tasks[i].ID] = true
		}
	}
	for id, a := range f.open {
		if !running[id] && !a.final {
			a.final = true
			a.wane()
		}
	}
	if len(running) > 0 || f.left > 0 {
		return false
	}
	for _, t := range f.targets {
		if t.explicit || !isID(t.text, tasks) {
			return false // a slot or a job may get a new task
		}
	}
	f.await()
	return true
}

// await returns when all streams are at their ends.
func (f *follower) await() {
	for _, a := range f.open {
		<-a.ended
	}
}

func isID(text string, tasks []api.Task) bool {
	for i := range tasks {
		if id := string(tasks[i].ID); len(text) <= len(id) && id[:len(text)] == text && tasks[i].Job != text {
			return true
		}
	}
	return false
}

func (a *attachment) over() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// vain tells of a stream that is over and that another try would not bring.
func (a *attachment) vain() bool {
	kind := job.KindOf(a.err)
	return kind == job.Invalid || kind == job.Denied
}

// mark notes a record that is about to be printed.
func (a *attachment) mark(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !at.Equal(a.last) {
		a.same = 0
	}
	a.last = at
	a.same++
	a.printing = true
	if a.quiet != nil {
		a.quiet.Stop()
	}
}

func (a *attachment) printed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.printing = false
	if a.quiet != nil {
		a.quiet.Reset(lingering)
	}
}

// wane says that the task has ended: its stream is cut once it is quiet.
func (a *attachment) wane() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.quiet = time.AfterFunc(lingering, a.cancel)
	if a.printing {
		a.quiet.Stop() // see printed
	}
}

func (a *attachment) waning() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.quiet != nil
}

// rest asks for what comes after the records that were printed, and for those of the last one's time again: see read.
func (a *attachment) rest(q api.LogQuery) api.LogQuery {
	if last, _ := a.lastRecords(); !last.IsZero() {
		q.Since, q.Tail = last, 0
	}
	return q
}

// lastRecords gives the time of the last record, and how many have it.
func (a *attachment) lastRecords() (last time.Time, same int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.same
}
