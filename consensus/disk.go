package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// disk watches over all that is written to (and read from) the raft directory. It knows whether a write hangs, found
// no space, or failed, and it lets nothing more be written after a failure: the kernel marks pages clean after a failed
// fsync, so a later one that succeeds proves nothing (Rebello et al., ATC'20).
type disk struct {
	dir     string
	limit   time.Duration         // a write that takes longer is a stall
	closeCh chan struct{}         // closed when the log closes
	changed chan struct{}         // cap 1: look at trouble again
	spare   func() bool           // frees space set aside; false when there is none left
	before  func(op string) error // Config.BeforeWrite, may be nil

	mu      sync.Mutex
	pending map[uint64]pendingWrite
	next    uint64
	full    *DiskError // the disk is full, and a write waits for space
	failed  *DiskError // final
	// patient says that a write that finds the disk full waits for space; while the log is being opened it does not,
	// because the caller wants to hear of it.
	patient bool
	closed  bool
}

type pendingWrite struct {
	op    string
	since time.Time
}

func newDisk(dir string, limit time.Duration) *disk {
	return &disk{
		dir:     dir,
		limit:   limit,
		closeCh: make(chan struct{}),
		changed: make(chan struct{}, 1),
		spare:   func() bool { return false },
		pending: make(map[uint64]pendingWrite),
	}
}

// write runs one write. A full disk makes it wait and try again for as long as that lasts: raft's own handling of a
// failed write is unsafe (a term that cannot be stored is a panic, a configuration that was not stored is used all the
// same), whereas a slow disk is no case of its own. Any other error is final, for this write and all after it.
func (d *disk) write(op string, fn func() error) error {
	if err := d.refusal(); err != nil {
		return err
	}
	end := d.begin(op)
	defer end()
	for {
		err := guarded(func() error {
			if d.before != nil {
				if err := d.before(op); err != nil {
					return err
				}
			}
			return fn()
		})
		switch {
		case err == nil:
			d.setFull(nil)
			return d.refusal() // a failure elsewhere while we wrote: do not acknowledge this either
		case !isFull(err):
			return d.fail(op, err)
		}
		if d.spare() {
			continue
		}
		full := &DiskError{Dir: d.dir, Op: op, Full: true, Err: err}
		if !d.setFull(full) {
			return full
		}
		select {
		case <-d.closeCh:
			return ErrClosed
		case <-time.After(fullRetry):
		}
	}
}

// read runs one read. answer tells which errors are answers rather than failures. Reads go on after a failure and while
// the log closes: they promise nothing, and raft's goroutines end best undisturbed.
func (d *disk) read(op string, answer func(error) bool, fn func() error) error {
	err := guarded(fn)
	if err == nil || answer(err) {
		return err
	}
	return d.fail(op, err)
}

// guarded turns a panic of the store into an error: bbolt panics on pages that are not what they should be, and a read
// error under its memory map arrives as a fault.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return fn()
}

func (d *disk) begin(op string) (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	n := d.next
	d.pending[n] = pendingWrite{op, time.Now()}
	return func() {
		d.mu.Lock()
		delete(d.pending, n)
		d.mu.Unlock()
		d.poke()
	}
}

// fail records the first failure and returns it, or the failure that came before.
func (d *disk) fail(op string, err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if d.failed == nil {
		d.failed = &DiskError{Dir: d.dir, Op: op, Err: err}
	}
	d.poke()
	return d.failed
}

// setFull notes that the disk is full, or no more; false means that the writer should not wait.
func (d *disk) setFull(full *DiskError) (wait bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if (d.full == nil) != (full == nil) {
		d.poke()
	}
	d.full = full
	return d.patient
}

func (d *disk) setPatient() {
	d.mu.Lock()
	d.patient, d.full = true, nil
	d.mu.Unlock()
}

// close refuses everything from now on and releases writers that wait for space.
func (d *disk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		close(d.closeCh)
	}
}

func (d *disk) refusal() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	if d.closed {
		return ErrClosed
	}
	return nil
}

// failure is the final failure, nil while there is none.
func (d *disk) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		return nil
	}
	return d.failed
}

// trouble tells what keeps the disk from taking writes at this moment: failed, full, or stalled; nil when it is well.
func (d *disk) trouble() *DiskError {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	if d.full != nil {
		return d.full
	}
	var oldest pendingWrite
	for _, w := range d.pending {
		if oldest.since.IsZero() || w.since.Before(oldest.since) {
			oldest = w
		}
	}
	if !oldest.since.IsZero() && time.Since(oldest.since) > d.limit {
		return &DiskError{Dir: d.dir, Op: oldest.op, Stalled: true}
	}
	return nil
}

func (d *disk) poke() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// isFull tells a write that found no space, which left nothing behind and may be tried again, from everything else. A
// rename may need a block of the directory. An fsync that reports no space is not such a write: what it should have
// written is lost.
func isFull(err error) bool {
	noSpace := func(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Op != "sync" && noSpace(pe.Err)
	case errors.As(err, &le):
		return noSpace(le.Err)
	}
	// bbolt hides the cause of a file that cannot grow.
	return strings.HasPrefix(err.Error(), "file resize error:") && strings.HasSuffix(err.Error(), syscall.ENOSPC.Error())
}
