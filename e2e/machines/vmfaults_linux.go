package machines

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// What only a kernel of its own can suffer. On machines out of namespaces these say so.

var errOneKernel = errors.New("only a machine with a kernel of its own can do that: SHOAL_MACHINES=vm")

// inside runs a script on a machine that has a kernel of its own.
func (m *Machine) inside(script string) (string, error) {
	if _, ok := m.net.driver.(*virtual); !ok {
		return "", errOneKernel
	}
	// Not busybox's shell: it takes its own programs first, and its tc knows no netem.
	out, err := m.Command("bash", "-ec", script).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("on %s: %s: %w: %s", m.Name, script, err, out)
	}
	return string(out), nil
}

// Netem lays the kernel's network emulation upon all that the machine sends, such as "delay 50ms 20ms loss 5%" or
// "delay 20ms reorder 25% duplicate 5%"; see tc-netem(8). "": as if nothing had been.
func (m *Machine) Netem(how string) error {
	if how == "" {
		_, err := m.inside("tc qdisc del dev eth0 root 2>/dev/null || :")
		return err
	}
	_, err := m.inside("tc qdisc replace dev eth0 root netem " + how)
	return err
}

// NetemSeen is how many packets went through the emulation.
func (m *Machine) NetemSeen() (int, error) {
	out, err := m.inside("tc -s qdisc show dev eth0")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(out) // … Sent BYTES bytes PACKETS pkt …
	for i, word := range f {
		if word == "pkt" && i > 0 {
			return strconv.Atoi(f[i-1])
		}
	}
	return 0, fmt.Errorf("on %s: tc says %q", m.Name, out)
}

// Ways in which the disk below the machine's file system can behave; device-mapper changes them under its feet.
const (
	DiskWell    = "linear"       // as a disk should
	DiskErrors  = "error_writes" // every write fails
	DiskDropped = "drop_writes"  // every write is said to be done, and is not
)

// Disk makes the disk behave in one of these ways.
func (m *Machine) Disk(how string) error {
	table := "0 $S linear /dev/vdb 0"
	if how != DiskWell {
		table = "0 $S flakey /dev/vdb 0 0 86400 1 " + how
	}
	return m.diskTable(table)
}

// DiskDelay makes every write to the disk take so much longer.
func (m *Machine) DiskDelay(d time.Duration) error {
	return m.diskTable(fmt.Sprintf("0 $S delay /dev/vdb 0 0 /dev/vdb 0 %d", d.Milliseconds()))
}

// Writes are what became of writes to a disk since its machine began.
type Writes struct {
	Asked int           // of the file system, ended well or not
	Below int           // that reached the disk
	Took  time.Duration // all that were asked for together
}

// Since is what came after before.
func (w Writes) Since(before Writes) Writes {
	return Writes{w.Asked - before.Asked, w.Below - before.Below, w.Took - before.Took}
}

// DiskWrites counts the writes of the machine's file system to device-mapper, and of that to the disk below.
func (m *Machine) DiskWrites() (w Writes, err error) {
	out, err := m.inside("cat /proc/diskstats")
	if err != nil {
		return w, err
	}
	seen := 0
	for line := range strings.Lines(out) { // major minor name reads … [7] writes, [10] milliseconds of them: iostats.rst
		f := strings.Fields(line)
		if len(f) < 11 || f[2] != "dm-0" && f[2] != "vdb" {
			continue
		}
		writes, err1 := strconv.Atoi(f[7])
		ms, err2 := strconv.Atoi(f[10])
		if err := errors.Join(err1, err2); err != nil {
			return w, fmt.Errorf("on %s: /proc/diskstats: %w", m.Name, err)
		}
		seen++
		if f[2] == "vdb" {
			w.Below = writes
		} else {
			w.Asked, w.Took = writes, time.Duration(ms)*time.Millisecond
		}
	}
	if seen != 2 {
		return w, fmt.Errorf("on %s: /proc/diskstats says nothing of dm-0 or vdb:\n%s", m.Name, out)
	}
	return w, nil
}

// diskTable does not wait for the file system to come to rest: with a disk that fails, it never would.
func (m *Machine) diskTable(table string) error {
	_, err := m.inside(`export DM_DISABLE_UDEV=1
S=$(blockdev --getsz /dev/vdb)
dmsetup suspend --noflush --nolockfs data
echo "` + table + `" | dmsetup load data
dmsetup resume data`)
	return err
}

// StepClock moves the machine's clock, and nobody else's.
func (m *Machine) StepClock(by time.Duration) error {
	_, err := m.inside(fmt.Sprintf("date -s @$(($(date +%%s) + %d)) >/dev/null", int64(by.Seconds())))
	return err
}

// ClockAhead is how far the machine's clock is ahead of the host's, to a second or so.
func (m *Machine) ClockAhead() (time.Duration, error) {
	out, err := m.inside("date +%s")
	if err != nil {
		return 0, err
	}
	at, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	return time.Until(time.Unix(at, 0)), err
}

// Panic makes the machine's kernel fall over, which ends the machine as a power cut does.
func (m *Machine) Panic() error {
	if _, ok := m.net.driver.(*virtual); !ok {
		return errOneKernel
	}
	m.mu.Lock()
	qemu := m.init
	m.mu.Unlock()
	if qemu == nil {
		return fmt.Errorf("machine %s is off", m.Name)
	}
	cmd := m.Command("sh", "-c", "echo c >/proc/sysrq-trigger")
	if err := cmd.Start(); err != nil {
		return err
	}
	err := await(m.net.Patience(10*time.Second), "the kernel of "+m.Name+" to fall over", func() bool { return !qemu.alive() })
	off := m.PowerOff() // its ports, and the command that has no answer any more
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // its answer died with the machine
	return errors.Join(err, off)
}
