package stage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"shoal/runtime"
)

// Names that the kernel shows for the container's first process on its way to the command (/proc/PID/stat, field 2).
const (
	commLibcontainer = "runc:[2:INIT]" // libcontainer's init, until it executes
	commInit         = "shoal-init"    // our reaping init, until it has executed the command
	// CommWaiting is a launcher without a container.
	CommWaiting = "shoal-waits"
)

// launching is one start, in the launcher process. Its own goroutine is bound to its thread from the beginning to the
// exec: the death signal of the container's first process comes from the thread that started it, and exec keeps only the
// thread that calls it.
type launching struct {
	job     Launch
	sock    *os.File
	enc     *json.Encoder
	dec     *json.Decoder
	logs    bytes.Buffer // what libcontainer warns of
	lock    int
	dir     int
	exit    int
	ahead   *ahead // nil: none waits, or not any more
	proc    *libcontainer.Process
	cont    *libcontainer.Container // of libcontainer's own start
	built   *built                  // of the init that waited
	stdio   stdio
	initPID int
}

// launcherMain is the launcher process: it builds one container, waits for the agent's word, lets it run and becomes its
// monitor. If the agent goes away before that, it takes everything back.
func launcherMain() {
	goruntime.LockOSThread()
	// A signal that the agent ignored when it was started (nohup) would be ignored in the container too. One that is
	// caught is reset by exec.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2)
	l := &launching{sock: os.NewFile(AgentFD, "agent"), lock: -1, dir: -1, exit: -1}
	l.enc, l.dec = json.NewEncoder(l.sock), json.NewDecoder(l.sock)
	logrus.SetOutput(&l.logs)
	unix.CloseOnExec(AgentFD)
	crashAt = os.Getenv(crashEnv)
	// Whatever keeps an init from waiting, a start without one tells what is wrong, or works.
	l.ahead, _ = startAhead()
	if len(os.Args) > 1 && os.Args[1] == WaitsAhead {
		text := warmUp()
		if l.ahead != nil {
			l.ahead.practice(text)
		}
	}
	_ = prctlName(CommWaiting)
	_ = l.reply(Reply{Waiting: true})
	if err := l.dec.Decode(&l.job); err != nil {
		os.Exit(1) // the agent is gone or does not need us: the init ends at its gate
	}
	_ = prctlName(RoleLauncher)
	l.reach("launch job")
	err := l.run()
	l.undo()
	_ = l.reply(Reply{Refusal: refusalOf(err, l.describe(err))})
	os.Exit(1)
}

// prctlName changes what ps shows for the calling thread, and so, on the main thread, for the process.
func prctlName(name string) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(p)), 0, 0, 0)
}

func (l *launching) reply(r Reply) error { return l.enc.Encode(r) }

// sayEvery is how often the agent hears that a long fill goes on.
const sayEvery = 2 * time.Second

// stillFilling tells the agent, now and then, that volumes are being filled: however long it takes, it goes on.
func (l *launching) stillFilling() func() error {
	said := time.Now()
	return func() error {
		if time.Since(said) < sayEvery {
			return nil
		}
		said = time.Now()
		return l.reply(Reply{Filling: true})
	}
}

// describe adds libcontainer's warnings, which often hold the cause.
func (l *launching) describe(err error) string {
	text := err.Error()
	if warnings := strings.TrimSpace(l.logs.String()); warnings != "" {
		text += " (" + warnings + ")"
	}
	return text
}

// run returns only if it fails.
func (l *launching) run() error {
	if err := l.takeDir(); err != nil {
		return err
	}
	l.reach("launch exit file")
	// This thread's alone, and only now, so that everything is in it that the machine has mounted by the time of the start.
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	l.reach("launch namespace")
	shared, err := openShared(l.job)
	if err != nil {
		return err
	}
	// Slave, not private: what the host unmounts must not stay busy in here for as long as the container runs.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts our own: %w", err)
	}
	root, err := placeRoot(l.job)
	if err != nil {
		return err
	}
	l.reach("launch root")
	who, err := resolveUser(root, l.job.Record)
	if err != nil {
		return err
	}
	if err := fillVolumes(root, l.job.Volumes, l.job.Record.UserBase, l.stillFilling(), l.reach); err != nil {
		return err
	}
	if err := prepareMounts(l.job, shared); err != nil {
		return err
	}
	l.reach("launch mounts")
	initSource, err := l.initBinary()
	if err != nil {
		return err
	}
	config, limits, err := buildConfig(l.job, root, who, initSource)
	if err != nil {
		return err
	}
	l.reach("launch config")
	if err := l.park(config, who); err != nil {
		return err
	}
	l.reach("launch parked")
	if err := l.reply(Reply{PID: l.initPID}); err != nil {
		return err
	}
	var goOn Word
	if err := l.dec.Decode(&goOn); err != nil {
		return fmt.Errorf("the agent went away: %w", err)
	}
	l.reach("launch word")
	if err := l.limitCPU(limits, config); err != nil {
		return err
	}
	l.reach("launch quota")
	at := time.Now().UTC()
	if err := WriteJSON(l.job.Dir, FileStart, StartRecord{Start: l.job.Start, PID: l.initPID, At: at, Joined: l.job.JoinedStarts, Address: l.job.JoinedAddress}); err != nil {
		return err
	}
	l.reach("launch start file")
	if l.job.Lease > 0 {
		if err := armLease(l.job.Lease); err != nil {
			return err
		}
	}
	if err := l.execute(); err != nil {
		return fmt.Errorf("let the command run: %w", err)
	}
	l.reach("launch fifo")
	if err := l.awaitCommand(); err != nil {
		return err
	}
	_ = l.reply(Reply{Started: &at}) // an agent that is gone adopts it later
	l.reach("launch command")
	return l.becomeMonitor()
}

