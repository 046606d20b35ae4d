package consensus

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"shoal/runtime/step"
)

// snapshotStore keeps snapshots in the layout of raft's file store, a directory each with meta.json and state.bin, and
// reads what that wrote. Beyond that meta.json ends with a checksum of itself (raft's has one of state.bin only), the
// directory is synced before it gets its name, and one that is to go loses its name first. What does not match its
// checksums is never listed and never opened.
type snapshotStore struct {
	dir string
	log *bridge
}

const (
	metaFile      = "meta.json"
	stateFile     = "state.bin"
	damagedSuffix = ".damaged"
	metaSumPrefix = "crc32c "
	maxMetaBytes  = 1 << 20
)

var crc64Table = crc64.MakeTable(crc64.ECMA)

// snapshotMeta is what meta.json holds. CRC is of state.bin.
type snapshotMeta struct {
	raft.SnapshotMeta
	CRC []byte
}

var _ raft.SnapshotStore = (*snapshotStore)(nil)

// openSnapshots clears what a crash left, checks every snapshot, and makes sure that with the entries of the log nothing
// is missing: raft would start without noticing.
func openSnapshots(dir string, got contents, log *bridge) (*snapshotStore, error) {
	s := &snapshotStore{dir: filepath.Join(dir, snapshotsDir), log: log}
	if err := os.Mkdir(s.dir, dirMode); err == nil {
		err = syncDir(dir)
		if err != nil {
			return nil, fmt.Errorf("open snapshots: %w", err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	if err := removeHalfSnapshots(s.dir); err != nil {
		return nil, err
	}
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var whole *snapshotMeta // the newest
	var bad []error
	newest := "" // of all, by name
	for _, name := range names {
		if newest == "" {
			newest = name
		}
		m, f, err := s.check(name)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				return nil, fmt.Errorf("read snapshot %s: %w", filepath.Join(s.dir, name), err)
			}
			bad = append(bad, &DamageError{File: filepath.Join(s.dir, name), Err: err})
			continue
		}
		_ = f.Close()
		if whole == nil {
			whole = m
		}
	}
	if err := covered(whole, names, got); err != nil {
		switch {
		case len(bad) > 0:
			return nil, bad[0]
		case got.before != 0:
			return nil, &DamageError{File: filepath.Join(dir, logFile), Err: err}
		}
		return nil, &DamageError{File: s.dir, Err: err}
	}
	for _, err := range bad { // the log has all that it had
		log.Error("a snapshot is damaged; the log goes on without it", "error", err)
		path := err.(*DamageError).File
		_ = os.RemoveAll(path + damagedSuffix)
		if err := os.Rename(path, path+damagedSuffix); err != nil {
			return nil, fmt.Errorf("set a damaged snapshot aside: %w", err)
		}
	}
	return s, step.Reach(StepSnapChecked)
}

// covered tells whether the newest whole snapshot and the entries after the newest gap have everything that was there.
func covered(whole *snapshotMeta, names []string, got contents) error {
	var base uint64
	if whole != nil {
		base = whole.Index
	}
	switch {
	case got.first <= base+1:
	case got.before != 0:
		return damaged("entry %d is followed by entry %d, and the newest whole snapshot ends with %d", got.before, got.first, base)
	default:
		return damaged("the log begins with entry %d, and the newest whole snapshot ends with %d", got.first, base)
	}
	for _, name := range names {
		_, index, _ := parseSnapshotName(name)
		if index > base && index > got.last {
			return damaged("a snapshot ended with entry %d, the newest whole one ends with %d, and the log with %d", index, base, got.last)
		}
	}
	return nil
}

// parseSnapshotName reads term-index-milliseconds.
func parseSnapshotName(name string) (term, index uint64, ok bool) {
	var ms int64
	n, err := fmt.Sscanf(name, "%d-%d-%d", &term, &index, &ms)
	return term, index, err == nil && n == 3 && fmt.Sprintf("%d-%d-%d", term, index, ms) == name
}

// names are the snapshots by name, newest first.
func (s *snapshotStore) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var out []string
	for _, e := range entries {
		if _, _, ok := parseSnapshotName(e.Name()); ok && e.IsDir() {
			out = append(out, e.Name())
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		at, ai, _ := parseSnapshotName(a)
		bt, bi, _ := parseSnapshotName(b)
		return cmp.Or(cmp.Compare(bt, at), cmp.Compare(bi, ai), cmp.Compare(b, a))
	})
	return out, nil
}

// readMeta reads and checks meta.json.
func (s *snapshotStore) readMeta(name string) (*snapshotMeta, error) {
	f, err := os.Open(filepath.Join(s.dir, name, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged("%s is missing", metaFile)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMetaBytes))
	if err != nil {
		return nil, err
	}
	text, rest, _ := bytes.Cut(b, []byte("\n"))
	var m snapshotMeta
	term, index, _ := parseSnapshotName(name)
	switch {
	case len(rest) != 0 && string(rest) != metaSum(text):
		return nil, damaged("%s does not match its checksum", metaFile)
	case json.Unmarshal(text, &m) != nil:
		return nil, damaged("%s makes no sense", metaFile)
	case m.Term != term || m.Index != index || m.ID != name:
		return nil, damaged("%s is of another snapshot, %s", metaFile, m.ID)
	case m.Version < raft.SnapshotVersionMin || m.Version > raft.SnapshotVersionMax:
		return nil, damaged("%s says version %d", metaFile, m.Version)
	}
	return &m, nil
}

func metaSum(text []byte) string {
	return fmt.Sprintf("%s%08x\n", metaSumPrefix, crc32.Checksum(text, castagnoli))
}

