package stage

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// ahead is libcontainer's init, started before there is a container for it: its stages in C are over, it is in process,
// network, IPC and UTS namespaces that nobody else was in, its Go runtime is up, and it waits at our gate. What depends on
// the container comes later, as with libcontainer's own start: mount namespace, cgroups, and all of the configuration.
//
// It is libcontainer's init by every letter; what is ours is the other end of its pipes, which libcontainer has no name
// for outside: libcontainer/process_linux.go, initProcess.start, and message_linux.go of the pinned version. A test reads
// those files and fails when they say something else than this one.
type ahead struct {
	pid  int
	init *os.File // bootstrap message there, pids back, then initConfig there
	sync *os.File // packets: syncPacket
	log  *os.File // lines that its logger wrote
	gate *os.File
	// reach passes a step; a start has it set.
	reach func(Step)
}

// Descriptors of the waiting init.
const (
	initPipeFD = 3 + iota
	syncPipeFD
	logPipeFD
	gateFD
)

const envGate = "SHOAL_GATE"

// bootstrap message of libcontainer (message_linux.go): a netlink header and two attributes.
const (
	nlInitMsg      = 62000
	nlCloneFlags   = 27281
	nlRootlessEUID = 27287
)

// aheadNamespaces are made while it is parked. The mount namespace is not: it would lack what is mounted later. Nor is the
// cgroup namespace, whose root would be a wrong one.
const aheadNamespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

func bootstrapMessage() []byte {
	b := make([]byte, 0, 32)
	e := binary.NativeEndian
	b = e.AppendUint32(b, 32)
	b = e.AppendUint16(b, nlInitMsg)
	b = e.AppendUint16(b, unix.NLM_F_REQUEST)
	b = e.AppendUint32(b, 1) // sequence
	b = e.AppendUint32(b, 0) // port
	for _, a := range [][2]uint32{{nlCloneFlags, aheadNamespaces}, {nlRootlessEUID, 0}} {
		b = e.AppendUint16(b, 8)
		b = e.AppendUint16(b, uint16(a[0]))
		b = e.AppendUint32(b, a[1])
	}
	return b
}

// isSealed says whether this process runs from memory that nobody can change, the condition under which libcontainer too
// executes its own file as it is (CVE-2019-5736).
func isSealed() bool {
	f, err := os.Open(selfExe)
	if err != nil {
		return false
	}
	defer f.Close()
	const want = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && got&want == want
}

// startAhead must be called on the thread that later becomes the monitor: the init's death signal comes from it.
func startAhead() (_ *ahead, err error) {
	if !isSealed() {
		return nil, errors.New("the program is not sealed")
	}
	var theirs []*os.File
	a := &ahead{}
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			a.end()
		}
	}()
	pair := func(kind int, name string) *os.File {
		fds, perr := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if perr != nil {
			err = errors.Join(err, os.NewSyscallError("socketpair", perr))
			return nil
		}
		theirs = append(theirs, os.NewFile(uintptr(fds[1]), name))
		return os.NewFile(uintptr(fds[0]), name)
	}
	a.init, a.sync = pair(unix.SOCK_STREAM, "init"), pair(unix.SOCK_SEQPACKET, "sync")
	r, w, perr := os.Pipe()
	if err = errors.Join(err, perr); err != nil {
		return nil, err
	}
	a.log, theirs = r, append(theirs, w)
	if a.gate = pair(unix.SOCK_SEQPACKET, "gate"); err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: selfExe, Args: []string{RoleLauncher, "init"}, Dir: "/", ExtraFiles: theirs}
	cmd.Env = []string{
		"GOMAXPROCS=1", "GOGC=off", "_LIBCONTAINER_INITTYPE=standard", envGate + "=" + strconv.Itoa(gateFD),
		"_LIBCONTAINER_INITPIPE=" + strconv.Itoa(initPipeFD), "_LIBCONTAINER_SYNCPIPE=" + strconv.Itoa(syncPipeFD),
		"_LIBCONTAINER_LOGPIPE=" + strconv.Itoa(logPipeFD), "_LIBCONTAINER_LOGLEVEL=" + strconv.Itoa(int(logrus.WarnLevel)),
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start libcontainer's init: %w", err)
	}
	for _, f := range theirs {
		f.Close()
	}
	theirs = nil
	defer unix.Wait4(cmd.Process.Pid, nil, 0, nil) // its first stage; on an error the closed pipes end it
	defer cmd.Process.Release()
	if _, err := a.init.Write(bootstrapMessage()); err != nil {
		return nil, err
	}
	var pids struct {
		Init  int `json:"stage2_pid"`
		First int `json:"stage1_pid"`
	}
	if err := json.NewDecoder(a.init).Decode(&pids); err != nil {
		return nil, fmt.Errorf("libcontainer's init ended early: %w%s", err, a.logs())
	}
	a.pid = pids.Init
	unix.Wait4(pids.First, nil, 0, nil)
	return a, nil
}

