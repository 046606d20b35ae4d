package stage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"github.com/opencontainers/runc/libcontainer/configs"
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