// check reads a snapshot through; the file is at its beginning.
func (s *snapshotStore) check(name string) (*snapshotMeta, *os.File, error) {
	m, err := s.readMeta(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(filepath.Join(s.dir, name, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, damaged("%s is missing", stateFile)
	}
	if err != nil {
		return nil, nil, err
	}
	sum := crc64.New(crc64Table)
	n, err := io.Copy(sum, f)
	switch {
	case err != nil:
	case n != m.Size:
		err = damaged("%s has %d bytes, and should have %d", stateFile, n, m.Size)
	case !bytes.Equal(sum.Sum(nil), m.CRC):
		err = damaged("%s does not match its checksum", stateFile)
	default:
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return m, f, nil
}

// List gives the newest snapshots, newest first.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var out []*raft.SnapshotMeta
	for _, name := range names {
		m, err := s.readMeta(name)
		if err != nil {
			s.log.Error("a snapshot is damaged", "file", filepath.Join(s.dir, name), "error", err)
			continue
		}
		if out = append(out, &m.SnapshotMeta); len(out) == snapshotRetain {
			break
		}
	}
	return out, nil
}

type snapshotReader struct {
	io.Reader
	file *os.File
}

func (r snapshotReader) Close() error { return r.file.Close() }

// Open reads a snapshot through before it hands it out.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, f, err := s.check(id)
	if err != nil {
		return nil, nil, &DamageError{File: filepath.Join(s.dir, id), Err: err}
	}
	return &m.SnapshotMeta, snapshotReader{bufio.NewReader(f), f}, nil
}

// snapshotSink is a snapshot being written.
type snapshotSink struct {
	store *snapshotStore
	meta  snapshotMeta
	tmp   string
	file  *os.File
	sum   hash.Hash64
	buf   *bufio.Writer
	ended bool
}

// Create begins a snapshot.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, cIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("snapshot version %d is not known", version)
	}
	name := fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixMilli())
	sink := &snapshotSink{store: s, tmp: filepath.Join(s.dir, name+tmpSuffix), sum: crc64.New(crc64Table)}
	sink.meta.SnapshotMeta = raft.SnapshotMeta{Version: version, ID: name, Index: index, Term: term, Configuration: c, ConfigurationIndex: cIndex}
	sink.meta.Peers = []byte{0x90} // raft's field from before Configuration; no reader of ours looks at it
	if err := os.Mkdir(sink.tmp, dirMode); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(sink.tmp, stateFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err == nil {
		sink.file, sink.buf = f, bufio.NewWriterSize(io.MultiWriter(f, sink.sum), 64<<10)
		err = step.Reach(StepSnapMade)
	}
	if err != nil {
		_ = os.RemoveAll(sink.tmp)
		return nil, err
	}
	return sink, nil
}

// ID is the snapshot's name.
func (k *snapshotSink) ID() string { return k.meta.ID }

// Write continues state.bin.
func (k *snapshotSink) Write(p []byte) (int, error) {
	n, err := k.buf.Write(p)
	k.meta.Size += int64(n)
	return n, err
}

// Close makes the snapshot exist: all of it is on disk before it has its name.
func (k *snapshotSink) Close() error {
	if k.ended {
		return nil
	}
	k.ended = true
	if err := k.finish(); err != nil {
		_ = k.file.Close()
		_ = os.RemoveAll(k.tmp)
		return err
	}
	return k.store.reap()
}

func (k *snapshotSink) finish() error {
	if err := k.buf.Flush(); err != nil {
		return err
	}
	if err := step.Reach(StepSnapWritten); err != nil {
		return err
	}
	if err := k.file.Sync(); err != nil {
		return err
	}
	if err := k.file.Close(); err != nil {
		return err
	}
	if err := step.Reach(StepSnapSynced); err != nil {
		return err
	}
	k.meta.CRC = k.sum.Sum(nil)
	text, err := json.Marshal(&k.meta)
	if err != nil {
		return err
	}
	// writeFileSync syncs the directory too.
	if err := writeFileSync(filepath.Join(k.tmp, metaFile), append(append(text, '\n'), metaSum(text)...)); err != nil {
		return err
	}
	if err := step.Reach(StepSnapMeta); err != nil {
		return err
	}
	if err := os.Rename(k.tmp, strings.TrimSuffix(k.tmp, tmpSuffix)); err != nil {
		return err
	}
	if err := step.Reach(StepSnapRenamed); err != nil {
		return err
	}
	if err := syncDir(k.store.dir); err != nil {
		return err
	}
	return step.Reach(StepSnapDurable)
}

// Cancel drops the snapshot.
func (k *snapshotSink) Cancel() error {
	if k.ended {
		return nil
	}
	k.ended = true
	_ = k.file.Close()
	return os.RemoveAll(k.tmp)
}

// reap removes what is older than the snapshots to keep, and what was damaged. A name goes before its content does: what
// a crash leaves half removed must not look like a damaged snapshot.
func (s *snapshotStore) reap() error {
	names, err := s.names()
	if err != nil {
		return err
	}
	entries, err := filepath.Glob(filepath.Join(s.dir, "*"+damagedSuffix))
	if err != nil {
		return err
	}
	for _, name := range names[min(snapshotRetain, len(names)):] {
		old := filepath.Join(s.dir, name)
		if err := os.Rename(old, old+tmpSuffix); err != nil {
			return err
		}
		entries = append(entries, old+tmpSuffix)
	}
	for _, path := range entries {
		if err := step.Reach(StepSnapAside); err != nil {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := step.Reach(StepSnapRemoved); err != nil {
			return err
		}
	}
	return nil
}

// removeHalfSnapshots clears what a crash left of a snapshot that was being written or removed.
func removeHalfSnapshots(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove unfinished snapshot: %w", err)
			}
		}
	}
	return nil
}
