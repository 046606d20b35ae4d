package machines

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MachineOptions of one machine.
type MachineOptions struct {
	// DiskBytes, if set, makes the disk so small (a tmpfs); else it is a directory.
	DiskBytes int64
	// DiskImage, if set, is a file with a file system that is mounted as the disk.
	DiskImage string
	// DiskExt4, if set, makes the disk an ext4 of so many bytes, in a file. It can lose its power, freeze and fill up.
	DiskExt4 int64
	// Binary is the shoal of this machine; "": the Net's. It may be changed between two starts: an upgrade.
	Binary string
	// AgentArgs are further flags of every start of the agent.
	AgentArgs []string
}

// Machine is namespaces for network, mounts, processes, host name and IPC, with a disk and a cgroup of its own. All of
// it but the disk is gone when it is switched off.
type Machine struct {
	Options MachineOptions
	Name    string
	Addr    netip.Addr

	net  *Net
	num  int
	dir  string
	port string // of the switch

	mu    sync.Mutex
	init  *process // nil: off
	pid   int      // of the machine's first process, in our namespace
	agent *agent   // nil: not running
}

// agent is a running agent.
type agent struct {
	cmd  *exec.Cmd // the nsenter that started it; nil: another process did
	pid  int       // its own, in our namespace
	done chan struct{}
	err  error // set when done is closed
}

// DataDir is the agent's, Socket where it listens, LogPath where it logs.
func (m *Machine) DataDir() string { return filepath.Join(m.dir, "disk", "shoal") }
func (m *Machine) Socket() string  { return filepath.Join(m.dir, "shoal.sock") }
func (m *Machine) LogPath() string { return filepath.Join(m.dir, "agent.log") }

// Cgroup is the parent of its containers' cgroups, in every hierarchy.
func (m *Machine) Cgroup() string { return fmt.Sprintf("shoal-%s-%s", m.net.id, m.Name) }

func (m *Machine) makeDisk() error {
	disk := filepath.Join(m.dir, "disk")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return err
	}
	if m.Options.DiskImage != "" {
		if out, err := exec.Command("mount", "-o", "loop", m.Options.DiskImage, disk).CombinedOutput(); err != nil {
			return fmt.Errorf("mount %s: %w: %s", m.Options.DiskImage, err, out)
		}
		return nil
	}
	if m.Options.DiskExt4 != 0 {
		return m.makeExt4(m.Options.DiskExt4)
	}
	if m.Options.DiskBytes == 0 {
		return nil
	}
	return unix.Mount("shoal-"+m.net.id, disk, "tmpfs", 0, fmt.Sprintf("size=%d", m.Options.DiskBytes))
}

// Wipe empties the disk of a machine whose agent does not run.
func (m *Machine) Wipe() error {
	if m.Running() {
		return fmt.Errorf("wipe the disk of %s: its agent runs", m.Name)
	}
	return m.net.driver.wipe(m)
}

func (m *Machine) emptyDisk() error { return os.RemoveAll(m.DataDir()) }

func (m *Machine) removeDisk() error {
	if m.Options.DiskExt4 != 0 {
		return m.unmountExt4()
	}
	if m.Options.DiskBytes == 0 && m.Options.DiskImage == "" {
		return nil
	}
	return unix.Unmount(filepath.Join(m.dir, "disk"), 0)
}

// PowerOn makes the namespaces and plugs the cable in. The agent is not started.
func (m *Machine) PowerOn() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.init != nil {
		return fmt.Errorf("machine %s is on already", m.Name)
	}
	if err := m.net.driver.powerOn(m); err != nil {
		return errors.Join(err, m.net.driver.powerOff(m))
	}
	return nil
}

func (m *Machine) powerOnLocked() error {
	// bash reaps whatever becomes its child, as an init must.
	init := exec.Command("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", "-c", "hostname "+m.Name+"; trap : CHLD; while :; do sleep 1000 & wait; done")
	p, err := startApart(init, m.net.opts.Keep)
	if err != nil {
		return fmt.Errorf("switch on machine %s: %w", m.Name, err)
	}
	m.init = p
	err = await(goneWait, "machine "+m.Name, func() bool {
		m.pid = childOf(p.PID)
		return m.pid != 0 && differentNet(m.pid) && hostnameSet(m.pid)
	})
	if err != nil {
		return err
	}
	m.net.note(m.pid)
	if err := m.freshBoot(); err != nil {
		return err
	}
	return m.plugIn()
}

