// Package fake is an in-memory runtime.Runtime: a small working model of a machine that runs containers, with knobs for
// everything that can go wrong. It knows the contract and a mini-language of programs (see program.go); it refuses to
// touch files, processes and networks, and it waits by package time alone, so it works inside testing/synctest bubbles.
//
// Each running program is a goroutine. A test that uses synctest ends them with Close before the bubble ends.
package fake

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/runtime"
)

// Image is what a container is made of.
type Image struct {
	runtime.Image                          // empty Ref and Digest are filled in
	Entrypoint, Command, Env []string      // as in the image's config; no command at all is {"serve"}
	Absent                   bool          // Create needs a Pull first
	PullDelay                time.Duration // how long a Pull of an absent image takes
}

// Config is the machine at its beginning. The zero value is a machine without images.
type Config struct {
	Images map[string]Image // by reference: present, or absent and pullable
	// Subnet is where container addresses come from; the zero value is 10.88.0.0/24.
	Subnet netip.Prefix
	// Latency is how long Create, Start and Remove take; 0 is at once.
	Latency time.Duration
}

// Call names a method, for FailNext and Calls.
type Call string

// Calls that can fail.
const (
	CallPull   Call = "pull"
	CallCreate Call = "create"
	CallStart  Call = "start"
	CallStop   Call = "stop"
	CallRemove Call = "remove"
	CallUpdate Call = "update"
	CallExec   Call = "exec"
	CallList   Call = "list"
)

// Runtime is a handle on a machine, as one agent has it. Several handles may be open on one machine.
type Runtime struct{ *machine }

var _ runtime.Runtime = (*Runtime)(nil)

// machine outlives its handles: it is what a directory and the kernel are to a real runtime.
type machine struct {
	latency time.Duration
	subnet  netip.Prefix
	booted  time.Time

	mu         sync.Mutex
	images     map[string]Image
	containers map[runtime.ID]*container
	nextAddr   netip.Addr
	nextPID    int
	nextPort   uint16
	fails      map[Call][]failure
	calls      []string
	subs       map[*subscriber]struct{}
	onExec     func(runtime.ID, []string) (code int, output string, handled bool)
	programs   sync.WaitGroup
}

type failure struct {
	id   string // "" is any
	err  error
	left int
}

// New makes a machine and a handle on it.
func New(cfg Config) *Runtime {
	if !cfg.Subnet.IsValid() {
		cfg.Subnet = netip.MustParsePrefix("10.88.0.0/24")
	}
	m := &machine{
		latency:    cfg.Latency,
		booted:     time.Now(),
		subnet:     cfg.Subnet,
		images:     map[string]Image{},
		containers: map[runtime.ID]*container{},
		nextAddr:   cfg.Subnet.Masked().Addr().Next().Next(), // the first is the bridge's
		nextPID:    100,
		nextPort:   32768,
		fails:      map[Call][]failure{},
		subs:       map[*subscriber]struct{}{},
	}
	for ref, img := range cfg.Images {
		m.SetImage(ref, img)
	}
	return &Runtime{m}
}

// Reopen gives another handle on the same machine, as an agent that was started again has it.
func (m *machine) Reopen() *Runtime { return &Runtime{m} }

// Present tells of an image that needs no Pull.
func (m *machine) Present(_ context.Context, ref string) (runtime.Image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	img, ok := m.images[ref]
	if !ok || img.Absent {
		return runtime.Image{}, fmt.Errorf("image %s is not present: %w", ref, runtime.ErrNotFound)
	}
	return img.Image, nil
}

// Pull makes an absent image present, after its delay.
func (m *machine) Pull(ctx context.Context, ref string, progress func(done, total int64)) (runtime.Image, error) {
	if err := m.enter(ctx, CallPull, ref, 0); err != nil {
		return runtime.Image{}, fmt.Errorf("pull %s: %w", ref, err)
	}
	m.mu.Lock()
	img, ok := m.images[ref]
	m.mu.Unlock()
	if !ok {
		return runtime.Image{}, fmt.Errorf("pull %s: %w", ref, runtime.ErrNotFound)
	}
	if img.Absent {
		if err := wait(ctx, img.PullDelay); err != nil {
			return runtime.Image{}, fmt.Errorf("pull %s: %w", ref, err)
		}
		m.mu.Lock()
		img.Absent = false
		m.images[ref] = img
		m.mu.Unlock()
	}
	if progress != nil {
		progress(img.SizeBytes, img.SizeBytes)
	}
	return img.Image, nil
}

