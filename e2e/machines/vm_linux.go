package machines

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shoal/e2e/vm"
)

// ErrNoVM is why there can be no virtual machines on this host: a program or a package that cannot be had.
var ErrNoVM = errors.New("no virtual machines here")

// virtual is the driver of machines with kernels of their own: qemu processes in the switch's network namespace, with
// a tap on the switch for each, so that the switch's faults are the same as for namespaces. A second bridge is the way
// in; package vm hides it from what runs inside.
type virtual struct {
	net   *Net
	files *vmFiles
	accel string

	mu     sync.Mutex
	guests map[*Machine]*guest
	slower float64 // see measure
}

// guest is a machine that is on.
type guest struct {
	way    vm.Dialer
	socket net.Listener // the agent's, on the host
	serial net.Conn
}

const (
	vmMemory = 640     // MiB; an agent and its containers take 150, and the root's tmpfs holds the binary
	vmDisk   = 4 << 30 // bytes of each disk, most of them never written
	wayHost  = "198.51.100.254"
)

func wayIn(m *Machine) string { return fmt.Sprintf("198.51.100.%d", m.num) }

// bootPatience is how long a machine may take to come up: 12 s alone on two cores, three at a time 40 s on busy ones.
const bootPatience = 2 * time.Minute

// newVirtual makes the bridge of the ways in.
func newVirtual(n *Net) (*virtual, error) {
	files, err := makeVMFiles()
	if err != nil {
		return nil, err
	}
	d := &virtual{net: n, files: files, guests: map[*Machine]*guest{}}
	if d.accel, err = files.accelerator(); err != nil {
		return nil, err
	}
	return d, n.inSwitch("ip link add way type bridge forward_delay 0 && ip addr add " + wayHost + "/24 dev way && ip link set way up")
}

func diskImage(m *Machine) string { return filepath.Join(m.dir, "disk.img") }

func (d *virtual) makeDisk(m *Machine) error {
	if m.Options.DiskImage != "" || m.Options.DiskExt4 != 0 {
		return fmt.Errorf("machine %s: a virtual machine makes its disk itself: DiskImage and DiskExt4 are for namespaces, whose power cuts they carry", m.Name)
	}
	if err := os.MkdirAll(filepath.Join(m.dir, "disk"), 0o755); err != nil {
		return err
	}
	f, err := os.Create(diskImage(m))
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(vmDisk), f.Close()); err != nil {
		return err
	}
	size := int64(vmDisk)
	if m.Options.DiskBytes != 0 {
		size = m.Options.DiskBytes
	}
	return run("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", diskImage(m), strconv.FormatInt(size/1024, 10)+"k")
}

func (d *virtual) removeDisk(m *Machine) error {
	err := os.Remove(diskImage(m))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (d *virtual) wipe(m *Machine) error {
	if !m.On() {
		return d.makeDisk(m)
	}
	if out, err := m.Command("sh", "-c", "rm -rf "+m.DataDir()).CombinedOutput(); err != nil {
		return fmt.Errorf("wipe the disk of %s: %w: %s", m.Name, err, out)
	}
	return nil
}

func (d *virtual) powerOn(m *Machine) error {
	state, err := d.files.saved(d.accel)
	if err != nil {
		return err
	}
	taps := fmt.Sprintf("ip tuntap add %[1]s mode tap && ip link set %[1]s master sw up && ip tuntap add w%[1]s mode tap && ip link set w%[1]s master way up", m.port)
	if err := d.net.inSwitch(taps); err != nil {
		return err
	}
	serial := filepath.Join(m.dir, "serial")
	_ = os.Remove(serial) // of an earlier life
	words := append([]string{"nsenter", "--net=/proc/" + strconv.Itoa(d.net.holder.PID) + "/ns/net", "--"}, d.files.qemu(d.accel, qemuPaths{
		console: filepath.Join(m.dir, "console.log"), serial: serial, disk: diskImage(m), monitor: monitorOf(m),
		cards: []string{"tap,ifname=" + m.port + ",script=no,downscript=no", "tap,ifname=w" + m.port + ",script=no,downscript=no"},
	})...)
	if state != "" {
		words = append(words, "-incoming", "exec:zstd -dcq "+state)
	}
	cmd := exec.Command(words[0], words[1:]...)
	log, err := os.OpenFile(filepath.Join(m.dir, "qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if m.init, err = startApart(cmd, d.net.opts.Keep); err != nil {
		return fmt.Errorf("switch on machine %s: %w", m.Name, err)
	}
	g := &guest{way: d.dialer(m)}
	if g.serial, err = converse(m.init, serial, d.setup(m)); err != nil {
		return fmt.Errorf("switch on machine %s: %w; its console is %s, and qemu said %q", m.Name, err, filepath.Join(m.dir, "console.log"), lastOf(log.Name(), 400))
	}
	if err := d.measure(g); err != nil {
		return err
	}
	if g.socket, err = forward(m.Socket(), func(ctx context.Context) (net.Conn, error) { return g.way.Dial(ctx, "unix", m.Socket()) }); err != nil {
		return err
	}
	d.mu.Lock()
	d.guests[m] = g
	d.mu.Unlock()
	return nil
}

// lastOf is the end of a file, for people.
func lastOf(path string, size int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-size):])
}

