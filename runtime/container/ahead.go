package container

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
)

const (
	// aheadLeast launchers wait ahead of any start, each with an init; a burst that finds too few makes it more.
	aheadLeast = 2
	// aheadMost bounds what waiting costs in memory: 3 MiB each.
	aheadMost = 8
	// aheadQuiet is how long no start must have been asked for before launchers are replaced: until then the processors
	// belong to the starts themselves.
	aheadQuiet = 100 * time.Millisecond
	// aheadFade is how long a burst is remembered.
	aheadFade = 10 * time.Minute
	// aheadPatience is for a launcher to say that it waits.
	aheadPatience = 20 * time.Second
)

// pool is the launchers that wait for a container. Nobody needs it: a start that finds none starts its own.
type pool struct {
	r *Runtime

	mu      sync.Mutex
	open    bool // run is running
	waiting []*helper
	want    int
	burst   int       // starts since it was quiet
	last    time.Time // start or end of a start
	peak    time.Time // when want was last needed
	busy    int       // starts that go on
	wakeCh  chan struct{}
}

func newPool(r *Runtime) *pool { return &pool{r: r, want: aheadLeast, wakeCh: make(chan struct{}, 1)} }

// take gives a launcher that waits, or starts one. moved says that it has left the agent's cgroup.
func (p *pool) take() (h *helper, moved bool, err error) {
	p.mu.Lock()
	p.busy++
	p.burst++
	p.last = time.Now()
	if p.burst >= p.want {
		p.want, p.peak = min(p.burst, aheadMost), p.last
	}
	for h == nil && len(p.waiting) > 0 {
		h, p.waiting = p.waiting[0], p.waiting[1:]
		if h.gone() {
			h.reap()
			h = nil
		}
	}
	p.mu.Unlock()
	if h != nil {
		return h, true, nil
	}
	h, err = p.r.program.startLauncher()
	return h, false, err
}

// done is called once after each take.
func (p *pool) done() {
	p.mu.Lock()
	p.busy--
	p.last = time.Now()
	p.mu.Unlock()
	select {
	case p.wakeCh <- struct{}{}:
	default:
	}
}

// run keeps launchers waiting until ctx ends, and ends those that wait then.
func (p *pool) run(ctx context.Context) {
	p.mu.Lock()
	p.open = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		waiting := p.waiting
		p.waiting, p.open = nil, false
		p.mu.Unlock()
		for _, h := range waiting {
			h.abandon()
		}
		p.r.dropMonitorsCgroup()
	}()
	for ctx.Err() == nil {
		missing, pause := p.missing(time.Now())
		if missing && !p.add(ctx) {
			pause = aheadPatience // something is wrong with it; the starts will say what
		}
		if pause == 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.wakeCh:
		case <-time.After(pause):
		}
	}
}

// missing says whether a launcher is to be added now, and if not, when to look again.
func (p *pool) missing(now time.Time) (bool, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy > 0 {
		return false, aheadFade // done wakes us
	}
	if quiet := now.Sub(p.last); quiet < aheadQuiet {
		return false, aheadQuiet - quiet
	}
	p.burst = 0
	if p.want > aheadLeast && now.Sub(p.peak) > aheadFade {
		p.want = aheadLeast
	}
	for len(p.waiting) > p.want {
		h := p.waiting[0]
		p.waiting = p.waiting[1:]
		h.reap() // its socket's end is its end
	}
	return len(p.waiting) < p.want, aheadFade
}

// add starts one launcher and waits until it waits.
func (p *pool) add(ctx context.Context) bool {
	h, err := p.r.program.startLauncher(stage.WaitsAhead)
	if err != nil {
		return false
	}
	_ = h.sock.SetReadDeadline(time.Now().Add(aheadPatience))
	stop := context.AfterFunc(ctx, func() { _ = h.sock.SetReadDeadline(time.Now()) })
	var first stage.Reply
	err = h.dec.Decode(&first)
	stop()
	if err != nil || !first.Waiting {
		h.abandon()
		return false
	}
	_ = h.sock.SetReadDeadline(time.Time{})
	p.r.leaveAgentsCgroup(h.pid)
	p.mu.Lock()
	p.waiting = append(p.waiting, h)
	p.mu.Unlock()
	return true
}

// gone says whether the process ended while it waited.
func (h *helper) gone() bool {
	pidfd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		return true
	}
	defer unix.Close(pidfd)
	return readable(pidfd)
}

// expectMoves prepares the kernel for the moves into cgroups that a start makes. The first in a while waits for a grace
// period of RCU, 8 to 12 ms, in which those that come up can do other things. Best effort.
func (r *Runtime) expectMoves() {
	if !r.moves.TryLock() {
		return // under way
	}
	go func() {
		defer r.moves.Unlock()
		// To where we are already: only the wait counts.
		if dir := ownCgroup(); dir != "" {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		}
	}()
}

// ownCgroup is the directory of a cgroup that this process is in; "" if none is to be seen.
func ownCgroup() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, h := range stage.Hierarchies() {
			if name := filepath.Base(h); h == stage.CgroupRoot && f[1] == "" || h != stage.CgroupRoot && name == f[1] {
				return filepath.Join(h, f[2])
			}
		}
	}
	return ""
}
