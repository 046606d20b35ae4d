package fake

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"shoal/runtime"
)

// container is one container; all but turn and what is set by Create is guarded by the machine's mutex.
type container struct {
	m     *machine
	spec  runtime.Spec
	image Image
	turn  chan struct{} // holds a token while a call that changes it is under way

	info    runtime.Info
	proc    *process      // nil unless running
	until   time.Duration // its lease, on the machine's Boot clock
	execs   map[*process]struct{}
	health  probe
	lines   []logged
	lastSeq int64
	logCh   chan struct{} // closed and replaced at each change of lines, and for good at removal
	removed bool
	uses    int64 // bytes of memory, as Memory set it; 0: defaultUse

	files   map[string]file // that were copied in, by absolute path
	members map[*member]struct{}
	kept    *member       // of a container with Spec.Attach, until the first caller comes
	stdin   *pipe         // of the present run
	changed chan struct{} // closed and replaced at each start, and at removal
}

// tellLocked wakes those who wait for the container to be started.
func (c *container) tellLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// defaultUse is what Stats tells of a container's memory.
const defaultUse = 1 << 20

func (c *container) usesLocked() int64 { return cmp.Or(c.uses, defaultUse) }

type probe struct {
	code   int
	output string
}

type logged struct {
	seq    int64 // from 1
	at     time.Time
	stream runtime.Stream
	text   string
}

// maxLogBytes is the default of runtime.LogLimits: 3 files of 10 MiB.
const maxLogBytes = 3 * 10 << 20

var idRE = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)

func check(s runtime.Spec) error {
	switch {
	case !idRE.MatchString(string(s.ID)):
		return fmt.Errorf("not an id: %w", runtime.ErrInvalid)
	case s.Image == "":
		return fmt.Errorf("no image: %w", runtime.ErrInvalid)
	case s.Resources.MemoryBytes != 0 && s.Resources.MemoryBytes < runtime.MinMemoryBytes:
		return fmt.Errorf("memory limit %d is under %d: %w", s.Resources.MemoryBytes, runtime.MinMemoryBytes, runtime.ErrInvalid)
	}
	switch {
	case s.Network != "" && s.Network != runtime.NetworkNone && s.Network != runtime.NetworkHost && runtime.Joined(s.Network) == "":
		return fmt.Errorf("network %q is not known: %w", s.Network, runtime.ErrInvalid)
	case s.Network != "" && len(s.Ports) > 0:
		return fmt.Errorf("network %s publishes no ports: %w", s.Network, runtime.ErrInvalid)
	}
	for _, mt := range s.Mounts {
		if !path.IsAbs(mt.Target) {
			return fmt.Errorf("mount target %q is not absolute: %w", mt.Target, runtime.ErrInvalid)
		}
	}
	if s.StopSignal != "" {
		if _, ok := signalName(s.StopSignal); !ok {
			return fmt.Errorf("no such stop signal %q: %w", s.StopSignal, runtime.ErrInvalid)
		}
	}
	return nil
}

func (c *container) release() { <-c.turn }

func (c *container) infoLocked() runtime.Info {
	in := c.info
	in.Labels = maps.Clone(in.Labels)
	in.Ports = slices.Clone(in.Ports)
	return in
}

// args is the whole command line, by Docker's rules.
func (c *container) args() []string {
	entry, command := c.image.Entrypoint, c.image.Command
	if c.spec.Entrypoint != nil {
		entry, command = c.spec.Entrypoint, nil
	}
	if c.spec.Command != nil {
		command = c.spec.Command
	}
	if args := slices.Concat(entry, command); len(args) > 0 {
		return args
	}
	return []string{"serve"}
}

func (c *container) startLocked() error {
	if c.proc != nil {
		return fmt.Errorf("it runs already: %w", runtime.ErrConflict)
	}
	if err := c.leaseLocked(nil); err != nil {
		return err
	}
	if err := errors.Join(c.joinLocked(), c.bindLocked()); err != nil {
		return err
	}
	args := c.args()
	c.info.Starts++
	c.info.StartedAt = time.Now()
	c.info.Error, c.info.OOMKilled, c.info.ExitCode = "", false, 0
	if code, err := findProgram(args[0]); err != nil {
		c.info.State, c.info.ExitCode, c.info.Error = runtime.Stopped, code, err.Error()
		c.tellLocked()
		c.info.FinishedAt = time.Now()
		return fmt.Errorf("%w: %w", err, runtime.ErrInvalid)
	}
	c.m.nextPID++
	p := c.processLocked(args)
	p.first = !c.spec.Init && c.spec.Lease == 0
	p.out = tap{&lineWriter{c: c, stream: runtime.Stdout}, runtime.Stdout}
	p.err = tap{&lineWriter{c: c, stream: runtime.Stderr}, runtime.Stderr}
	if c.spec.TTY {
		p.err = p.out
	}
	if c.spec.Stdin {
		c.stdin = newPipe(p.dead)
		p.in = c.stdin
	}
	if c.spec.Attach {
		if c.kept != nil {
			delete(c.members, c.kept)
		}
		c.kept = c.seatLocked()
	}
	c.proc = p
	c.execs = map[*process]struct{}{}
	c.info.State, c.info.PID = runtime.Running, c.m.nextPID
	c.tellLocked()
	c.m.emitLocked(runtime.Event{Kind: runtime.EventStarted, ID: c.info.ID, At: time.Now()})
	_ = c.leaseLocked(p) // it was there a moment ago, and only grows
	c.m.programs.Go(func() {
		code := p.run(args)
		closeLine(p.out)
		closeLine(p.err)
		c.ended(p, code)
	})
	return nil
}