// takeDir locks the container's directory and makes the exit file in full.
func (l *launching) takeDir() (err error) {
	if l.dir, err = unix.Open(l.job.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", l.job.Dir, err)
	}
	// The descriptor is never closed and the file never opened again in this process: closing any descriptor of a file
	// gives up the process's POSIX locks on it.
	if l.lock, err = unix.Openat(l.dir, FileLock, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600); err != nil {
		return fmt.Errorf("open the lock of %s: %w", l.job.Dir, err)
	}
	if err := unix.FcntlFlock(uintptr(l.lock), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return fmt.Errorf("another monitor has %s: %w", l.job.Dir, err)
	}
	l.reach("launch locked")
	if l.exit, err = unix.Openat(l.dir, fileExitTemp, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	if unix.Fallocate(l.exit, 0, 0, exitFileBytes) == nil {
		return nil // its blocks are its own from now on
	}
	if _, err := unix.Pwrite(l.exit, bytes.Repeat([]byte{' '}, exitFileBytes), 0); err != nil {
		return fmt.Errorf("make room for the exit code: %w", err)
	}
	return unix.Fsync(l.exit)
}

// initBinary mounts this binary where no container can write to it, if the spec wants it as PID 1, and gives its path.
func (l *launching) initBinary() (string, error) {
	if !l.job.Record.Spec.Init {
		return "", nil
	}
	return sealBinary(l.job.Self, filepath.Join(l.job.Dir, DirInit))
}

// park creates the container and leaves its first process waiting just before the command.
func (l *launching) park(config *containerConfig, who identity) (err error) {
	argv, err := Command(l.job.Record.Spec, l.job.Record.Config)
	if err != nil {
		return err
	}
	if l.job.Record.Spec.Init {
		argv = append([]string{pathInit}, argv...)
	}
	if err := l.stdio.open(l.job); err != nil {
		return err
	}
	l.proc = &libcontainer.Process{
		Init: true, Args: argv, Env: processEnv(l.job.Record, who), UID: who.UID, GID: who.GID, AdditionalGroups: who.Groups,
		Cwd: config.cwd, Stdin: l.stdio.stdin, Stdout: l.stdio.stdoutW, Stderr: l.stdio.stderrW, ConsoleSocket: l.stdio.consoleChild,
	}
	if l.job.Record.Spec.TTY {
		l.proc.Stdin, l.proc.Stdout, l.proc.Stderr = nil, nil, nil
	}
	if err := l.start(config.config); err != nil {
		return startFailure(argv[0], err)
	}
	return l.stdio.started()
}

// start has the waiting init become the container's first process if it can be, and libcontainer start one if not.
func (l *launching) start(config *configs.Config) (err error) {
	id := string(l.job.ID)
	if a := l.ahead; a != nil {
		l.ahead = nil
		if a.fits(config) {
			if err := l.reply(Reply{Attach: a.pid}); err != nil {
				a.end()
				return err
			}
			l.initPID = a.pid
			a.reach = l.reach
			l.reach("launch announced")
			l.built, err = a.start(l.job.StateDir, id, config, l.proc)
			return err
		}
		a.end()
	}
	if l.cont, err = libcontainer.Create(l.job.StateDir, id, config); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := l.cont.Start(l.proc); err != nil {
		return err
	}
	l.initPID, err = l.proc.Pid()
	return err
}

func (l *launching) limitCPU(limits LateQuota, config *containerConfig) error {
	if l.built != nil {
		return limits.applyTo(l.built, string(l.job.ID), config.config)
	}
	return limits.Apply(l.cont)
}

func (l *launching) execute() error {
	if l.built != nil {
		return l.built.exec()
	}
	return l.cont.Exec()
}

// startFailure tells a command that cannot be executed from other reasons. libcontainer's init hands its errors over as
// text, so the text it is.
func startFailure(name string, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "exec: \""+name+"\": stat") && strings.Contains(text, "no such file"),
		strings.Contains(text, "exec: \""+name+"\"") && strings.Contains(text, "no such file or directory"):
		return &Refusal{Text: fmt.Sprintf("execute %s: not found in the container", name), Kind: kindInvalid, Code: 127}
	case strings.Contains(text, "exec: \""+name+"\"") && (strings.Contains(text, "permission denied") || strings.Contains(text, "is a directory")):
		return &Refusal{Text: fmt.Sprintf("execute %s: permission denied in the container", name), Kind: kindInvalid, Code: 126}
	}
	return err
}