// setup is what makes a fresh machine, or a copy of the saved one, this machine.
func (d *virtual) setup(m *Machine) vm.Setup {
	seed := make([]byte, 64)
	_, _ = rand.Read(seed) // never fails
	disk := filepath.Join(m.dir, "disk")
	return vm.Setup{
		Card: "eth1", Way: wayIn(m) + "/24", MAC: fmt.Sprintf("02:00:c6:33:64:%02x", m.num), Seed: seed, Now: time.Now().UnixNano(),
		// The disk lies below a device-mapper device, so that disk faults can be put under it while it is in use.
		Script: fmt.Sprintf(`
hostname %[1]s
ip link set eth0 address %[2]s
ip addr add %[3]s/24 dev eth0
ip link set eth0 up
blockdev --flushbufs /dev/vdb
echo "0 $(blockdev --getsz /dev/vdb) linear /dev/vdb 0" | DM_DISABLE_UDEV=1 dmsetup create data
mkdir -p %[4]s
mount -t ext4 /dev/mapper/data %[4]s
printf '127.0.0.1 localhost %[1]s\n' >/etc/hosts
`, m.Name, m.card(), m.Addr, disk),
	}
}

// converse waits until the machine's helper listens on its serial line, and tells it the setup.
func converse(qemu *process, path string, s vm.Setup) (net.Conn, error) {
	var c net.Conn
	err := await(30*time.Second, "qemu to begin", func() (done bool) {
		var err error
		c, err = net.Dial("unix", path)
		return err == nil || !qemu.alive()
	})
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, errors.New("qemu ended; see qemu.log beside the console")
	}
	_ = c.SetDeadline(time.Now().Add(bootPatience)) // a unix socket has deadlines
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil { // that it is up; what is sent to a machine that is still being read is lost
		return nil, errors.Join(fmt.Errorf("it did not come up: %w", err), c.Close())
	}
	line, err := json.Marshal(s)
	if err == nil {
		_, err = c.Write(append(line, '\n'))
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	var a vm.Answer
	var b []byte
	for up := true; up && err == nil; up = strings.Trim(string(b), "\"\r\n") == vm.Up {
		b, err = r.ReadBytes('\n')
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("it did not set itself up: %w", err), c.Close())
	}
	return c, nil
}

// forward listens on a socket of the host and joins each connection to one that dial makes.
func forward(path string, dial func(context.Context) (net.Conn, error)) (net.Listener, error) {
	_ = os.Remove(path) // of an earlier life
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				other, err := dial(ctx)
				if err != nil {
					_ = c.Close() // whoever asked sees that nobody is there
					return
				}
				vm.Join(c, other, other)
			}()
		}
	}()
	return l, nil
}

func (d *virtual) dialer(m *Machine) vm.Dialer {
	space := "/proc/" + strconv.Itoa(d.net.holder.PID) + "/ns/net"
	addr := net.JoinHostPort(wayIn(m), strconv.Itoa(vm.Port))
	return func(ctx context.Context) (net.Conn, error) { return dialFrom(ctx, space, "tcp", addr) }
}

func (d *virtual) guest(m *Machine) (*guest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.guests[m]; g != nil {
		return g, nil
	}
	return nil, fmt.Errorf("machine %s is off", m.Name)
}

// powerOff kills qemu, and with it all that its memory had. What the guest's kernel was told to be on the disk is in the
// host's page cache, which outlives qemu; what it was not told, is lost.
func (d *virtual) powerOff(m *Machine) error {
	d.mu.Lock()
	g := d.guests[m]
	delete(d.guests, m)
	d.mu.Unlock()
	_ = d.net.inSwitch("ip link del " + m.port + "; ip link del w" + m.port) // not there if switching on failed
	var errs []error
	if m.init != nil {
		errs = append(errs, m.init.kill())
	}
	if g != nil {
		errs = append(errs, g.socket.Close(), g.serial.Close())
	}
	if m.agent != nil {
		if m.agent.cmd != nil {
			_ = m.agent.cmd.Process.Kill() // its connection is dead, which it would notice late
		}
		<-m.agent.done
	}
	m.init, m.pid, m.agent = nil, 0, nil
	return errors.Join(errs...)
}

