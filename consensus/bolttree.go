package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
	"time"
)

// boltTree reads a bolt file by itself, page by page, and believes nothing that it has not checked: bbolt's pages carry no
// checksum but the two meta pages, and bbolt panics over a damaged page, on a goroutine of its own if it can, or takes
// what it finds there. (Format: bbolt v1.5.0, internal/common; little-endian, as on amd64 and arm64.)
type boltTree struct {
	file  io.ReaderAt
	size  int64
	page  int64 // bytes
	high  uint64
	txid  uint64
	root  uint64
	taken map[uint64]bool // pages that were visited
	least []byte          // no key may be less from here on: a branch page says so, and a search goes by that
}

const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltHeader     = 16
	boltElement    = 16
	boltMetaSize   = 64
	boltBranch     = 0x01
	boltLeaf       = 0x02
	boltBucketFlag = 0x01
	boltMaxDepth   = 32
)

// openTree opens the file for reading, alone.
func openTree(path string) (*boltTree, *os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	t, err := newTree(f)
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return t, f, nil
}

func newTree(f *os.File) (*boltTree, error) {
	for end := time.Now().Add(lockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, err
		}
		if time.Now().After(end) {
			return nil, errLocked
		}
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t := &boltTree{file: f, size: info.Size(), taken: map[uint64]bool{}}
	return t, t.readMetas()
}

// readMetas takes the newer of the two meta pages. Both must be whole: one that is not would make bbolt go back to the
// transaction before, which is to forget what was acknowledged. (They are 64 bytes in one sector, so a power cut cannot
// tear them.)
func (t *boltTree) readMetas() error {
	t.page = int64(os.Getpagesize()) // bbolt's choice, and checked below
	for n := range int64(2) {
		b := make([]byte, boltHeader+boltMetaSize)
		if _, err := t.file.ReadAt(b, n*t.page); err != nil {
			return readError(err, "meta page %d", n)
		}
		m := b[boltHeader:]
		sum := fnv.New64a()
		_, _ = sum.Write(m[:boltMetaSize-8])
		switch {
		case binary.LittleEndian.Uint32(m) != boltMagic:
			return damaged("meta page %d is none", n)
		case binary.LittleEndian.Uint32(m[4:]) != boltVersion:
			return damaged("meta page %d has version %d", n, binary.LittleEndian.Uint32(m[4:]))
		case binary.LittleEndian.Uint64(m[boltMetaSize-8:]) != sum.Sum64():
			return damaged("meta page %d does not match its checksum", n)
		case int64(binary.LittleEndian.Uint32(m[8:])) != t.page:
			return damaged("pages of %d bytes, and this machine has %d", binary.LittleEndian.Uint32(m[8:]), t.page)
		}
		if txid := binary.LittleEndian.Uint64(m[48:]); n == 0 || txid > t.txid {
			t.txid, t.root, t.high = txid, binary.LittleEndian.Uint64(m[16:]), binary.LittleEndian.Uint64(m[40:])
		}
	}
	return nil
}

