package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"shoal/runtime/step"
)

func (s *Store) tmpDir() string                    { return filepath.Join(s.dir, "tmp") }
func (s *Store) blobDir() string                   { return filepath.Join(s.dir, "blobs", "sha256") }
func (s *Store) layerDir() string                  { return filepath.Join(s.dir, "layers", "sha256") }
func (s *Store) blobPath(d digest.Digest) string   { return filepath.Join(s.blobDir(), d.Encoded()) }
func (s *Store) layerPath(id digest.Digest) string { return filepath.Join(s.layerDir(), id.Encoded()) }

// tempBlob is bytes on their way into the store: written, counted and hashed, under no name that anyone looks at.
type tempBlob struct {
	path    string
	f       *os.File // nil once finished: an archive may have more files than a process may open
	h       hash.Hash
	size    int64
	adopted bool
	diffID  digest.Digest // once known, see archiveReader.verifyDiffID
	synced  chan error    // nil: nobody syncs it; gets one value
}

func (s *Store) newTemp() (*tempBlob, error) {
	f, err := os.CreateTemp(s.tmpDir(), "blob-*")
	if err != nil {
		return nil, s.explainSpace(err)
	}
	if err := step.Reach("blob begun"); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	return &tempBlob{path: f.Name(), f: f, h: sha256.New()}, nil
}

func (t *tempBlob) Write(p []byte) (int, error) {
	n, err := t.f.Write(p)
	t.h.Write(p[:n])
	t.size += int64(n)
	return n, err
}

func (t *tempBlob) digest() digest.Digest { return digest.NewDigest(digest.SHA256, t.h) }

// finish ends the writing.
func (t *tempBlob) finish() error {
	if t.f == nil {
		return nil
	}
	f := t.f
	t.f = nil
	return f.Close()
}

// syncAhead is the size from which a file is worth a sync in the background.
const syncAhead = 256 << 10

// finishSyncing ends the writing and lets the bytes go to the disk while the caller does something else.
func (t *tempBlob) finishSyncing() error {
	if t.size < syncAhead {
		return t.finish()
	}
	f := t.f
	t.f, t.synced = nil, make(chan error, 1)
	go func() { t.synced <- errors.Join(f.Sync(), f.Close()) }() // onDisk or discard waits for it
	return nil
}

// onDisk finishes what finishSyncing began. Safe to call twice.
func (t *tempBlob) onDisk() error {
	if t.synced == nil {
		return t.sync()
	}
	err := <-t.synced
	t.synced <- err
	return err
}

// open reads a finished blob, also after its adoption by s.
func (t *tempBlob) open(s *Store) (*os.File, error) {
	if t.adopted {
		return s.openBlob(t.digest())
	}
	return os.Open(t.path)
}

// discard removes the file unless it was adopted. Safe to call twice.
func (t *tempBlob) discard() {
	_ = t.finish()
	if t.synced != nil {
		_ = t.onDisk() // its error matters to nobody any more
	}
	if !t.adopted {
		os.Remove(t.path)
	}
}

// adopt makes the temporary file the blob of its digest: fsync, rename, fsync of the directory. An older file of that
// name is replaced, which repairs it if it was damaged.
func (s *Store) adopt(t *tempBlob) error {
	if t.adopted {
		return nil
	}
	if err := errors.Join(step.Reach("blob written"), t.sync()); err != nil {
		return s.explainSpace(err)
	}
	if err := s.name(t); err != nil {
		return err
	}
	if err := syncDir(s.blobDir()); err != nil {
		return s.explainSpace(err)
	}
	return step.Reach("blob kept")
}

// name gives a temporary file that is on disk its name; the directory is the caller's to sync.
func (s *Store) name(t *tempBlob) error {
	if t.adopted {
		return nil
	}
	if err := step.Reach("blob synced"); err != nil {
		return err
	}
	if err := os.Rename(t.path, s.blobPath(t.digest())); err != nil {
		return s.explainSpace(err)
	}
	t.adopted = true
	return step.Reach("blob named")
}

