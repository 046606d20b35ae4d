package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
	"shoal/runtime/image"
)

var _ runtime.Runtime = (*Runtime)(nil)

// Runtime runs containers on this machine. One at a time over the same directory. Safe for concurrent use.
//
// Locks: a container's op serialises what changes it and is held for as long as that takes; Runtime.mu and a container's
// mu guard memory only and are never held while waiting or on disk. Order: op, Runtime.mu, container.mu.
type Runtime struct {
	cfg     Config
	log     *slog.Logger
	program *program
	events  broker
	watch   *watcher
	// modified tells of the counters of out-of-memory kills on cgroup v2.
	modified *modified
	pool     *pool
	moves    sync.Mutex // held while expectMoves is at it

	mu         sync.Mutex
	containers map[runtime.ID]*container
	users      map[runtime.ID]uint32 // first users of containers that have their own
}

// container is one container in memory. What it knows can be read from its directory at any time.
type container struct {
	id  runtime.ID
	dir string
	rec stage.Record

	// op serialises operations: Start, Stop, Remove. A channel, so that waiting for it can end with a context.
	op chan struct{}
	// wanted takes a word from whoever waits for op to change the container, when its holder is one that can give way: see giveWay.
	wanted chan struct{}

	mu       sync.Mutex
	removed  bool
	state    runtime.State
	start    stage.StartRecord
	exit     stage.ExitRecord
	ports    []runtime.Port
	pidfd    int           // of the monitor; -1 unless running
	monitor  int           // its pid
	ended    chan struct{} // closed when the container's run is over; nil before the first
	until    time.Duration // to when its lease was renewed by us, on the boot clock; 0: by an agent before us, or never
	paused   bool          // its processes are frozen
	killed   bool          // we sent SIGKILL in this run: then that was not the memory limit
	oomSeen  int           // kills reported as events in this run
	oomWatch *oomWatch
	changed  chan struct{} // closed and replaced when it is started, cannot be, or is removed

	attach sync.Mutex // guards hub, also while its FIFOs are made, which waits for nobody
	hub    *hub       // of those who are attached to the present run or, kept for the first, to the last one; may be nil
}

// tellLocked wakes those who wait for the container to be started.
func (c *container) tellLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// New opens the runtime over cfg.Dir, adopts the containers that it finds and removes what was left half-made. It starts
// nothing; call Run for events.
func New(cfg Config) (*Runtime, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, d := range []string{cfg.Dir, cfg.StateDir} {
		// Nobody else may reach in: upper directories hold setuid programs of images.
		if err := errors.Join(os.MkdirAll(d, 0o700), os.Chmod(d, 0o700)); err != nil {
			return nil, fmt.Errorf("container runtime: %w", err)
		}
	}
	r := &Runtime{cfg: cfg, log: cfg.Logger, containers: map[runtime.ID]*container{}, users: map[runtime.ID]uint32{}}
	if r.program, err = openProgram(cfg); err != nil {
		return nil, err
	}
	r.pool = newPool(r)
	if r.watch, err = newWatcher(); err != nil {
		return nil, err
	}
	r.modified = newModified(r.watch)
	if err := r.adopt(); err != nil {
		r.watch.close()
		return nil, fmt.Errorf("adopt containers in %s: %w", cfg.Dir, err)
	}
	return r, nil
}

func (r *Runtime) containerDir(id runtime.ID) string { return filepath.Join(r.cfg.Dir, string(id)) }

// find gives the container. ErrNotFound.
func (r *Runtime) find(id runtime.ID) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
	}
	return c, nil
}

// acquire takes the container's op. ErrNotFound if it was removed meanwhile.
func (c *container) acquire(ctx context.Context) error { return c.acquireBy(ctx, c.wanted) }

// await is acquire for who only looks or copies: he has a copy under way end as it likes.
func (c *container) await(ctx context.Context) error { return c.acquireBy(ctx, nil) }

