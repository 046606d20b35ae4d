package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	ext4 "shoal/runtime/step/disk"
)

// Here a process is stopped by the kernel at each system call by which it changes its raft directory, and the test
// decides whether the call happens or fails (seccomp_unotify(2)). Unlike strace's counts, which are per thread, this
// meets each call exactly once.

// changing are the system calls, and where they name a file: a descriptor or a path.
var changing = map[int]struct {
	name string
	path int // the argument that is a path; -1: the first one is a descriptor
}{
	unix.SYS_WRITE: {"write", -1}, unix.SYS_PWRITE64: {"pwrite", -1}, unix.SYS_FSYNC: {"fsync", -1}, unix.SYS_FDATASYNC: {"fdatasync", -1},
	unix.SYS_FTRUNCATE: {"ftruncate", -1}, unix.SYS_FALLOCATE: {"fallocate", -1},
	unix.SYS_RENAMEAT: {"rename", 1}, unix.SYS_UNLINKAT: {"unlink", 1}, unix.SYS_MKDIRAT: {"mkdir", 1}, unix.SYS_OPENAT: {"open", 1},
}

// superviseSelf has the kernel ask about these calls from here on; the descriptor of the questions is told on stdout.
func superviseSelf() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
	for nr := range changing {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(nr)},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	_, err := unix.Writev(1, [][]byte{fmt.Appendf(nil, "%d\n", fd)})
	return err
}

// change is one call that changes the raft directory.
type change struct {
	n    int // from 1
	call string
	file string
}

func (c change) String() string { return fmt.Sprintf("%s of %s (number %d)", c.call, c.file, c.n) }

// supervised runs a writer; decide says of each change whether it fails, and with what (0: it happens).
func supervised(t *testing.T, o writerOrder, decide func(change) syscall.Errno) (output string, err error) {
	cmd := o.command(t, superviseEnv+"=1")
	out, in, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		return "", err
	}
	_ = in.Close()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var number [1]byte
	fd := 0
	for {
		if _, err := io.ReadFull(out, number[:]); err != nil {
			return "", fmt.Errorf("the writer says no descriptor: %w", err)
		}
		if number[0] == '\n' {
			break
		}
		fd = fd*10 + int(number[0]-'0')
	}
	pid, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(pid)
	questions, err := unix.PidfdGetfd(pid, fd, 0)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(&text, out) }()
	if err := answer(questions, filepath.Join(o.Root, "raft"), decide); err != nil {
		_ = cmd.Process.Signal(unix.SIGQUIT) // for its stacks, which it needs answers to write
		_ = answer(questions, "/nowhere", decide)
		_ = unix.Close(questions)
		_ = cmd.Process.Kill()
		<-read
		return text.String(), err
	}
	<-read
	_ = unix.Close(questions)
	err = cmd.Wait()
	return text.String(), err
}

// answer answers until nobody can ask any more.
func answer(questions int, dir string, decide func(change) syscall.Errno) error {
	n := 0
	for {
		fds := []unix.PollFd{{Fd: int32(questions), Events: unix.POLLIN}}
		switch ready, err := unix.Poll(fds, 15_000); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case ready == 0:
			return errors.New("the writer hangs")
		case fds[0].Revents&unix.POLLIN == 0:
			return nil // it has ended
		}
		var q [80]byte // struct seccomp_notif
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(questions), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
			if errno == unix.ENOENT || errno == unix.EINTR {
				continue // it was killed meanwhile
			}
			return errno
		}
		arg := func(i int) uint64 { return binary.NativeEndian.Uint64(q[32+8*i:]) }
		tid := binary.NativeEndian.Uint32(q[8:])
		var a [24]byte // struct seccomp_notif_resp
		copy(a[:8], q[:8])
		binary.NativeEndian.PutUint32(a[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
		nr := int(int32(binary.NativeEndian.Uint32(q[16:])))
		if file, ok := fileOf(tid, nr, arg, dir); ok {
			n++
			if errno := decide(change{n, changing[nr].name, file}); errno != 0 {
				binary.NativeEndian.PutUint32(a[16:], uint32(-int32(errno)))
				binary.NativeEndian.PutUint32(a[20:], 0)
			}
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(questions), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a))); errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// fileOf is the file below dir that a call is about to change.
func fileOf(tid uint32, nr int, arg func(int) uint64, dir string) (string, bool) {
	c := changing[nr]
	var path string
	if c.path < 0 {
		path, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int(arg(0))))
	} else {
		if nr == unix.SYS_OPENAT && arg(2)&unix.O_CREAT == 0 {
			return "", false
		}
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
		if err != nil {
			return "", false
		}
		defer mem.Close()
		b := make([]byte, 512)
		got, _ := mem.ReadAt(b, int64(arg(c.path))) // it may end before a page that is not there
		b, _, _ = bytes.Cut(b[:got], []byte{0})
		path = string(b)
	}
	rel, ok := strings.CutPrefix(path, dir)
	if base := filepath.Base(path); base == reserveFile {
		return "", false // of no consequence, and made whenever there is time
	}
	return "raft" + rel, ok
}