// plugIn connects the machine with the switch. It has the same card each time it is switched on: the others still know its address.
func (m *Machine) plugIn() error {
	script := fmt.Sprintf("ip link add %[1]s type veth peer name eth0 address %[3]s netns %[2]d && ip link set %[1]s master sw && ip link set %[1]s up", m.port, m.pid, m.card())
	if err := m.net.inSwitch(script); err != nil {
		return err
	}
	inside := fmt.Sprintf("ip link set lo up && ip addr add %s/24 dev eth0 && ip link set eth0 up", m.Addr)
	return run("nsenter", "--net=/proc/"+strconv.Itoa(m.pid)+"/ns/net", "sh", "-ec", inside)
}

// card is the hardware address of its network card.
func (m *Machine) card() string { return fmt.Sprintf("02:00:c0:00:02:%02x", m.num) }

// PowerOff cuts the cable and kills everything of the machine at once; nobody hears a word of it. The disk stays. A
// machine that is off stays so.
func (m *Machine) PowerOff() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.net.driver.powerOff(m)
}

func (m *Machine) powerOffLocked() error {
	if m.init == nil {
		return removeCgroups(m.Cgroup()) // of a machine that died with the process that made it
	}
	if err := m.ThawDisk(); err != nil { // what waits for a frozen disk does not die
		return err
	}
	// The cable first: dying processes would still send the ends of their connections.
	_ = m.net.inSwitch("ip link del " + m.port) // not there if switching on failed
	var spaces []string
	others := map[being]bool{}
	if m.pid != 0 {
		spaces = ownSpaces(m.pid)
		others = outsiders(spaces)
		_ = unix.Kill(m.pid, unix.SIGKILL) // the kernel kills the whole process namespace with its first process
	}
	err := m.init.kill()
	if m.agent != nil {
		if m.agent.cmd != nil {
			_ = m.agent.cmd.Process.Kill() // see Signal: it may be stopped
		}
		<-m.agent.done
	}
	m.net.letGo(spaces, others)
	m.init, m.pid, m.agent = nil, 0, nil
	return errors.Join(err, removeCgroups(m.Cgroup()))
}

// Start starts the agent with further flags, such as --join and --token. It returns at once; see Ready.
func (m *Machine) Start(args ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.init == nil:
		return fmt.Errorf("machine %s is off", m.Name)
	case m.agent != nil && !m.agent.ended():
		return fmt.Errorf("the agent of machine %s runs already", m.Name)
	}
	log, err := os.OpenFile(m.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	level := m.net.opts.LogLevel
	if level == "" {
		level = "info"
	}
	cmd, err := m.net.driver.agentCommand(m, slices.Concat([]string{
		m.binary(), "agent", "--data-dir", m.DataDir(), "--socket", m.Socket(), "--name", m.Name, "--bind", m.Addr.String() + ":6174",
		"--cgroup-parent", m.Cgroup(), "--log-level", level,
	}, m.Options.AgentArgs, args))
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if _, err := startApart(cmd, m.net.opts.Keep); err != nil {
		return err
	}
	a := &agent{cmd: cmd, done: make(chan struct{})}
	go func() {
		a.err = cmd.Wait()
		close(a.done)
	}()
	m.agent = a
	return await(30*time.Second, "the agent of "+m.Name, func() bool {
		a.pid = m.net.driver.agentPID(m, cmd.Process.Pid)
		return a.pid != 0 || a.ended()
	})
}

func (a *agent) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// binary is the shoal of this machine.
func (m *Machine) binary() string {
	if m.Options.Binary != "" {
		return m.Options.Binary
	}
	return m.net.opts.Binary
}

// Command makes a command that runs inside of the machine.
func (m *Machine) Command(args ...string) *exec.Cmd {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shell(args...)
}

// On tells whether the machine is switched on, and Running whether its agent runs.
func (m *Machine) On() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.init != nil
}

// fell tells whether a machine ended that nobody switched off, such as one whose kernel panicked.
func (m *Machine) fell() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.init != nil && !m.init.alive()
}

// Running tells whether the agent runs.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.agent != nil && !m.agent.ended()
}

