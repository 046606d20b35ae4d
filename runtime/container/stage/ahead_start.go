package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"golang.org/x/sys/unix"
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