func (d *virtual) enter(m *Machine) []string { return d.enterNoting(m, "-") }

func (d *virtual) enterNoting(m *Machine, pidFile string) []string {
	return []string{
		"nsenter", "--net=/proc/" + strconv.Itoa(d.net.holder.PID) + "/ns/net", "--", d.files.helper, "run",
		net.JoinHostPort(wayIn(m), strconv.Itoa(vm.Port)), pidFile,
	}
}

func (d *virtual) copyIn(ctx context.Context, m *Machine, from, to string) error {
	g, err := d.guest(m)
	if err != nil {
		return err
	}
	if err := g.way.Put(ctx, from, to); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, m.Name, err)
	}
	return nil
}

func pidFile(m *Machine) string { return filepath.Join(m.dir, "agent.pid") }

func (d *virtual) agentCommand(m *Machine, args []string) (*exec.Cmd, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bootPatience)
	defer cancel()
	if err := d.copyIn(ctx, m, args[0], args[0]); err != nil {
		return nil, err
	}
	_ = os.Remove(pidFile(m)) // of an earlier agent
	if p := cmp.Or(os.Getenv("SHOAL_VM_PATIENCE"), d.agentPatience()); !slices.Contains(args, "--patience") {
		args = slices.Insert(slices.Clone(args), 2, "--patience", p)
	}
	words := append(d.enterNoting(m, pidFile(m)), args...)
	return exec.Command(words[0], words[1:]...), nil
}

// measure finds how many times slower than this host's processor, were it idle, a machine is now. Emulation costs a
// factor of 6 to 10 (no KVM), and whatever else the host does comes on top.
func (d *virtual) measure(g *guest) error {
	ctx, cancel := context.WithTimeout(context.Background(), bootPatience)
	defer cancel()
	took, err := g.way.Pace(ctx)
	for errors.Is(err, unix.EHOSTUNREACH) && ctx.Err() == nil { // a slow machine has not answered who has the address yet
		took, err = g.way.Pace(ctx)
	}
	if err != nil {
		return fmt.Errorf("measure its pace: %w", err)
	}
	slower := float64(took) / float64(hostPace())
	d.mu.Lock()
	d.slower = max(d.slower, slower)
	d.mu.Unlock()
	return nil
}

// hostPace is how much of the host's processor the same work takes, however busy it is.
var hostPace = sync.OnceValue(func() time.Duration {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	var before, after unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before); err != nil {
		return time.Millisecond // there is no Linux without
	}
	vm.Work()
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after) // as above
	return max(time.Duration(after.Nano()-before.Nano()), time.Millisecond)
})

// The agents' time-outs take this part of the slowness: most of a time-out is slack, which they keep. Measured on two
// cores: at 7 times slower, 4 is enough for three machines; at 30 and more, 4 makes a leader step down.
const patiencePart = 0.6

// agentPatience is the factor of the agents' time-outs.
func (d *virtual) agentPatience() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strconv.FormatFloat(min(max(1, d.slower*patiencePart), 20), 'f', 1, 64)
}

func (d *virtual) agentPID(m *Machine, _ int) int {
	b, err := os.ReadFile(pidFile(m))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		return 0 // half written
	}
	return pid
}

func (d *virtual) signal(m *Machine, pid int, s syscall.Signal) error {
	g, err := d.guest(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return g.way.Kill(ctx, pid, int(s))
}

func (d *virtual) list(m *Machine) []vm.Process {
	g, err := d.guest(m)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := g.way.List(ctx)
	if err != nil {
		return nil // it is going down
	}
	return all
}

func (d *virtual) processes(m *Machine) map[int]string {
	out := map[int]string{}
	for _, p := range d.list(m) {
		out[p.PID] = p.Command
	}
	return out
}

func (d *virtual) tasks(m *Machine, job string) map[string][]int {
	out := map[string][]int{}
	for _, p := range d.list(m) {
		ours, task := false, ""
		for _, v := range p.Env {
			ours = ours || v == "SHOAL_JOB="+job
			if id, ok := strings.CutPrefix(v, "SHOAL_TASK="); ok {
				task = id
			}
		}
		switch {
		case !ours || task == "":
		case p.First:
			out[task] = append([]int{p.PID}, out[task]...)
		default:
			out[task] = append(out[task], p.PID)
		}
	}
	return out
}

func (d *virtual) dial(ctx context.Context, m *Machine, network, addr string) (net.Conn, error) {
	g, err := d.guest(m)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return g.way.Dial(ctx, network, addr)
}

var _ driver = (*virtual)(nil)

func (d *virtual) patience(t time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(float64(t) * min(max(1, d.slower), 30))
}
