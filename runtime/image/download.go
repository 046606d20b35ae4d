package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal/runtime/step"
)

const (
	blobAttempts = 3   // of one blob, one after the other, that bring no byte
	maxResumes   = 100 // of one blob in all
	blobBackoff  = 300 * time.Millisecond
	blobStall    = 60 * time.Second // without one byte
	configBlob   = -1               // stands for a layer's number
)

// blob brings one blob here unless it is; one copy at a time a digest, whichever image wants it. layer is its number.
func (c *copying) blob(ctx context.Context, d ocispec.Descriptor, layer int) error {
	c.lease.pin(d.Digest)
	if c.s.hasBlob(d.Digest, d.Size) {
		c.meter.here(layer, d.Size)
		return nil
	}
	var counted int64
	_, err := c.s.blobs.do(ctx, string(d.Digest), func(ctx context.Context) (struct{}, error) {
		if c.s.hasBlob(d.Digest, d.Size) {
			return struct{}{}, nil
		}
		l := c.s.newLease() // of its own: the caller may give up before
		defer l.release()
		l.pin(d.Digest)
		dl := &download{copying: c, want: d, layer: layer}
		err := dl.run(ctx)
		counted = dl.counted
		return struct{}{}, errors.Join(err, ctx.Err())
	})
	if err == nil {
		c.meter.add(layer, d.Size-counted) // another image's copy brought it
	}
	return err
}

// download is one blob on its way. What came before a connection broke is kept, and the next connection is asked for the
// rest: the digest at the end is of all of it, so that a part needs no trust.
type download struct {
	*copying
	want    ocispec.Descriptor
	layer   int
	temp    *tempBlob
	counted int64 // what the meter was told
}

func (dl *download) run(ctx context.Context) error {
	fruitless := 0
	for range maxResumes {
		had := int64(0)
		if dl.temp != nil {
			had = dl.temp.size
		}
		err := dl.once(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			dl.drop()
			return ctx.Err()
		case errors.Is(err, ErrInvalid) && dl.distrust():
			dl.drop()
			continue
		case !errors.Is(err, ErrUnavailable):
			dl.drop()
			return err
		case dl.temp != nil && dl.temp.size > had:
			fruitless = 0
		default:
			if fruitless++; fruitless == blobAttempts {
				dl.drop()
				return err
			}
		}
		if err := step.Reach("download broke off"); err != nil {
			dl.drop()
			return err
		}
		dl.s.log.Debug("blob broke off", "blob", dl.want.Digest, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(blobBackoff << fruitless):
		}
	}
	dl.drop()
	return &kindError{ErrUnavailable, fmt.Errorf("blob %s broke off %d times", dl.want.Digest, maxResumes)}
}

// distrust tells a source with alternatives that it sent wrong bytes; false: there is none to ask instead.
func (dl *download) distrust() bool {
	m, ok := dl.from.(interface{ distrust() bool })
	return ok && m.distrust()
}

// drop forgets what came so far.
func (dl *download) drop() {
	if dl.temp != nil {
		dl.temp.discard()
		dl.temp = nil
	}
	dl.meter.add(dl.layer, -dl.counted)
	dl.counted = 0
}

// once reads from one connection until the blob is whole and stored, or the connection breaks.
func (dl *download) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(blobStall, func() {
		cancel(&kindError{ErrUnavailable, fmt.Errorf("blob %s: no byte for %s", dl.want.Digest, blobStall)})
	})
	defer stall.Stop()
	rc, err := dl.open(ctx)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer rc.Close()
	if err := step.Reach("download connected"); err != nil {
		return err
	}
	if dl.temp == nil {
		if dl.temp, err = dl.s.newTemp(); err != nil {
			return err
		}
	}
	r := readerFunc(func(p []byte) (int, error) {
		n, err := rc.Read(p)
		if n > 0 {
			stall.Reset(blobStall)
			dl.counted += int64(n)
			dl.meter.add(dl.layer, int64(n))
		}
		switch {
		case err == nil, err == io.EOF, ctx.Err() != nil, errors.Is(err, ErrInvalid):
		case dl.counted >= dl.want.Size: // the source verifies, too, and dislikes what it read: our own verdict has a kind
			err = io.EOF
		default:
			err = &kindError{ErrUnavailable, err}
		}
		return n, err
	})
	err = dl.s.fill(ctx, dl.temp, r, dl.want.Digest, dl.want.Size)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// open connects for what is missing.
func (dl *download) open(ctx context.Context) (io.ReadCloser, error) {
	if dl.temp == nil || dl.temp.size == 0 {
		return dl.from.Blob(ctx, string(dl.want.Digest))
	}
	if r, ok := dl.from.(resumer); ok {
		return r.BlobFrom(ctx, string(dl.want.Digest), dl.temp.size)
	}
	dl.drop()
	return dl.from.Blob(ctx, string(dl.want.Digest))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// meter adds up progress and reports it now and then, one call at a time.
type meter struct {
	report func(Progress)

	mu   sync.Mutex
	p    Progress
	last time.Time
}

func (m *meter) start(man ocispec.Manifest) {
	m.mu.Lock()
	m.p.Layers, m.p.Bytes = len(man.Layers), man.Config.Size
	for _, l := range man.Layers {
		m.p.Bytes += l.Size
		m.p.Each = append(m.p.Each, LayerProgress{Digest: l.Digest, Size: l.Size})
	}
	m.mu.Unlock()
	m.flush()
}

// here counts a layer that was here before.
func (m *meter) here(layer int, size int64) {
	m.mu.Lock()
	if layer >= 0 && layer < len(m.p.Each) {
		m.p.Each[layer].Here = true
	}
	m.mu.Unlock()
	m.add(layer, size)
}

func (m *meter) add(layer int, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.BytesDone += n
	if layer >= 0 && layer < len(m.p.Each) {
		m.p.Each[layer].Done += n
	}
	if time.Since(m.last) >= progressInterval {
		m.reportLocked()
	}
}

func (m *meter) layerDone() {
	m.mu.Lock()
	m.p.LayersDone++
	m.mu.Unlock()
	m.flush()
}

func (m *meter) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reportLocked()
}

func (m *meter) reportLocked() {
	if m.report == nil {
		return
	}
	m.last = time.Now()
	p := m.p
	p.Each = slices.Clone(p.Each)
	m.report(p)
}