// readError keeps a disk that cannot be read apart from a file that is too short.
func readError(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("%s is missing: the file is cut short", what)
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// walk calls leaf for every key of every bucket, in order; the buckets' own names come as the key of bucket "". What is
// handed out is valid during the call.
func (t *boltTree) walk(leaf func(bucket string, key, value []byte) error) error {
	var buckets []struct {
		name  string
		value []byte
	}
	err := t.visit(t.root, 0, new([]byte), func(flags uint32, k, v []byte) error {
		if flags != boltBucketFlag || len(v) < boltHeader {
			return damaged("%q at the top is no bucket", k)
		}
		buckets = append(buckets, struct {
			name  string
			value []byte
		}{string(k), bytes.Clone(v)})
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range buckets {
		t.least = nil
		if err := leaf("", []byte(b.name), nil); err != nil {
			return err
		}
		each := func(flags uint32, k, v []byte) error {
			if flags != 0 {
				return damaged("%q in %q is a bucket", k, b.name)
			}
			return leaf(b.name, k, v)
		}
		if root := binary.LittleEndian.Uint64(b.value); root != 0 {
			err = t.visit(root, 0, new([]byte), each)
		} else {
			err = t.elements(b.value[boltHeader:], 0, 0, new([]byte), each)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// visit reads a page and what hangs on it; last is the key before.
func (t *boltTree) visit(id uint64, depth int, last *[]byte, leaf func(flags uint32, k, v []byte) error) error {
	if id < 2 || id >= t.high || depth > boltMaxDepth {
		return damaged("page %d of %d is named where none can be", id, t.high)
	}
	head := make([]byte, boltHeader)
	if _, err := t.file.ReadAt(head, int64(id)*t.page); err != nil {
		return readError(err, "page %d", id)
	}
	over := uint64(binary.LittleEndian.Uint32(head[12:]))
	if got := binary.LittleEndian.Uint64(head); got != id || id+over >= t.high {
		return damaged("page %d says that it is page %d with %d more", id, got, over)
	}
	for p := id; p <= id+over; p++ {
		if t.taken[p] {
			return damaged("page %d is used twice", p)
		}
		t.taken[p] = true
	}
	b := make([]byte, int64(1+over)*t.page)
	if _, err := t.file.ReadAt(b, int64(id)*t.page); err != nil {
		return readError(err, "page %d", id)
	}
	return t.elements(b, id, depth, last, leaf)
}

func (t *boltTree) elements(b []byte, id uint64, depth int, last *[]byte, leaf func(flags uint32, k, v []byte) error) error {
	if len(b) < boltHeader {
		return damaged("page %d is cut short", id)
	}
	flags, count := binary.LittleEndian.Uint16(b[8:]), int(binary.LittleEndian.Uint16(b[10:]))
	if flags != boltLeaf && flags != boltBranch || boltHeader+count*boltElement > len(b) {
		return damaged("page %d has kind %#x and %d elements", id, flags, count)
	}
	if flags == boltBranch && (count == 0 || id == 0) {
		return damaged("page %d leads nowhere", id)
	}
	if count == 0 && depth > 0 { // bbolt takes a page that got empty out of the tree
		return damaged("page %d is empty, and has others beside it", id)
	}
	next := uint64(boltHeader + count*boltElement) // bbolt leaves no room between them: a smaller count does not fit
	for i := range count {
		at := boltHeader + i*boltElement
		e := b[at : at+boltElement]
		pos, ksize, vsize := uint64(binary.LittleEndian.Uint32(e[4:])), uint64(binary.LittleEndian.Uint32(e[8:])), uint64(binary.LittleEndian.Uint32(e[12:]))
		if flags == boltBranch {
			pos, ksize, vsize = uint64(binary.LittleEndian.Uint32(e)), uint64(binary.LittleEndian.Uint32(e[4:])), 0
		}
		from := uint64(at) + pos
		if from+ksize+vsize > uint64(len(b)) {
			return damaged("element %d of page %d reaches beyond it", i, id)
		}
		if from != next {
			return damaged("element %d of page %d is not where it belongs", i, id)
		}
		next = from + ksize + vsize
		k, v := b[from:from+ksize], b[from+ksize:from+ksize+vsize]
		if flags == boltBranch {
			if *last != nil && bytes.Compare(*last, k) >= 0 || bytes.Compare(t.least, k) > 0 {
				return damaged("the keys of page %d are not in order", id)
			}
			t.least = bytes.Clone(k)
			if err := t.visit(binary.LittleEndian.Uint64(e[8:]), depth+1, last, leaf); err != nil {
				return err
			}
			continue
		}
		if *last != nil && bytes.Compare(*last, k) >= 0 || bytes.Compare(t.least, k) > 0 {
			return damaged("the keys of page %d are not in order", id)
		}
		*last = append((*last)[:0:0], k...)
		if err := leaf(binary.LittleEndian.Uint32(e), k, v); err != nil {
			return err
		}
	}
	return nil
}