// Create makes a container.
func (m *machine) Create(ctx context.Context, s runtime.Spec) (runtime.Info, error) {
	if err := m.enter(ctx, CallCreate, string(s.ID), m.latency); err != nil {
		return runtime.Info{}, fmt.Errorf("create %s: %w", s.ID, err)
	}
	if err := check(s); err != nil {
		return runtime.Info{}, fmt.Errorf("create %q: %w", s.ID, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[s.ID] != nil {
		return runtime.Info{}, fmt.Errorf("create %s: it exists already: %w", s.ID, runtime.ErrConflict)
	}
	img, ok := m.images[s.Image]
	if !ok || img.Absent {
		return runtime.Info{}, fmt.Errorf("create %s: image %s is not present: %w", s.ID, s.Image, runtime.ErrNotFound)
	}
	c := &container{m: m, spec: s, image: img, turn: make(chan struct{}, 1), logCh: make(chan struct{}), changed: make(chan struct{})}
	c.info = runtime.Info{
		ID: s.ID, Name: s.Name, Labels: maps.Clone(s.Labels), State: runtime.Created, CreatedAt: time.Now(),
		Image: img.Digest, Address: m.addressLocked(s), Resources: s.Resources,
	}
	m.containers[s.ID] = c
	return c.infoLocked(), nil
}

// Start runs a container's program.
func (m *machine) Start(ctx context.Context, id runtime.ID) (runtime.Info, error) {
	if err := m.enter(ctx, CallStart, string(id), m.latency); err != nil {
		return runtime.Info{}, fmt.Errorf("start %s: %w", id, err)
	}
	c, err := m.take(ctx, id)
	if err != nil {
		return runtime.Info{}, fmt.Errorf("start %s: %w", id, err)
	}
	defer c.release()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := c.startLocked(); err != nil {
		return runtime.Info{}, fmt.Errorf("start %s: %w", id, err)
	}
	return c.infoLocked(), nil
}

// Stop asks, waits and kills.
func (m *machine) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error {
	if err := m.enter(ctx, CallStop, string(id), 0); err != nil {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	c, err := m.take(ctx, id)
	if err != nil {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	defer c.release()
	if grace < 0 {
		grace = c.spec.StopGrace
		if grace == 0 {
			grace = 10 * time.Second
		}
	}
	m.mu.Lock()
	p := c.proc
	m.mu.Unlock()
	if p == nil {
		return nil
	}
	sig, _ := signalName(c.spec.StopSignal)
	p.signal(sig)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.gone:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", id, ctx.Err())
	}
	p.kill(128 + 9)
	<-p.gone
	return nil
}

// Signal sends a signal to the program.
func (m *machine) Signal(_ context.Context, id runtime.ID, name string) error {
	sig, ok := signalName(name)
	if !ok {
		return fmt.Errorf("signal %s: no such signal %q: %w", id, name, runtime.ErrInvalid)
	}
	p, err := m.running(id)
	if err != nil {
		return fmt.Errorf("signal %s: %w", id, err)
	}
	p.signal(sig)
	return nil
}

// Remove kills and forgets.
func (m *machine) Remove(ctx context.Context, id runtime.ID) error {
	if err := m.enter(ctx, CallRemove, string(id), m.latency); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	c, err := m.take(ctx, id)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
		return nil
	}
	defer c.release()
	m.mu.Lock()
	p := c.proc
	m.mu.Unlock()
	if p != nil {
		p.kill(128 + 9)
		<-p.gone
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.removeLocked()
	return nil
}

// Inspect tells one container.
func (m *machine) Inspect(_ context.Context, id runtime.ID) (runtime.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil {
		return runtime.Info{}, fmt.Errorf("inspect %s: %w", id, runtime.ErrNotFound)
	}
	return c.infoLocked(), nil
}

// List tells all containers.
func (m *machine) List(ctx context.Context) ([]runtime.Info, error) {
	if err := m.enter(ctx, CallList, "", 0); err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	infos := make([]runtime.Info, 0, len(m.containers))
	for _, id := range slices.Sorted(maps.Keys(m.containers)) {
		infos = append(infos, m.containers[id].infoLocked())
	}
	return infos, nil
}

// Stats tells made-up figures, but true limits and process counts.
func (m *machine) Stats(_ context.Context, id runtime.ID) (runtime.Stats, error) {
	p, err := m.running(id)
	if err != nil {
		return runtime.Stats{}, fmt.Errorf("stats of %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil {
		return runtime.Stats{}, fmt.Errorf("stats of %s: %w", id, runtime.ErrNotFound)
	}
	return runtime.Stats{
		CPU:         time.Since(p.started) / 100,
		MemoryBytes: c.usesLocked(),
		MemoryLimit: c.spec.Resources.MemoryBytes,
		PIDs:        int64(1 + len(c.execs)),
	}, nil
}

// enter notes a call, takes its time and fails it if a failure was scripted.
func (m *machine) enter(ctx context.Context, c Call, id string, d time.Duration) error {
	if err := wait(ctx, d); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c != CallExec && c != CallList {
		m.calls = append(m.calls, string(c)+" "+id)
	}
	for i, f := range m.fails[c] {
		if f.id != "" && f.id != id {
			continue
		}
		if f.left--; f.left == 0 {
			m.fails[c] = slices.Delete(m.fails[c], i, i+1)
		} else {
			m.fails[c][i] = f
		}
		return f.err
	}
	return nil
}

// take serialises the calls that change one container; release gives the turn to the next.
func (m *machine) take(ctx context.Context, id runtime.ID) (*container, error) {
	m.mu.Lock()
	c := m.containers[id]
	m.mu.Unlock()
	if c == nil {
		return nil, runtime.ErrNotFound
	}
	if err := ctx.Err(); err != nil { // select would take either
		return nil, err
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	gone := m.containers[id] != c
	m.mu.Unlock()
	if gone { // removed while we waited
		c.release()
		return nil, runtime.ErrNotFound
	}
	return c, nil
}

func (m *machine) running(id runtime.ID) (*process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil {
		return nil, runtime.ErrNotFound
	}
	if c.proc == nil {
		return nil, fmt.Errorf("it is %s: %w", c.info.State, runtime.ErrConflict)
	}
	return c.proc, nil
}

// wait takes d of time, or less when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