// practiceMost is above what a configuration for practice has: 30 KiB.
const practiceMost = 128 << 10

// practice has it read a configuration that means nothing.
func (a *ahead) practice(config []byte) {
	if len(config) > 0 && len(config) <= practiceMost {
		_ = unix.Sendto(int(a.gate.Fd()), config, unix.MSG_DONTWAIT, nil)
	}
}

// end kills it, if it was started, and reaps it.
func (a *ahead) end() {
	for _, f := range []*os.File{a.init, a.sync, a.log, a.gate} {
		if f != nil {
			f.Close()
		}
	}
	if a.pid > 0 {
		_ = unix.Kill(a.pid, unix.SIGKILL) // our child, not yet waited for
		unix.Wait4(a.pid, nil, 0, nil)
	}
}

// fits says whether the waiting init can become the first process of this container: its namespaces are its own, all of
// them and no others, and nothing is asked for that libcontainer does from outside.
func (a *ahead) fits(config *configs.Config) bool {
	own := configs.NamespaceType("")
	n := 0
	for _, ns := range config.Namespaces {
		switch ns.Type {
		case configs.NEWNS, configs.NEWPID, configs.NEWNET, configs.NEWIPC, configs.NEWUTS:
			n++
		case configs.NEWCGROUP:
		default:
			own = ns.Type
		}
		if ns.Path != "" {
			return false
		}
	}
	hooks := 0
	for _, h := range config.Hooks {
		hooks += len(h)
	}
	for _, m := range config.Mounts {
		if m.IsIDMapped() {
			return false
		}
	}
	for _, n := range config.Networks {
		if n.Type != "loopback" {
			return false
		}
	}
	return n == 5 && own == "" && hooks == 0 && len(config.NetDevices) == 0 && config.TimeOffsets == nil &&
		config.IntelRdt == nil && !config.RootlessEUID && (config.Seccomp == nil || config.Seccomp.ListenerPath == "") &&
		len(config.UIDMappings) == 0 && config.ParentDeathSignal == 0
}

// initConfig is what libcontainer tells its init (libcontainer/init_linux.go).
type initConfig struct {
	Config           *configs.Config       `json:"config"`
	Args             []string              `json:"args"`
	Env              []string              `json:"env"`
	UID              int                   `json:"uid"`
	GID              int                   `json:"gid"`
	AdditionalGroups []int                 `json:"additional_groups"`
	Cwd              string                `json:"cwd"`
	CreateConsole    bool                  `json:"create_console"`
	ConsoleWidth     uint16                `json:"console_width"`
	ConsoleHeight    uint16                `json:"console_height"`
	PassedFilesCount int                   `json:"passed_files_count"`
	AppArmorProfile  string                `json:"apparmor_profile"`
	Capabilities     *configs.Capabilities `json:"capabilities"`
	NoNewPrivileges  bool                  `json:"no_new_privileges"`
	ProcessLabel     string                `json:"process_label"`
	Rlimits          []configs.Rlimit      `json:"rlimits"`
	IOPriority       *configs.IOPriority   `json:"io_priority,omitempty"`
	Scheduler        *configs.Scheduler    `json:"scheduler,omitempty"`
	CPUAffinity      *configs.CPUAffinity  `json:"cpu_affinity,omitempty"`
	ContainerID      string                `json:"containerid"`
	Cgroup2Path      string                `json:"cgroup2_path,omitempty"`
	Networks         []network             `json:"network"`
	SpecState        *struct{}             `json:"spec_state,omitempty"`
}

// network is one of the interfaces that init configures: here, loopback only.
type network struct {
	configs.Network

	TempVethPeerName string `json:"temp_veth_peer_name"`
}

// syncPacket is what init and its parent say to each other (libcontainer/sync.go).
type syncPacket struct {
	Type  string          `json:"type"`
	Flags int             `json:"flags"`
	Arg   json.RawMessage `json:"arg,omitempty"`
}

// Types of syncPacket.
const (
	procError       = "procError"
	procReady       = "procReady"
	procRun         = "procRun"
	procHooks       = "procHooks"
	procHooksDone   = "procHooksDone"
	procMountPlease = "procMountPlease"
)

