package consensus

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ext4 "shoal/runtime/step/disk"
)

// TestPowerCuts has writers work on ext4 file systems of their own, and shuts these down as a power cut does: the journal's
// open transaction and all dirty pages are lost. Whatever was acknowledged is there after the next mount. Writers whose
// log does not sync must be caught by the same check, every time.
func TestPowerCuts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	inside, err := ext4.Inside("TestPowerCuts")
	if err != nil {
		t.Fatal(err)
	}
	if inside {
		cutPower(t, ext4.InMemory(t))
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
			var d *ext4.Disk
			drop := func() {
				if d != nil {
					if err := errors.Join(d.Close(), os.RemoveAll(filepath.Dir(d.Dir))); err != nil {
						t.Error(err)
					}
				}
			}
			defer func() { drop() }()
			rng := rand.New(rand.NewPCG(seed, 3))
			for life := 0; !t.Failed(); {
				i := int(next.Add(1)) - 1
				control := i >= cuts
				if i >= cuts+controls {
					return
				}
				if d == nil || control || life == 12 { // a new disk now and then
					drop()
					life = 0
					dir := filepath.Join(root, fmt.Sprintf("%d.%d", w, i))
					err := os.Mkdir(dir, 0o700)
					if err == nil {
						d, err = ext4.New(dir, 96<<20)
					}
					if err != nil {
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
					o := writerOrder{Root: d.Dir, Seed: rng.Uint64() >> 16, Writes: 5000, Ready: true, NoSync: control, Acks: fmt.Sprintf("%s.acks%d", d.Dir, try)}
					if err := cut(t, d, o, time.Duration(rng.IntN(120))*time.Millisecond); err != nil {
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

// cut runs a writer and cuts the power some time after its first acknowledgement.
func cut(t *testing.T, d *ext4.Disk, o writerOrder, after time.Duration) error {
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
	err = ext4.Cut(d.Dir, ext4.Cable)
	_ = cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if err != nil {
		return err
	}
	return d.Again()
}