// awaitCommand returns once the command was executed: the kernel then shows another name for the process, also when it
// has ended already.
func (l *launching) awaitCommand() error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		comm, state, err := ProcessStat(l.initPID)
		if err != nil {
			return err
		}
		if comm != commLibcontainer && comm != commInit {
			return nil
		}
		if state == 'Z' {
			return l.execFailure()
		}
		time.Sleep(wait)
	}
}

// execFailure reads from stderr why the kernel refused to execute the command.
func (l *launching) execFailure() error {
	text := l.stdio.lastWords()
	code := 126
	if strings.Contains(text, "no such file") || strings.Contains(text, "No such file") || strings.Contains(text, "not found") {
		code = 127
	}
	if text == "" {
		text = "the kernel refused it"
	}
	argv, _ := Command(l.job.Record.Spec, l.job.Record.Config)
	return &Refusal{Text: fmt.Sprintf("execute %s: %s", argv[0], text), Kind: kindInvalid, Code: code}
}

// ProcessStat reads name and state of a child, also when it is a zombie.
func ProcessStat(pid int) (comm string, state byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, err
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < 0 || end+2 >= len(b) {
		return "", 0, fmt.Errorf("process %d: unexpected stat %q", pid, b)
	}
	return string(b[open+1 : end]), b[end+2], nil
}

// undo takes back what was made. The mounts go with this process's namespace.
func (l *launching) undo() {
	if l.ahead != nil {
		l.ahead.end()
	}
	if l.built != nil {
		l.built.undo()
	}
	if l.cont == nil {
		return
	}
	_ = l.cont.Signal(unix.SIGKILL)
	if l.initPID > 0 {
		unix.Wait4(l.initPID, nil, 0, nil)
	}
	_ = l.cont.Destroy() // what resists, the agent's clearRun takes
}

// becomeMonitor turns this process into the monitor of monitor.c. Everything that is not handed over closes with exec.
func (l *launching) becomeMonitor() error {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0) // refused without CAP_SYS_RESOURCE
	seq, err := lastLogNumber(filepath.Join(l.job.Dir, DirLog))
	if err != nil {
		return err
	}
	logDir, err := unix.Open(filepath.Join(l.job.Dir, DirLog), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := holdStdinSignal(); err != nil {
		return err
	}
	out, errOut, in := l.stdio.handOver()
	limits := logLimits(l.job.Record.Spec.Log)
	fds := []int{l.dir, logDir, l.exit, l.lock, out, errOut, openOOMCounter(l.job.Cgroup), in}
	args := []string{
		RoleMonitor, string(l.job.ID), strconv.Itoa(l.job.Start), strconv.Itoa(l.initPID),
		strconv.FormatInt(limits.MaxBytes, 10), strconv.Itoa(limits.MaxFiles), strconv.FormatInt(max(seq, 1), 10),
	}
	for _, fd := range fds {
		if fd >= 0 {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
				return fmt.Errorf("hand over descriptor %d: %w", fd, err)
			}
		}
		args = append(args, strconv.Itoa(fd))
	}
	// From the file on disk rather than from memory: its pages are shared with the agent, and the kernel can drop them.
	program := selfExe
	if fd, err := l.job.Self.open(); err == nil {
		program = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	return fmt.Errorf("become the monitor: %w", unix.Exec(program, args, leaseEnv(l.job.Lease)))
}

func logLimits(l runtime.LogLimits) runtime.LogLimits {
	if l.None {
		return runtime.LogLimits{MaxBytes: defaultLogBytes} // no file at all: the monitor throws lines away
	}
	if l.MaxBytes <= 0 {
		l.MaxBytes = defaultLogBytes
	}
	if l.MaxFiles <= 0 {
		l.MaxFiles = defaultLogFiles
	}
	return l
}

// openOOMCounter opens the file in which the kernel counts out-of-memory kills; -1 if there is none.
func openOOMCounter(cgroup string) int {
	fd, err := unix.Open(OOMCounter(cgroup), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}