func (c *container) acquireBy(ctx context.Context, wanted chan<- struct{}) error {
	if ctx.Err() != nil { // select would take either
		return context.Cause(ctx)
	}
	for held := false; !held; {
		select {
		case c.op <- struct{}{}:
			held = true
		case wanted <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		<-c.op
		return fmt.Errorf("container %s: %w", c.id, runtime.ErrNotFound)
	}
	return nil
}

func (c *container) release() { <-c.op }

// hold finds the container and takes its op; the caller releases.
func (r *Runtime) hold(ctx context.Context, id runtime.ID) (*container, error) {
	c, err := r.find(id)
	if err != nil {
		return nil, err
	}
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func newContainer(id runtime.ID, dir string, rec stage.Record) *container {
	return &container{
		id: id, dir: dir, rec: rec, op: make(chan struct{}, 1), wanted: make(chan struct{}), state: runtime.Created,
		ports: slices.Clone(rec.Spec.Ports), pidfd: -1, changed: make(chan struct{}),
	}
}

// Inspect tells the present state.
func (r *Runtime) Inspect(ctx context.Context, id runtime.ID) (runtime.Info, error) {
	c, err := r.find(id)
	if err != nil {
		return runtime.Info{}, err
	}
	r.refresh(c)
	return c.info(), nil
}

// List tells all containers, sorted by id.
func (r *Runtime) List(ctx context.Context) ([]runtime.Info, error) {
	r.mu.Lock()
	all := make([]*container, 0, len(r.containers))
	for _, c := range r.containers {
		all = append(all, c)
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *container) int { return strings.Compare(string(a.id), string(b.id)) })
	infos := make([]runtime.Info, len(all))
	for i, c := range all {
		r.refresh(c)
		infos[i] = c.info()
	}
	return infos, nil
}

func (c *container) info() runtime.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := runtime.Info{
		ID: c.id, Name: c.rec.Spec.Name, Labels: c.rec.Spec.Labels, State: c.state,
		CreatedAt: c.rec.CreatedAt, Image: c.rec.Image, Address: c.rec.Address, Ports: slices.Clone(c.ports),
		StartedAt: c.start.At, Starts: c.start.Start, Joined: c.start.Joined, Warnings: c.rec.Warnings,
		Resources: c.rec.Spec.Resources,
	}
	if !in.Address.IsValid() {
		in.Address = c.start.Address
	}
	if c.state == runtime.Running {
		in.PID, in.Paused = c.start.PID, c.paused
	}
	if c.exit.Start > 0 {
		in.FinishedAt = c.exit.At
	}
	if c.state == runtime.Stopped {
		in.ExitCode, in.OOMKilled, in.Error = c.exit.Code, c.exit.OOM, c.exit.Error
	}
	return in
}

// refresh notices an exit that the watcher did not bring yet: Inspect tells the truth also when Run is not running.
func (r *Runtime) refresh(c *container) {
	c.mu.Lock()
	gone := c.state == runtime.Running && c.pidfd >= 0 && readable(c.pidfd)
	c.mu.Unlock()
	if gone {
		r.finish(c)
	}
}

