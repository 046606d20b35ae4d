package gameday

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what a load takes, so that the machine stays usable.
const (
	busyFileBytes   = 256 << 20 // busy-disk's file
	keepFreeBytes   = 1 << 30   // busy-disk leaves at least so much, and a tenth of the disk
	diskFullLeaves  = 1 << 20   // disk-full leaves so much
	memoryPart      = 0.75      // of what is available
	memoryLeaves    = 64 << 20  // memory leaves at least so much
	blockBytes      = 1 << 20
	memoryBlock     = 16 << 20
	firstToBeKilled = 1000 // oom_score_adj: when memory runs out the load is what the kernel kills
	lastToBeKilled  = -900
)

// startLoad starts a process of ours that keeps something busy. The kernel kills it with the helper, so the caller must not
// leave its thread.
func startLoad(command []string, what, file string, size int64) (*exec.Cmd, error) {
	args := append(command[1:len(command):len(command)], "load", what, file, strconv.FormatInt(size, 10))
	cmd := exec.Command(command[0], args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the load: %w", err)
	}
	return cmd, nil
}

// Load is the whole life of such a process; it ends by being killed.
func Load(what, file string, size int64) error {
	setOOMScore(firstToBeKilled)
	switch what {
	case CPU:
		return spin()
	case Memory:
		return takeMemory(size)
	case BusyDisk:
		return keepWriting(file, size)
	}
	return fmt.Errorf("load %q: there is none", what)
}

func setOOMScore(score int) {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0) // lowering it takes rights that may be missing
}

func spin() error {
	for range goruntime.NumCPU() - 1 {
		go func() {
			//lint:ignore SA5002 it is what it is for
			for {
			}
		}()
	}
	//lint:ignore SA5002 as above
	for {
	}
}

func takeMemory(size int64) error {
	var held [][]byte
	for left := size; left > 0; left -= memoryBlock {
		b := bytes.Repeat([]byte{1}, int(min(left, memoryBlock))) // written to, or the kernel would not give it
		held = append(held, b)
	}
	time.Sleep(MaxHold)
	goruntime.KeepAlive(held)
	return nil
}

func keepWriting(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	block := bytes.Repeat([]byte{0xa5}, blockBytes)
	for at := int64(0); ; at += blockBytes {
		if at+blockBytes > size {
			at = 0
		}
		if _, err := f.WriteAt(block[:min(blockBytes, size)], at); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
}

// memoryToTake is what a memory fault takes: size if it is given, but never what the machine needs to live.
func memoryToTake(size int64) (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	available := availableMemory(string(b))
	if size == 0 {
		size = int64(float64(available) * memoryPart)
	}
	if size > available-memoryLeaves {
		size = available - memoryLeaves
	}
	if size <= 0 {
		return 0, errors.New("no memory is free that could be taken")
	}
	return size, nil
}

// availableMemory reads MemAvailable of proc(5)'s meminfo, in bytes; 0 if it does not say.
func availableMemory(meminfo string) int64 {
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// busyFile is how large busy-disk's file may be.
func busyFile(dir string, size int64) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("ask how much of the disk is free: %w", err)
	}
	free, all := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	keep := max(keepFreeBytes, all/10)
	if size > 0 { // who says how much knows the disk
		keep = 2 * size
	} else {
		size = busyFileBytes
	}
	if free-size < keep {
		return 0, fmt.Errorf("the disk has %d MiB free, and %d MiB must stay free beside %d MiB of the file; choose less with --size", free>>20, keep>>20, size>>20)
	}
	return size, nil
}

// fillDisk leaves only a little of the disk, or takes size.
func fillDisk(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	if free := int64(fs.Bfree)*fs.Bsize - diskFullLeaves; size == 0 || size > free { // root may use what is reserved, too
		size = free
	}
	if size <= 0 {
		return nil // it is full
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) { // less than it said: full is full
		return fmt.Errorf("fill the disk: %w", err)
	}
	return nil
}