const (
	stateFile = "state.json"
	execFifo  = "exec.fifo"
)

// built is a container whose first process waits before the command, as libcontainer's Start leaves it.
type built struct {
	pid      int
	stateDir string
	cgroup   cgroups.Manager
}

// start builds the container around the waiting init. It does what libcontainer's Create and Start do, in their order.
// After an error nothing is left of it or of the init.
func (a *ahead) start(stateRoot, id string, config *configs.Config, p *libcontainer.Process) (b *built, err error) {
	defer func() {
		if err == nil {
			return
		}
		a.end()
		if b != nil {
			b.remove()
		}
		b = nil
	}()
	if err := validate.Validate(config); err != nil {
		return nil, err
	}
	cg, err := manager.New(config.Cgroups)
	if err != nil {
		return nil, err
	}
	b = &built{pid: a.pid, stateDir: filepath.Join(stateRoot, id), cgroup: cg}
	if err := os.Mkdir(b.stateDir, 0o711); err != nil {
		return nil, err
	}
	a.reach("launch state")
	if err := cg.Apply(a.pid); err != nil {
		return b, fmt.Errorf("unable to apply cgroup configuration: %w", err)
	}
	a.reach("launch cgroup")
	var all unix.CPUSet
	for i := range len(all) {
		all[i] = ^all[i]
	}
	_ = unix.SchedSetaffinity(a.pid, &all) // what the agent was bound to is not the container's; its cpuset is
	if config.OomScoreAdj != nil {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", a.pid), []byte(strconv.Itoa(*config.OomScoreAdj)), 0); err != nil {
			return b, err
		}
	}
	if err := a.open(b.stateDir, config, p); err != nil {
		return b, err
	}
	a.reach("launch gate")
	text, err := json.Marshal(newInitConfig(id, config, cg, p))
	if err != nil {
		return b, err
	}
	if _, err := a.init.Write(text); err != nil {
		return b, fmt.Errorf("send the configuration: %w%s", err, a.logs())
	}
	a.reach("launch configuration sent")
	if err := a.follow(b, id, config); err != nil {
		return b, err
	}
	return b, nil
}

func newInitConfig(id string, config *configs.Config, cg cgroups.Manager, p *libcontainer.Process) initConfig {
	c := initConfig{
		Config: config, Args: p.Args, Env: p.Env, UID: p.UID, GID: p.GID, AdditionalGroups: p.AdditionalGroups, Cwd: p.Cwd,
		CreateConsole: p.ConsoleSocket != nil, ConsoleWidth: p.ConsoleWidth, ConsoleHeight: p.ConsoleHeight,
		AppArmorProfile: config.AppArmorProfile, Capabilities: config.Capabilities, NoNewPrivileges: config.NoNewPrivileges,
		ProcessLabel: config.ProcessLabel, Rlimits: config.Rlimits, IOPriority: config.IOPriority, Scheduler: config.Scheduler,
		CPUAffinity: config.ExecCPUAffinity, ContainerID: id,
	}
	for _, n := range config.Networks {
		c.Networks = append(c.Networks, network{Network: *n})
	}
	if cgroups.IsCgroup2UnifiedMode() {
		c.Cgroup2Path = cg.Path("")
	}
	return c
}

// gateMessage says what the descriptors are that come with it: first this launcher's mount namespace and the FIFO, then
// standard input, output and error, or the socket over which the terminal is to be sent.
type gateMessage struct {
	Console         bool `json:"console,omitempty"`
	CgroupNamespace bool `json:"cgroupNamespace,omitempty"`
}

// open makes the FIFO and lets the init through the gate.
func (a *ahead) open(stateDir string, config *configs.Config, p *libcontainer.Process) error {
	fifo := filepath.Join(stateDir, execFifo)
	if err := unix.Mkfifo(fifo, 0o622); err != nil {
		return &os.PathError{Op: "mkfifo", Path: fifo, Err: err}
	}
	if err := os.Chmod(fifo, 0o622); err != nil { // the umask must not decide
		return err
	}
	var fds []int
	defer func() {
		for _, fd := range fds[:min(2, len(fds))] {
			unix.Close(fd)
		}
	}()
	// The thread's: the process's others are in the machine's.
	for _, o := range []struct {
		path  string
		flags int
	}{{"/proc/thread-self/ns/mnt", unix.O_RDONLY}, {fifo, unix.O_PATH}} {
		fd, err := unix.Open(o.path, o.flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: o.path, Err: err}
		}
		fds = append(fds, fd)
	}
	if p.ConsoleSocket != nil {
		fds = append(fds, int(p.ConsoleSocket.Fd()))
	} else {
		for _, f := range []any{p.Stdin, p.Stdout, p.Stderr} {
			fds = append(fds, int(f.(*os.File).Fd()))
		}
	}
	text, err := json.Marshal(gateMessage{Console: p.ConsoleSocket != nil, CgroupNamespace: config.Namespaces.Contains(configs.NEWCGROUP)})
	if err != nil {
		return err
	}
	defer a.gate.Close()
	if err := unix.Sendmsg(int(a.gate.Fd()), text, unix.UnixRights(fds...), nil, 0); err != nil {
		return fmt.Errorf("open the gate: %w%s", os.NewSyscallError("sendmsg", err), a.logs())
	}
	return nil
}