// readable says whether fd has something to tell now; for a pidfd: that the process ended.
func readable(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// finish records the end of a run, once: the state in memory, the zombie, the event.
func (r *Runtime) finish(c *container) {
	c.mu.Lock()
	if c.state != runtime.Running {
		c.mu.Unlock()
		return
	}
	pidfd, monitor, start, killed := c.pidfd, c.monitor, c.start, c.killed
	c.pidfd, c.monitor = -1, 0
	c.mu.Unlock()
	if pidfd < 0 {
		return // somebody else is at it
	}
	r.watch.remove(pidfd)
	unix.Close(pidfd)
	r.endShared(c)
	r.unwatchOOM(c)
	// The monitor is our child only if we started it; if not, this says ECHILD.
	unix.Wait4(monitor, nil, unix.WNOHANG, nil)

	reach("finish seen")
	exit, seen := readExit(c.dir, start)
	if !seen {
		// Its monitor was killed: the container's first process has a death signal, but a program that changed its user
		// has lost that one, so make sure.
		exit = r.writeLostExit(c.dir, c.id, start)
	}
	exit.OOM = seen && exit.OOMKills > 0 && exit.Code == 128+int(unix.SIGKILL) && !killed
	if exit.OOM {
		// The monitor cannot know whether the kill was ours: put the verdict where the next runtime finds it.
		if err := stage.WriteJSON(c.dir, stage.FileExit, exit); err != nil {
			r.log.Warn("the note of an out-of-memory kill is not on disk", "container", c.id, "err", err)
		}
	}
	c.mu.Lock()
	c.exit, c.state = exit, runtime.Stopped
	ended := c.ended
	c.mu.Unlock()
	reach("finish recorded")
	close(ended)
	r.log.Info("container exited", "container", c.id, "code", exit.Code, "oom", exit.OOM, "err", exit.Error)
	r.events.publish(runtime.Event{Kind: runtime.EventExited, ID: c.id, At: exit.At})
}

// readExit reads how the given start ended; false if nobody wrote that.
func readExit(dir string, start stage.StartRecord) (stage.ExitRecord, bool) {
	var e stage.ExitRecord
	if err := stage.ReadJSON(dir, stage.FileExit, &e); err != nil || e.Start != start.Start {
		return stage.ExitRecord{}, false
	}
	return e, true
}

// writeLostExit kills what is left of a run whose end nobody saw, and puts down that fact.
func (r *Runtime) writeLostExit(dir string, id runtime.ID, start stage.StartRecord) stage.ExitRecord {
	if err := r.killCgroup(id); err != nil {
		r.log.Warn("kill what is left of a container", "container", id, "err", err)
	}
	e := stage.ExitRecord{
		Start: start.Start, Code: 128 + int(unix.SIGKILL), At: time.Now().UTC(),
		Error: "its exit is not known: the monitor was killed or the machine went down",
	}
	if err := stage.WriteJSON(dir, stage.FileExit, e); err != nil {
		r.log.Warn("the note of a lost exit is not on disk", "container", id, "err", err)
	}
	return e
}

// Pull makes the image present.
func (r *Runtime) Pull(ctx context.Context, ref string, progress func(done, total int64)) (runtime.Image, error) {
	img, err := r.cfg.Images.Get(ref)
	if errors.Is(err, image.ErrNotFound) && r.cfg.PullFrom != nil {
		if err = r.cfg.PullFrom(ctx, ref, progress); err == nil {
			img, err = r.cfg.Images.Get(ref)
		}
	}
	if err != nil {
		return runtime.Image{}, kindOf(err)
	}
	if err := r.cfg.Images.Heal(ctx, img, r.fetchAgain()); err != nil { // its trees may be there, and do
		r.log.Warn("an image is damaged on this node", "image", ref, "err", err)
	}
	return r.taken(ref, img), nil
}

// Present tells of an image that is here and whole.
func (r *Runtime) Present(_ context.Context, ref string) (runtime.Image, error) {
	img, err := r.cfg.Images.Get(ref)
	if err != nil {
		return runtime.Image{}, kindOf(err)
	}
	if err := r.cfg.Images.Whole(img); err != nil {
		return runtime.Image{}, fmt.Errorf("%w: %w", runtime.ErrNotFound, err) // Pull heals it, for which it asks others
	}
	return r.taken(ref, img), nil
}

// taken says what there is to know of an image that a container is about to be made of.
func (r *Runtime) taken(ref string, img image.Image) runtime.Image {
	r.cfg.Images.Use(img) // until the container holds it
	out := runtime.Image{Ref: ref, Digest: string(img.Manifest), SizeBytes: img.Size}
	if h := img.Config.Healthcheck; h != nil {
		out.Health = &runtime.HealthConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
			StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	return out
}