// sync finishes the writing with everything on disk.
func (t *tempBlob) sync() error {
	if t.f == nil { // finished earlier: any descriptor of the file will do
		f, err := os.OpenFile(t.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		t.f = f
	}
	if err := t.f.Sync(); err != nil {
		return err
	}
	return t.finish()
}

// fill appends the bytes of r to t, which must be exactly size bytes with digest want then, and stores it. When it fails t
// keeps what came.
func (s *Store) fill(ctx context.Context, t *tempBlob, r io.Reader, want digest.Digest, size int64) error {
	// One byte more than promised is enough to know that the promise was wrong.
	if _, err := io.Copy(t, io.LimitReader(ctxReader{ctx, r}, size+1-t.size)); err != nil {
		return s.explainSpace(err)
	}
	if t.size > size {
		return invalidf("blob %s is larger than its %d bytes", want, size)
	}
	if t.size < size {
		return &kindError{ErrUnavailable, fmt.Errorf("blob %s ended after %d of %d bytes", want, t.size, size)}
	}
	if got := t.digest(); got != want {
		return invalidf("blob has digest %s, want %s", got, want)
	}
	return s.adopt(t)
}

// putBlob stores small bytes and returns their digest.
func (s *Store) putBlob(ctx context.Context, b []byte) (digest.Digest, error) {
	t, err := s.newTemp()
	if err != nil {
		return "", err
	}
	defer t.discard()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if _, err := t.Write(b); err != nil {
		return "", s.explainSpace(err)
	}
	return t.digest(), s.adopt(t)
}

// hasBlob tells whether a blob of that size is there. Its content is verified by whoever reads it.
func (s *Store) hasBlob(d digest.Digest, size int64) bool {
	fi, err := os.Stat(s.blobPath(d))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

// readBlob reads a small blob whole and verifies it.
func (s *Store) readBlob(d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.openBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	if int64(len(b)) > limit {
		return nil, invalidf("blob %s is larger than %d bytes", d, limit)
	}
	if got := digest.FromBytes(b); got != d {
		return nil, s.quarantine(d, got)
	}
	return b, nil
}

func (s *Store) openBlob(d digest.Digest) (*os.File, error) {
	f, err := os.Open(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &kindError{ErrNotFound, fmt.Errorf("no blob %s on this node", d)}
	}
	return f, err
}

// verifyBlob reads the whole blob again; ErrCorrupt, and the blob is gone, if its content is not its digest.
func (s *Store) verifyBlob(ctx context.Context, d digest.Digest) error {
	got, _, err := s.hashBlob(ctx, d)
	if err == nil && got != d {
		err = s.quarantine(d, got)
	}
	return err
}

// quarantine takes a damaged blob out of the way, so that the next fetch brings a good one, and returns the ErrCorrupt.
func (s *Store) quarantine(d, got digest.Digest) error {
	s.log.Error("damaged blob removed", "blob", d, "content", got)
	if err := step.Reach("quarantine"); err != nil {
		return err
	}
	if err := os.Remove(s.blobPath(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove damaged blob %s: %w", d, err)
	}
	return &kindError{ErrCorrupt, fmt.Errorf("blob %s was damaged on this node's disk and is removed: fetch the image again", d)}
}

// lease keeps blobs and layers from being swept while something that needs them is not yet in the catalog.
type lease struct {
	s      *Store
	pinned []digest.Digest
}

func (s *Store) newLease() *lease { return &lease{s: s} }

func (l *lease) pin(d digest.Digest) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.pins[d]++
	l.pinned = append(l.pinned, d)
}

func (l *lease) release() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, d := range l.pinned {
		if l.s.pins[d]--; l.s.pins[d] == 0 {
			delete(l.s.pins, d)
		}
	}
	l.pinned = nil
}

// synced says whether a small file is to be on disk when replaceFile returns.
type synced bool

const (
	onDisk    synced = true
	notSynced synced = false
)

// writeFile replaces a small file of the store: temporary file, fsync, rename, fsync of the directory.
func (s *Store) writeFile(path string, b []byte) error { return s.replaceFile(path, b, onDisk) }

func (s *Store) replaceFile(path string, b []byte, synced synced) error {
	f, err := os.CreateTemp(s.tmpDir(), "file-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	defer f.Close()
	if err := step.Reach("file begun"); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if synced {
		if err := errors.Join(step.Reach("file written"), f.Sync()); err != nil {
			return err
		}
	}
	if err := errors.Join(step.Reach("file synced"), f.Close(), os.Rename(f.Name(), path)); err != nil {
		return err
	}
	if err := step.Reach("file named"); err != nil || !bool(synced) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ctxReader fails with the context's error once that is done.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