// AgentPID is the agent's process id in the caller's namespace; 0 if it does not run.
func (m *Machine) AgentPID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agent == nil || m.agent.ended() {
		return 0
	}
	return m.agent.pid
}

// Signal sends the agent a signal: SIGKILL for a crash, SIGSTOP and SIGCONT for a pause, SIGTERM for a stop.
func (m *Machine) Signal(s syscall.Signal) error {
	pid := m.AgentPID()
	if pid == 0 {
		return fmt.Errorf("the agent of machine %s does not run", m.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.net.driver.signal(m, pid, s)
}

// AwaitEnd waits for the agent to end and gives its exit code; -1 if another process started it.
func (m *Machine) AwaitEnd(limit time.Duration) (int, error) {
	m.mu.Lock()
	a := m.agent
	m.mu.Unlock()
	if a == nil {
		return 0, fmt.Errorf("the agent of machine %s does not run", m.Name)
	}
	select {
	case <-a.done:
		if a.cmd == nil {
			return -1, nil
		}
		return a.cmd.ProcessState.ExitCode(), nil
	case <-time.After(limit):
		return 0, fmt.Errorf("the agent of machine %s still runs after %v", m.Name, limit)
	}
}

// Processes lists the machine's processes, those of its containers too, in the caller's namespace: pid to command line.
func (m *Machine) Processes() map[int]string { return m.net.driver.processes(m) }

func (m *Machine) kernelProcesses() map[int]string {
	m.mu.Lock()
	root := m.pid
	m.mu.Unlock()
	out := map[int]string{}
	if root == 0 {
		return out
	}
	// What entered from outside has its parent there, and a container has a namespace of its own: so all that are in
	// the machine's namespace, and their children.
	space := namespace(strconv.Itoa(root), "pid")
	var queue []int
	for _, pid := range pids() {
		if namespace(pid, "pid") == space {
			n, _ := strconv.Atoi(pid) // it is a number
			queue = append(queue, n)
		}
	}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if _, seen := out[pid]; seen || err != nil {
			continue
		}
		out[pid] = strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		queue = append(queue, children(pid)...)
	}
	return out
}

// Tasks tells which tasks of a job truly run on the machine: task id to the process ids of its container, in the
// caller's namespace, its first process first. It asks the kernel, not the agent.
func (m *Machine) Tasks(job string) map[string][]int { return m.net.driver.tasks(m, job) }

func (m *Machine) kernelTasks(job string) map[string][]int {
	out := map[string][]int{}
	for pid := range m.Processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue
		}
		env := strings.Split(string(b), "\x00")
		if !slices.Contains(env, "SHOAL_JOB="+job) {
			continue
		}
		for _, v := range env {
			if id, ok := strings.CutPrefix(v, "SHOAL_TASK="); ok {
				out[id] = append(out[id], pid)
			}
		}
	}
	for _, pids := range out {
		if i := slices.IndexFunc(pids, first); i > 0 {
			pids[0], pids[i] = pids[i], pids[0]
		}
	}
	return out
}

// first tells whether a process is the first of its process namespace.
func first(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(ids)
			return f[len(f)-1] == "1"
		}
	}
	return false
}

func children(pid int) []int {
	var out []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if c, err := strconv.Atoi(f); err == nil {
				out = append(out, c)
			}
		}
	}
	return out
}

func childOf(pid int) int {
	if c := children(pid); len(c) > 0 {
		return c[0]
	}
	return 0
}

func differentNet(pid int) bool {
	theirs := namespace(strconv.Itoa(pid), "net")
	return theirs != "" && theirs != namespace("self", "net")
}

// hostnameSet tells that the machine's first process is bash and past its first command.
func hostnameSet(pid int) bool { return len(children(pid)) > 0 }

// removeCgroups removes a cgroup and all below it from every hierarchy.
func removeCgroups(name string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		return err
	}
	roots = append(roots, "/sys/fs/cgroup/"+name)
	var errs []error
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		slices.Reverse(dirs) // children before parents
		for _, d := range dirs {
			// A killed process leaves its cgroup a moment after it is gone.
			err := await(goneWait, "cgroup "+d+" to be empty", func() bool {
				err := os.Remove(d)
				return err == nil || errors.Is(err, os.ErrNotExist)
			})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
