package main

import (
	"context"
	"sync"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
)

// lingering is how long a follower listens to a task that has ended: its last lines may still be on their way.
const lingering = time.Second

// follower prints the logs of all tasks that its targets match, attaching to new tasks as they are made.
type follower struct {
	s       *screen
	cl      *api.Client
	targets []target
	query   api.LogQuery
	printer *logPrinter
	open    map[job.TaskID]*attachment // only run touches it
	group   sync.WaitGroup
}

// attachment is the stream of one task.
type attachment struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed when the stream is over
	final  bool          // the task has ended: do not attach again

	mu   sync.Mutex
	last time.Time // of the last record, to go on after it
}

func (f *follower) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.group.Wait()
	defer cancel()
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
			return nil // Ctrl-C is how following ends
		}
		if err != nil {
			return err
		}
		tasks, err := pick(f.targets, list.Tasks)
		if err != nil {
			if first {
				return err
			}
			f.wind(nil)
			return nil // all that was followed is gone
		}
		f.attach(ctx, tasks, first)
		if f.wind(tasks) {
			return nil
		}
		q.After, q.Wait = list.Index, time.Second // also look at streams that broke
		if list.Stale {
			_ = pause(ctx, retryPause) // ctx is looked at above
		}
	}
}

// attach opens the streams that should be and are not. What a task wrote before this began counts only at first.
func (f *follower) attach(ctx context.Context, tasks []api.Task, first bool) {
	for i := range tasks {
		t := &tasks[i]
		if state := t.State(); state == job.Placed || state == job.Pulling {
			continue // nothing to read yet
		}
		a := f.open[t.ID]
		q := f.query
		switch {
		case a == nil && !first:
			q.Tail = 0 // a task that came while we watched: all of it is new
		case a == nil:
		case a.final || !a.over():
			continue
		default: // the stream broke: go on after what was printed
			if last := a.lastTime(); !last.IsZero() {
				q.Since, q.Tail = last.Add(1), 0
			}
		}
		if len(f.open) >= maxStreams && a == nil {
			continue
		}
		f.follow(ctx, t, q, a)
	}
}

func (f *follower) follow(ctx context.Context, t *api.Task, q api.LogQuery, before *attachment) {
	ctx, cancel := context.WithCancel(ctx)
	a := &attachment{cancel: cancel, ended: make(chan struct{})}
	if before != nil {
		a.last = before.lastTime()
	}
	f.open[t.ID] = a
	name := fullName(t)
	f.printer.expect(name)
	f.group.Go(func() {
		defer close(a.ended)
		defer cancel()
		_ = f.cl.Logs(ctx, string(t.ID), q, func(r api.LogRecord) error { // a stream that breaks is opened again
			if r.Error != "" {
				return job.Errorf(job.Unavailable, "%s", r.Error)
			}
			a.mark(r.Time)
			return f.printer.print(name, &r)
		})
	})
}

// wind ends the streams of tasks that have ended or are gone, and tells whether nothing is left to wait for: every
// target was a single task and has ended.
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
			time.AfterFunc(lingering, a.cancel)
		}
	}
	if len(running) > 0 {
		return false
	}
	for _, t := range f.targets {
		if t.explicit || !isID(t.text, tasks) {
			return false // a slot or a job may get a new task
		}
	}
	for _, a := range f.open {
		<-a.ended
	}
	return true
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

func (a *attachment) mark(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = at
}

func (a *attachment) lastTime() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}