const superviseEnv = "SHOAL_TEST_SUPERVISE"

// TestEveryChangeFailsOnce has each system call that changes the raft directory in a run of 200 proposals fail with EIO,
// and with ENOSPC. Each time the process ends with a message or goes on, without a panic; and what it acknowledged is
// there at the next start.
func TestEveryChangeFailsOnce(t *testing.T) {
	rng, seed := freshSeed(t)
	seed >>= 1
	root := ext4.InMemory(t)
	order := func(name string) writerOrder {
		o := writerOrder{Root: filepath.Join(root, name), Seed: seed, Writes: 188, Crowd: 32}
		if err := os.Mkdir(o.Root, 0o700); err != nil {
			t.Fatal(err)
		}
		return o
	}
	var all []change
	if out, err := supervised(t, order("count"), func(c change) syscall.Errno { all = append(all, c); return 0 }); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(all) < 100 {
		t.Fatalf("only %d changes were seen", len(all))
	}
	type trial struct {
		n     int
		errno syscall.Errno
	}
	var trials []trial
	every := 20 / crashTimes(t, 20) // 0: each, once
	for _, c := range all {
		if every > 1 && rng.IntN(every) != 0 {
			continue
		}
		trials = append(trials, trial{c.n, unix.EIO}, trial{c.n, unix.ENOSPC})
	}
	var next, ended, wentOn, failed atomic.Int64
	var mu sync.Mutex
	calls := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(trials) || t.Failed() {
					return
				}
				tr := trials[i]
				o := order(fmt.Sprint(i))
				var at change
				out, err := supervised(t, o, func(c change) syscall.Errno {
					if c.n != tr.n {
						return 0
					}
					at = c
					return tr.errno
				})
				if at.n == 0 {
					_ = os.RemoveAll(o.Root) // runs differ a little in their length
					continue
				}
				failed.Add(1)
				mu.Lock()
				calls[at.call]++
				mu.Unlock()
				var exit *exec.ExitError
				switch {
				case err == nil && tr.errno == unix.EIO && at.call != "unlink":
					// What it acknowledged since may be in the page cache alone, which what is read below comes from.
					t.Errorf("the writer went on after EIO in %v\n%.20000s", at, out)
				case err == nil:
					wentOn.Add(1)
				case errors.As(err, &exit) && exit.ExitCode() == 3 && strings.Contains(out, "writer: ") && !strings.Contains(out, "goroutine "):
					ended.Add(1)
				default:
					t.Errorf("%v in %v: %v\n%.20000s", tr.errno, at, err, out)
				}
				acked, err := check(o)
				if err != nil {
					t.Errorf("%v in %v, after %d acknowledged: %v\n%s", tr.errno, at, acked, err, out)
				} else {
					_ = os.RemoveAll(o.Root)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d changes, %d failed: %v; %d writers ended, %d went on", len(all), failed.Load(), calls, ended.Load(), wentOn.Load())
	if int(failed.Load()) < len(trials)*8/10 {
		t.Errorf("of %d calls to fail only %d were met", len(trials), failed.Load())
	}
}
