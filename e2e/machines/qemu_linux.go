package machines

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// qemuPaths are the outer ends of one machine's wires.
type qemuPaths struct {
	console, serial, disk string
	cards                 []string // two netdevs, without their ids
	monitor               string   // "": none
}

// emulatedCPU is all that qemu 7.2 emulates but AVX, which was new in it: with it, two nodes called each other's TLS
// records forged.
const emulatedCPU = "max,avx=off,avx2=off,f16c=off,fma=off"

// emulation takes both processors in turn. Each on a thread of its own, qemu 7.2 goes on with code that the kernel has just
// changed under the other's feet, and the machine hangs for ever in the kernel's breakpoint (TestVMCodeChanges: 3 of 3
// within 80 s, and 2 of 366 machines that only started an agent); in turn, none. On two cores that costs a fifth.
const emulation = "tcg,thread=single,tb-size=128"

// qemu is the command line of a machine. A saved machine goes on only in one with the same devices in the same order.
func (f *vmFiles) qemu(accel string, p qemuPaths) []string {
	// no_timer_check: without it one of three panics on a busy host, since the emulated timer comes late.
	const kernelArgs = "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check tsc=reliable clocksource=tsc nowatchdog audit=0 net.ifnames=0 nokaslr"
	machine, how, cpu := "q35", emulation, emulatedCPU
	if accel == "kvm" {
		how, cpu = "kvm", "host"
	}
	words := []string{
		"qemu-system-x86_64", "-name", "shoal-test", "-M", machine, "-accel", how, "-cpu", cpu, "-m", fmt.Sprint(vmMemory), "-smp", "2",
		"-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
		"-serial", "file:" + p.console, "-serial", "unix:" + p.serial + ",server=on,wait=off",
		"-kernel", f.kernel, "-initrd", f.initrd, "-append", kernelArgs,
		"-drive", "file=" + f.root + ",if=none,id=root,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=root,serial=root",
		// unsafe: a flush need not reach the host's disk, since it is qemu that gets killed and never the host.
		"-drive", "file=" + p.disk + ",if=none,id=data,format=raw,cache=unsafe,discard=unmap", "-device", "virtio-blk-pci,drive=data,serial=data",
		"-device", "virtio-rng-pci",
	}
	for i, card := range p.cards {
		words = append(words, "-netdev", fmt.Sprintf("%s,id=n%d", card, i), "-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=02:00:00:00:00:%02x,romfile=", i, i+1))
	}
	if p.monitor != "" {
		words = append(words, "-monitor", "unix:"+p.monitor+",server=on,wait=off")
	}
	return words
}

// accelerator is kvm if a machine comes up with it, else tcg, which emulates. /dev/kvm may be there and be of no use, so
// only a boot tells; what it told is kept until the host starts anew.
func (f *vmFiles) accelerator() (string, error) {
	switch forced := os.Getenv("SHOAL_VM_ACCEL"); forced {
	case "kvm", "tcg":
		return forced, nil
	case "":
	default:
		return "", fmt.Errorf("SHOAL_VM_ACCEL is %q: want kvm or tcg", forced)
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", nil
	}
	_ = kvm.Close()
	unlock, err := f.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // "" is as good
	verdict := filepath.Join(f.dir, "accelerator")
	if b, err := os.ReadFile(verdict); err == nil {
		if accel, of, _ := strings.Cut(string(b), " "); of == string(boot) {
			return accel, nil
		}
	}
	accel := "tcg"
	if f.boot("kvm", 20*time.Second, nil) == nil {
		accel = "kvm"
	}
	return accel, os.WriteFile(verdict, []byte(accel+" "+string(boot)), 0o644)
}

// boot starts a machine that is connected to nothing, waits until it is up, and calls then with its monitor.
func (f *vmFiles) boot(accel string, limit time.Duration, then func(*monitor) error) error {
	dir, err := os.MkdirTemp("", "shoal-boot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p := qemuPaths{
		console: filepath.Join(dir, "console.log"), serial: filepath.Join(dir, "serial"), disk: filepath.Join(dir, "disk.img"), monitor: filepath.Join(dir, "monitor"),
		cards: []string{"tap,ifname=a,script=no,downscript=no", "tap,ifname=b,script=no,downscript=no"},
	}
	img, err := os.Create(p.disk)
	if err != nil {
		return err
	}
	if err := errors.Join(img.Truncate(vmDisk), img.Close()); err != nil {
		return err
	}
	// In a network namespace of its own, since the cards must be of the same kind as later.
	cmd := exec.Command("unshare", append([]string{"--net", "--"}, f.qemu(accel, p)...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	q, err := startApart(cmd, false)
	if err != nil {
		return err
	}
	defer func() { _ = q.kill() }()
	var c net.Conn
	if err := await(30*time.Second, "qemu to begin", func() bool {
		c, err = net.Dial("unix", p.serial)
		return err == nil || !q.alive()
	}); err != nil {
		return err
	}
	if c == nil {
		_ = q.kill()
		return fmt.Errorf("qemu ended: %s", out.String())
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		console, _ := os.ReadFile(p.console)
		return fmt.Errorf("a machine with %s did not come up within %v: %w; its console ends with %q", accel, limit, err, console[max(0, len(console)-600):])
	}
	if then == nil {
		return nil
	}
	mon, err := dialMonitor(p.monitor)
	if err != nil {
		return err
	}
	defer mon.conn.Close()
	return then(mon)
}

// saved is the file of a machine that came up and waits to be told which it is: copies of it are there in a second,
// where booting takes ten and more.
func (f *vmFiles) saved(accel string) (string, error) {
	if os.Getenv("SHOAL_VM_BOOT") == "1" { // each by itself, from its kernel
		return "", nil
	}
	// It fits only the same machine.
	sum := sha256.Sum256([]byte(strings.Join(f.qemu(accel, qemuPaths{}), "\x00")))
	path := filepath.Join(f.dir, "state-"+f.key+"-"+hex.EncodeToString(sum[:4]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := f.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	err = f.boot(accel, bootPatience, func(m *monitor) error {
		time.Sleep(time.Second) // what was started in the background while it came up ends
		// Not stopped before: copies of a stopped machine are stopped too.
		if _, err := m.do(`migrate "exec:zstd -1 -q -f > ` + path + `.part"`); err != nil {
			return err
		}
		info, err := m.do("info migrate")
		if err != nil {
			return err
		}
		if !strings.Contains(info, "completed") {
			return fmt.Errorf("qemu says: %s", info)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("save a machine: %w", err)
	}
	return path, os.Rename(path+".part", path)
}

// monitor is qemu's, for people.
type monitor struct {
	conn net.Conn
	r    *bufio.Reader
}

const prompt = "(qemu) "

func dialMonitor(path string) (*monitor, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	m := &monitor{conn: c, r: bufio.NewReader(c)}
	_ = c.SetDeadline(time.Now().Add(bootPatience))
	_, err = m.answer()
	return m, err
}

func (m *monitor) do(command string) (string, error) {
	if _, err := m.conn.Write([]byte(command + "\n")); err != nil {
		return "", err
	}
	said, err := m.answer()
	_, said, _ = strings.Cut(said, "\n") // the first line is the command, as it was typed
	return said, err
}

func (m *monitor) answer() (string, error) {
	var b strings.Builder
	for !strings.HasSuffix(b.String(), prompt) {
		c, err := m.r.ReadByte()
		if err != nil {
			return "", fmt.Errorf("qemu's monitor: %w after %q", err, b.String())
		}
		b.WriteByte(c)
	}
	return strings.TrimSuffix(b.String(), prompt), nil
}