// processLocked makes a process with the container's own environment.
func (c *container) processLocked(args []string) *process {
	p := newProcess(c)
	p.env = mergeEnv([]string{"PATH=/bin:/usr/bin"}, c.image.Env, c.spec.Env)
	p.dir = c.spec.WorkingDir
	p.user = c.spec.User
	p.hostname = c.spec.Hostname
	if p.hostname == "" {
		p.hostname = c.spec.Name
	}
	if p.dir == "" {
		p.dir = "/"
	}
	p.args = args
	return p
}

// ended notes the exit of the first process, and takes its execs along.
func (c *container) ended(p *process, code int) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	defer close(p.gone)
	for e := range c.execs {
		e.kill(128 + 9)
	}
	if c.proc != p {
		return // the machine crashed meanwhile
	}
	c.proc = nil
	c.info.State, c.info.PID, c.info.ExitCode, c.info.Paused = runtime.Stopped, 0, code, false
	c.info.OOMKilled = p.oom
	if p.expired {
		c.info.Error = "its exit is not known: its monitor was killed"
	}
	c.info.FinishedAt = time.Now()
	if p.oom {
		c.m.emitLocked(runtime.Event{Kind: runtime.EventOOM, ID: c.info.ID, At: time.Now()})
	}
	c.m.emitLocked(runtime.Event{Kind: runtime.EventExited, ID: c.info.ID, At: time.Now()})
}

// bindLocked takes the host ports, which belong to a container from its first start until it is removed: a restart in
// place must find its own again.
func (c *container) bindLocked() error {
	if c.info.Ports != nil {
		return nil
	}
	ports := slices.Clone(c.spec.Ports)
	for i, want := range ports {
		if want.HostPort == 0 {
			c.m.nextPort++
			ports[i].HostPort = c.m.nextPort
			continue
		}
		for _, other := range c.m.containers {
			for _, taken := range other.info.Ports {
				if other != c && taken.HostPort == want.HostPort && taken.Protocol == want.Protocol {
					return fmt.Errorf("port %d/%s is taken by %s: %w", want.HostPort, want.Protocol, other.info.ID, runtime.ErrConflict)
				}
			}
		}
	}
	c.info.Ports = ports
	return nil
}

func (c *container) removeLocked() {
	if c.m.containers[c.info.ID] == c {
		delete(c.m.containers, c.info.ID)
	}
	if !c.removed {
		c.removed = true
		close(c.logCh)
		c.tellLocked()
	}
}

func (c *container) log(stream runtime.Stream, text string) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.removed {
		return
	}
	c.lastSeq++
	c.lines = append(c.lines, logged{c.lastSeq, time.Now(), stream, text})
	limit := int64(maxLogBytes)
	if l := c.spec.Log; l.MaxBytes > 0 {
		limit = l.MaxBytes * int64(max(l.MaxFiles, 1))
	}
	size := int64(0)
	for i, l := range slices.Backward(c.lines) {
		if size += int64(len(l.text)) + 1; size > limit {
			c.lines = slices.Clone(c.lines[i+1:])
			break
		}
	}
	close(c.logCh)
	c.logCh = make(chan struct{})
}

// lineWriter cuts a program's output into log lines.
type lineWriter struct {
	c      *container
	stream runtime.Stream
	rest   string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest += string(p)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(p), nil
		}
		w.rest = rest
		w.c.log(w.stream, line)
	}
}

func closeLine(w io.Writer) {
	t, ok := w.(tap)
	if !ok {
		return
	}
	if lw := t.lines; lw.rest != "" {
		lw.c.log(lw.stream, lw.rest)
		lw.rest = ""
	}
}

func mergeEnv(lists ...[]string) []string {
	var env []string
	at := map[string]int{}
	for _, kv := range slices.Concat(lists...) {
		key, _, _ := strings.Cut(kv, "=")
		if i, ok := at[key]; ok {
			env[i] = kv
			continue
		}
		at[key] = len(env)
		env = append(env, kv)
	}
	return env
}

var signals = map[string]int{"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15, "WINCH": 28}

// signalName makes "SIGHUP", "HUP" and "1" one; "" is TERM.
func signalName(s string) (string, bool) {
	if s == "" {
		return "TERM", true
	}
	if n, err := strconv.Atoi(s); err == nil {
		for name, k := range signals {
			if k == n {
				return name, true
			}
		}
		return "", false
	}
	s = strings.TrimPrefix(strings.ToUpper(s), "SIG")
	_, ok := signals[s]
	return s, ok
}