// follow answers the init until it waits on the FIFO.
func (a *ahead) follow(b *built, id string, config *configs.Config) error {
	ready := false
	for {
		p, err := a.receive()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("error during container init: %w%s", err, a.logs())
		}
		switch p.Type {
		case procHooks: // mounts are there; there are no hooks
			a.reach("launch hooks")
			if err := b.cgroup.Set(config.Cgroups.Resources); err != nil {
				return fmt.Errorf("error setting cgroup config for procHooks process: %w", err)
			}
			a.reach("launch limits")
			if err := a.say(procHooksDone); err != nil {
				return err
			}
		case procReady:
			ready = true
			a.reach("launch ready")
			for _, l := range config.Rlimits {
				if err := unix.Prlimit(a.pid, l.Type, &unix.Rlimit{Max: l.Hard, Cur: l.Soft}, nil); err != nil {
					return fmt.Errorf("error setting rlimit type %v: %w", l.Type, err)
				}
			}
			if err := b.save(id, config); err != nil {
				return fmt.Errorf("unable to store init state: %w", err)
			}
			a.reach("launch saved")
			if err := a.say(procRun); err != nil {
				return err
			}
		case procError:
			var e struct {
				Message string `json:"message"`
			}
			_ = json.Unmarshal(p.Arg, &e)
			return fmt.Errorf("error during container init: %s%s", e.Message, a.logs())
		case procMountPlease: // only for a source that it cannot see (rootfs_linux.go, setupAndMountToRootfs)
			var m configs.Mount
			_ = json.Unmarshal(p.Arg, &m)
			_, err := os.Stat(m.Source)
			return fmt.Errorf("mount %s at %s: %w", m.Source, m.Destination, errors.Join(err, errNoSource))
		default:
			return fmt.Errorf("libcontainer's init says %q", p.Type)
		}
	}
	said := a.logs() // to the end: it closes that before it waits
	if !ready || said != "" {
		return fmt.Errorf("libcontainer's init ended%s", said)
	}
	a.init.Close()
	a.sync.Close()
	return nil
}

var errNoSource = errors.New("the source cannot be opened")

func (a *ahead) say(kind string) error {
	text, err := json.Marshal(syncPacket{Type: kind})
	if err == nil {
		_, err = a.sync.Write(text)
	}
	return err
}

func (a *ahead) receive() (p syncPacket, err error) {
	size, _, err := unix.Recvfrom(int(a.sync.Fd()), nil, unix.MSG_TRUNC|unix.MSG_PEEK)
	for err == unix.EINTR {
		size, _, err = unix.Recvfrom(int(a.sync.Fd()), nil, unix.MSG_TRUNC|unix.MSG_PEEK)
	}
	if err != nil {
		return p, os.NewSyscallError("recvfrom", err)
	}
	if size == 0 {
		return p, io.EOF
	}
	buf := make([]byte, size)
	if _, err := a.sync.Read(buf); err != nil {
		return p, err
	}
	return p, json.Unmarshal(buf, &p)
}

// logs reads what the init logged of weight, until it closes that pipe, in a form to be put behind an error.
func (a *ahead) logs() string {
	_ = a.log.SetReadDeadline(time.Now().Add(logPatience))
	var out []string
	s := bufio.NewScanner(a.log)
	for s.Scan() {
		var l struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		switch err := json.Unmarshal(s.Bytes(), &l); {
		case err != nil:
		case l.Level == "fatal", l.Level == "panic":
			out = append(out, l.Msg)
		case l.Level == "debug", l.Level == "info":
		default:
			logrus.Warn(l.Msg) // the launcher's own, which it puts behind errors
		}
	}
	a.log.Close()
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, "; ")
}

