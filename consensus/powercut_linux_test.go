package consensus

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const cutsEnv = "SHOAL_TEST_CUTS"

// TestPowerCuts has writers work on ext4 file systems of their own, and shuts these down as a power cut does: the journal's
// open transaction and all dirty pages are lost. Whatever was acknowledged is there after the next mount. Writers whose
// log does not sync must be caught by the same check, every time.
func TestPowerCuts(t *testing.T) {
	if dir := os.Getenv(cutsEnv); dir != "" {
		cutPower(t, dir)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	// The mounts live and die with a mount namespace of their own.
	cmd := exec.Command(os.Args[0], "-test.run=^TestPowerCuts$", "-test.v")
	cmd.Env = append(os.Environ(), cutsEnv+"="+memoryDir(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPowerCuts") {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func cutPower(t *testing.T, root string) {
	rng, _ := freshSeed(t)
	cuts, controls := crashTimes(t, 150), crashTimes(t, 8)
	var next, acked, caught atomic.Int64
	var wg sync.WaitGroup
	for w := range 3 {
		seed := rng.Uint64() >> 16
		wg.Go(func() {
			var p plug
			defer func() { p.pull() }()
			rng := rand.New(rand.NewPCG(seed, 3))
			for life := 0; !t.Failed(); {
				i := int(next.Add(1)) - 1
				control := i >= cuts
				if i >= cuts+controls {
					return
				}
				if p.dir == "" || control || life == 12 { // a new disk now and then
					p.pull()
					life = 0
					var err error
					if p, err = newPlug(filepath.Join(root, fmt.Sprintf("%d.%d", w, i))); err != nil {
						t.Error(err)
						return
					}
				}
				life++
				// A log without sync survives a cut when the kernel happened to write it out just before, as a snapshot's
				// sync makes it do: one in seven here. It is cut until it loses something.
				tries := 1
				if control {
					tries = 8
				}
				for try := range tries {
					o := writerOrder{Root: p.dir, Seed: rng.Uint64() >> 16, Writes: 5000, Ready: true, NoSync: control, Acks: fmt.Sprintf("%s.acks%d", p.dir, try)}
					if !control {
						o.Acks = p.dir + ".acks"
					}
					if err := p.cut(t, o, time.Duration(rng.IntN(120))*time.Millisecond); err != nil {
						if control && try > 0 && strings.Contains(err.Error(), "did not begin") { // the cut before lost something after all
							caught.Add(1)
							break
						}
						t.Errorf("cut %d, seed %d: %v", i, o.Seed, err)
						return
					}
					n, err := check(o)
					if control && err != nil {
						caught.Add(1)
						break
					}
					if err != nil {
						t.Errorf("cut %d, seed %d: %v", i, o.Seed, err)
					}
					if !control {
						acked.Add(int64(n))
					}
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d power cuts, %d acknowledged commands looked for and found; %d of %d logs without sync were caught", cuts, acked.Load(), caught.Load(), controls)
	if int(caught.Load()) != controls {
		t.Errorf("%d of %d logs without sync were caught", caught.Load(), controls)
	}
}

// plug is a disk and its power.
type plug struct{ image, dir string }

func newPlug(path string) (plug, error) {
	p := plug{path + ".img", path}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return p, err
	}
	f, err := os.Create(p.image)
	if err != nil {
		return p, err
	}
	defer f.Close()
	if err := f.Truncate(96 << 20); err != nil {
		return p, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "nodiscard", p.image).CombinedOutput(); err != nil {
		return p, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return p, p.mount()
}

func (p plug) mount() error {
	var out []byte
	var err error
	for range 50 { // the loop device may be busy for a moment
		if out, err = exec.Command("mount", "-o", "loop,noauto_da_alloc", p.image, p.dir).CombinedOutput(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("mount: %w: %s", err, out)
}

func (p plug) unmount() (err error) {
	for range 100 {
		if err = unix.Unmount(p.dir, 0); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("unmount %s: %w", p.dir, err)
}

// pull is the end of the disk.
func (p plug) pull() {
	if p.dir != "" {
		_ = p.unmount()
		_ = os.Remove(p.image)
	}
}

// cut runs a writer and cuts the power some time after its first acknowledgement.
func (p plug) cut(t *testing.T, o writerOrder, after time.Duration) error {
	cmd := o.command(t)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	said := make([]byte, 64)
	n, err := io.ReadAtLeast(out, said, 5)
	if err != nil || string(said[:n]) != "ready\n" {
		rest, _ := io.ReadAll(out)
		_ = cmd.Wait()
		return fmt.Errorf("the writer did not begin: %q %s %v", said[:n], rest, err)
	}
	time.Sleep(after)
	d, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	const shutdown, noFlush = 0x8004587d, uint32(2) // EXT4_IOC_SHUTDOWN of fs/ext4/ext4.h
	how := noFlush
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), shutdown, uintptr(unsafe.Pointer(&how)))
	_ = d.Close()
	_ = cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if errno != 0 {
		return fmt.Errorf("shut down ext4: %w", errno)
	}
	if err := p.unmount(); err != nil {
		return err
	}
	return p.mount()
}
