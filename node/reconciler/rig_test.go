package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
	"shoal/runtime/fake"
)

// rig is a machine with a fake runtime, an agent on it that can be stopped and started, and a leader that listens.
// It must be used inside a bubble.
type rig struct {
	*testing.T
	rt   *fake.Runtime
	dir  string
	boot string
	par  int
	wall func() time.Time
	wrap func(runtime.Runtime) runtime.Runtime // what the agent sees of rt; nil: all as it is

	r       *Reconciler
	cancel  context.CancelFunc
	ended   chan error
	mu      sync.Mutex
	deaf    bool // the leader cannot be reached
	torn    bool // the files were lost, and with them the times
	batches int
	leader  map[job.TaskID]job.Status   // what the leader knows
	history map[job.TaskID][]job.Status // everything that it accepted
	changes [][]Local
	within  func() // called in the midst of a pass, when something has changed; nil: nothing is
}

func inBubble(t *testing.T, f func(g *rig)) { inBubbleWith(t, fake.Config{}, f) }

func inBubbleWith(t *testing.T, cfg fake.Config, f func(g *rig)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		if cfg.Images == nil {
			cfg.Images = map[string]fake.Image{"web": {Absent: true, PullDelay: time.Second}}
		}
		g := &rig{T: t, rt: fake.New(cfg), dir: dir, boot: "boot-1",
			leader: map[job.TaskID]job.Status{}, history: map[job.TaskID][]job.Status{}}
		g.start()
		f(g)
		g.stop()
		g.rt.Close()
	})
}

func (g *rig) start() {
	g.Helper()
	var rt runtime.Runtime = g.rt.Reopen()
	if g.wrap != nil {
		rt = g.wrap(rt)
	}
	r, err := New(Config{
		Runtime: rt, Node: "node-1", Report: g.report, Dir: g.dir, BootID: g.boot, Parallel: g.par, Wall: g.wall,
		Env: func(a Assignment) []string { return []string{"SHOAL_TASK=" + string(a.Task.ID)} },
		OnChange: func(l []Local) {
			g.mu.Lock()
			g.changes = append(g.changes, l)
			within := g.within
			g.mu.Unlock()
			if within != nil {
				within()
			}
		},
	})
	if err != nil {
		g.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.r, g.cancel, g.ended = r, cancel, make(chan error, 1)
	go func() { g.ended <- r.Run(ctx) }()
}

func (g *rig) stop() {
	g.Helper()
	g.cancel()
	if err := <-g.ended; err != nil {
		g.Errorf("run: %v", err)
	}
}

// report is the leader's side; it holds what must hold of every sequence of reports.
func (g *rig) report(_ context.Context, batch []job.Status) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.deaf {
		return errors.New("no leader")
	}
	g.batches++
	for _, s := range batch {
		old, known := g.leader[s.Task]
		if known && s.Seq <= old.Seq {
			g.Errorf("task %s: report %d after %d", s.Task, s.Seq, old.Seq)
		}
		if known && (s.State.Before(old.State) || old.State.Terminal() && s.State != old.State) {
			g.Errorf("task %s: reported %s after %s", s.Task, s.State, old.State)
		}
		for st, at := range old.At {
			if !g.torn && !s.At[st].Equal(at) {
				g.Errorf("task %s: time of %s changed from %v to %v", s.Task, st, at, s.At[st])
			}
		}
		if s.Node != "node-1" {
			g.Errorf("task %s: reported for node %q", s.Task, s.Node)
		}
		g.leader[s.Task] = s
		g.history[s.Task] = append(g.history[s.Task], s)
	}
	return nil
}

func (g *rig) setDeaf(v bool) { g.mu.Lock(); g.deaf = v; g.mu.Unlock() }

// status is what the leader knows of a task.
func (g *rig) status(id job.TaskID) job.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leader[id]
}

// states are the states that the leader was told, each once.
func (g *rig) states(id job.TaskID) []job.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []job.State
	for _, s := range g.history[id] {
		out = append(out, s.State)
	}
	return slices.Compact(out)
}

// pass lets time go by.
func (g *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (g *rig) set(as ...Assignment) { g.setAt(1, true, as...) }

func (g *rig) setAt(index uint64, complete bool, as ...Assignment) {
	g.r.Set(as, index, complete)
	synctest.Wait()
}

func (g *rig) info(id job.TaskID) (runtime.Info, bool) {
	in, err := g.rt.Inspect(context.Background(), runtime.ID(id))
	return in, err == nil
}

func (g *rig) wantState(id job.TaskID, want job.State) {
	g.Helper()
	if s := g.status(id); s.State != want {
		g.Errorf("task %s: leader knows %q (%s), want %q", id, s.State, s.Message, want)
	}
}

func (g *rig) wantContainer(id job.TaskID, want runtime.State, starts int) {
	g.Helper()
	in, ok := g.info(id)
	if !ok || in.State != want || in.Starts != starts {
		g.Errorf("container %s: there %v, %q with %d starts, want %q with %d", id, ok, in.State, in.Starts, want, starts)
	}
}

func (g *rig) wantNoContainer(id job.TaskID) {
	g.Helper()
	if in, ok := g.info(id); ok {
		g.Errorf("container %s is still there: %s", id, in.State)
	}
}

// calls counts the runtime calls of one name for one container.
func (g *rig) calls(c fake.Call, id string) int {
	n := 0
	for _, s := range g.rt.Calls() {
		if s == string(c)+" "+id {
			n++
		}
	}
	return n
}

// web is an assignment of a service "web" whose container serves until it is told to stop.
func web(id job.TaskID, change ...func(*Assignment)) Assignment {
	a := Assignment{
		Task:    job.Task{ID: id, Job: "shop", Service: "web", Slot: 1, Node: "node-1", Desired: job.DesiredRun, Digest: "d1", Index: 7},
		Service: job.Service{Name: "web", Replicas: 1, Image: "web", Env: []string{"A=1"}},
	}
	for _, f := range change {
		f(&a)
	}
	return a
}

func command1(args ...string) func(*Assignment) {
	return func(a *Assignment) { a.Service.Command = args }
}

func desired(d job.Desired) func(*Assignment) { return func(a *Assignment) { a.Task.Desired = d } }

func policy(p job.Restart) func(*Assignment) { return func(a *Assignment) { a.Service.Restart = p } }

func health(h job.Health) func(*Assignment) { return func(a *Assignment) { a.Service.Health = &h } }

func port(p uint16) func(*Assignment) {
	return func(a *Assignment) { a.Service.Ports = []job.Port{{Published: p, Target: 80, Protocol: "tcp"}} }
}

func describe(s job.Status) string {
	code := "none"
	if s.ExitCode != nil {
		code = fmt.Sprint(*s.ExitCode)
	}
	return fmt.Sprintf("%s health %q restarts %d exit %s oom %v: %s", s.State, s.Health, s.Restarts, code, s.OOM, s.Message)
}
