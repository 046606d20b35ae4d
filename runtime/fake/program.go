package fake

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The mini-language. A command is one of these programs, also as /bin/NAME, /usr/bin/NAME or "busybox NAME":
//
//	true, :, false          exit with 0, 0, 1
//	echo WORDS...           print them
//	sleep SECONDS           fractions and "infinity" too
//	cat                     copy stdin to stdout
//	env, pwd, hostname      what they print in a container
//	id [-u|-g]              numeric ids
//	serve                   run until SIGTERM, SIGINT or SIGQUIT, then exit with 0: an image without a command does this
//	check                   print and exit with what Runtime.Health set: a health check
//	sh -c SCRIPT            see shell.go: lists, &&, ||, while, if, $VAR, >&2, trap, exit
//
// Every other command is not found (127), and a directory cannot be executed (126). As on Linux, a first process
// without Init ignores the signals that it does not trap, but for SIGKILL.
type program func(p *process, args []string) int

// findProgram tells whether a command can be executed, and its exit code if not.
func findProgram(name string) (int, error) {
	if slices.Contains([]string{"/", "/bin", "/usr", "/usr/bin", "/etc", "/tmp"}, path.Clean(name)) {
		return 126, fmt.Errorf("exec %s: permission denied", name)
	}
	if lookUp(name) == nil {
		return 127, fmt.Errorf("exec %s: no such file or directory", name)
	}
	return 0, nil
}

func lookUp(name string) program {
	if dir, base := path.Split(name); dir == "/bin/" || dir == "/usr/bin/" {
		name = base
	}
	switch name { // a map would be an initialisation cycle: some programs look up others
	case "sh":
		return runShell
	case "busybox":
		return runBusybox
	case "true", ":":
		return func(*process, []string) int { return 0 }
	case "false":
		return func(*process, []string) int { return 1 }
	case "echo":
		return runEcho
	case "sleep":
		return runSleep
	case "cat":
		return runCat
	case "env":
		return func(p *process, _ []string) int { return p.print(strings.Join(p.env, "\n")) }
	case "pwd":
		return func(p *process, _ []string) int { return p.print(p.dir) }
	case "hostname":
		return func(p *process, _ []string) int { return p.print(p.hostname) }
	case "id":
		return runID
	case "serve":
		return runServe
	case "check":
		return runCheck
	}
	return nil
}

// process is one running program.
type process struct {
	c        *container
	args     []string
	env      []string
	dir      string
	user     string
	hostname string
	in       io.Reader // nil is /dev/null
	out, err io.Writer
	first    bool // the kernel protects it from signals that it does not handle
	started  time.Time

	sigCh chan string   // trapped signals
	dead  chan struct{} // closed by kill
	gone  chan struct{} // closed when a first process has been noted as ended

	mu       sync.Mutex
	traps    map[string]string
	code     int // of kill
	oom      bool
	expired  bool // its lease ended; the machine's mutex guards it
	exiting  bool // exit was called; only the program's own goroutine uses it
	exitCode int
}

func newProcess(c *container) *process {
	return &process{
		c: c, started: time.Now(), traps: map[string]string{},
		sigCh: make(chan string, 64), dead: make(chan struct{}), gone: make(chan struct{}),
	}
}

// run executes a command to its end; findProgram has found it.
func (p *process) run(args []string) int {
	code := p.call(args)
	select {
	case <-p.dead:
		return p.code
	default:
		return code
	}
}

func (p *process) call(args []string) int {
	prog := lookUp(args[0])
	if prog == nil {
		fmt.Fprintf(p.err, "sh: %s: not found\n", args[0])
		return 127
	}
	code := prog(p, args[1:])
	if p.exiting {
		return p.exitCode
	}
	return code
}

// kill ends the program with an exit code.
func (p *process) kill(code int) { p.end(code, false) }

func (p *process) end(code int, oom bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.dead:
		return
	default:
	}
	p.code, p.oom = code, oom
	close(p.dead)
}

// over tells whether the program must not go on.
func (p *process) over() bool {
	select {
	case <-p.dead:
		return true
	default:
		return p.exiting
	}
}

// signal delivers one by name.
func (p *process) signal(name string) {
	p.mu.Lock()
	script, trapped := p.traps[name]
	p.mu.Unlock()
	switch {
	case name == "KILL":
		p.kill(128 + 9)
	case trapped && script == "":
	case trapped:
		select {
		case p.sigCh <- name:
		default: // as many are pending as a kernel would merge
		}
	case p.serves() && slices.Contains([]string{"TERM", "INT", "QUIT"}, name):
		p.kill(0)
	case p.first || name == "WINCH":
	default:
		p.kill(128 + signals[name])
	}
}

func (p *process) serves() bool { return path.Base(p.args[0]) == "serve" }

// pause waits, runs traps meanwhile, and tells whether the program goes on. A negative d is for ever.
func (p *process) pause(d time.Duration) bool {
	var timeCh <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeCh = timer.C
	}
	for {
		select {
		case <-timeCh:
			return !p.over()
		case <-p.dead:
			return false
		case sig := <-p.sigCh:
			p.mu.Lock()
			script := p.traps[sig]
			p.mu.Unlock()
			runShell(p, []string{"-c", script})
			if p.over() {
				return false
			}
		}
	}
}

func (p *process) print(s string) int {
	if _, err := fmt.Fprintln(p.out, s); err != nil {
		return 1
	}
	return 0
}

func runEcho(p *process, args []string) int { return p.print(strings.Join(args, " ")) }

func runSleep(p *process, args []string) int {
	if len(args) != 1 {
		return 1
	}
	d := time.Duration(-1)
	if args[0] != "infinity" {
		s, err := strconv.ParseFloat(args[0], 64)
		if err != nil {
			fmt.Fprintf(p.err, "sleep: invalid number %q\n", args[0])
			return 1
		}
		d = time.Duration(s * float64(time.Second))
	}
	p.pause(d)
	return 0
}

func runServe(p *process, _ []string) int {
	p.pause(-1)
	return 0
}

func runCheck(p *process, _ []string) int {
	p.c.m.mu.Lock()
	h := p.c.health
	p.c.m.mu.Unlock()
	if h.output != "" {
		p.print(h.output)
	}
	return h.code
}

// runCat reads in a goroutine of its own: a reader that blocks does not keep the program from being killed.
func runCat(p *process, _ []string) int {
	if p.in == nil {
		return 0
	}
	type chunk struct {
		data []byte
		err  error
	}
	ch := make(chan chunk)
	go func() {
		for {
			buf := make([]byte, 32<<10)
			n, err := p.in.Read(buf)
			select {
			case ch <- chunk{buf[:n], err}:
			case <-p.dead:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case c := <-ch:
			if _, err := p.out.Write(c.data); err != nil {
				return 1
			}
			if errors.Is(c.err, io.EOF) {
				return 0
			}
			if c.err != nil {
				return 1
			}
		case <-p.dead:
			return 1
		}
	}
}

func runID(p *process, args []string) int {
	uid, gid, _ := strings.Cut(p.user, ":")
	number := func(s string) string {
		if _, err := strconv.Atoi(s); err != nil {
			return "0"
		}
		return s
	}
	switch strings.Join(args, " ") {
	case "-u":
		return p.print(number(uid))
	case "-g":
		return p.print(number(gid))
	default:
		return p.print("uid=" + number(uid) + " gid=" + number(gid))
	}
}

func runBusybox(p *process, args []string) int {
	if len(args) == 0 {
		return 0
	}
	return p.call(args)
}