// logPatience is for an init that hangs with its log open.
const logPatience = 5 * time.Second

// save writes libcontainer's state, so that it can load the container from now on.
func (b *built) save(id string, config *configs.Config) error {
	started, err := startTime(b.pid)
	if err != nil {
		return err
	}
	s := libcontainer.State{
		BaseState: libcontainer.BaseState{
			ID: id, InitProcessPid: b.pid, InitProcessStartTime: started, Created: time.Now().UTC(), Config: *config,
		},
		CgroupPaths: b.cgroup.GetPaths(), NamespacePaths: map[configs.NamespaceType]string{},
	}
	for _, kind := range configs.NamespaceTypes() {
		if configs.IsNamespaceSupported(kind) {
			ns := configs.Namespace{Type: kind}
			s.NamespacePaths[kind] = ns.GetPath(b.pid)
		}
	}
	for fd := range 3 {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", b.pid, fd))
		if err != nil {
			return err
		}
		s.ExternalDescriptors = append(s.ExternalDescriptors, path)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	temp := filepath.Join(b.stateDir, "state-new")
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(b.stateDir, stateFile))
}

// startTime is field 22 of /proc/PID/stat, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	text := string(b)
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("process %d: unexpected stat %q", pid, text)
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// exec lets the command run, as libcontainer's Container.Exec.
func (b *built) exec() error {
	path := filepath.Join(b.stateDir, execFifo)
	// Not blocking, so that an init that is gone does not hold us: what it wrote is there, or it waits in open and we wake it.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var word [8]byte
	for wait := 20 * time.Microsecond; ; wait = min(2*wait, 2*time.Millisecond) {
		n, err := unix.Read(fd, word[:])
		if n > 0 {
			return os.Remove(path)
		}
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return &os.PathError{Op: "read", Path: path, Err: err}
		}
		if _, state, err := ProcessStat(b.pid); err != nil || state == 'Z' {
			return errors.New("container process is already dead")
		}
		time.Sleep(wait)
	}
}

// undo takes everything back, with the init.
func (b *built) undo() {
	_ = unix.Kill(b.pid, unix.SIGKILL)
	unix.Wait4(b.pid, nil, 0, nil)
	b.remove()
}

func (b *built) remove() {
	_ = b.cgroup.Destroy() // what resists, the agent's clearRun takes
	_ = os.RemoveAll(b.stateDir)
}

// awaitGate is the waiting init's side: it returns when there is a container, with its descriptors in place and in a copy
// of the launcher's mount namespace. On the main thread, which is the only one that this is about: it executes the command.
func awaitGate() error {
	gate := gateFD
	buf, oob := make([]byte, practiceMost), make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := unix.Recvmsg(gate, buf, oob, unix.MSG_CMSG_CLOEXEC)
	for err == unix.EINTR || err == nil && n > 0 && oobn == 0 {
		if err == nil { // what comes without descriptors is for practice
			var c initConfig
			_ = json.Unmarshal(buf[:n], &c)
		}
		n, oobn, _, _, err = unix.Recvmsg(gate, buf, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return io.EOF // nobody needs us
	}
	unix.Close(gate)
	var m gateMessage
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		return err
	}
	control, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(control) != 1 {
		return fmt.Errorf("%d control messages came through the gate: %w", len(control), errors.Join(err, io.ErrUnexpectedEOF))
	}
	fds, err := unix.ParseUnixRights(&control[0])
	if err != nil {
		return err
	}
	want := 5
	if m.Console {
		want = 3
	}
	if len(fds) != want {
		return fmt.Errorf("%d descriptors came through the gate, want %d", len(fds), want)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(fds[0], unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	unix.Close(fds[0])
	flags := unix.CLONE_NEWNS
	if m.CgroupNamespace {
		flags |= unix.CLONE_NEWCGROUP
	}
	if err := unix.Unshare(flags); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	os.Setenv("_LIBCONTAINER_FIFOFD", strconv.Itoa(fds[1]))
	if m.Console {
		os.Setenv("_LIBCONTAINER_CONSOLE", strconv.Itoa(fds[2]))
		return nil
	}
	for i, fd := range fds[2:] {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
		unix.Close(fd)
	}
	return nil
}

// noteGateFailure tells the launcher why the init ends, in the way in which libcontainer's init does.
func noteGateFailure(err error) {
	text, _ := json.Marshal(map[string]any{"type": procError, "flags": 0, "arg": map[string]string{"message": err.Error()}})
	_, _ = syscall.Write(syncPipeFD, text)
}
