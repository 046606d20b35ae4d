package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/hashicorp/go-memdb"

	"shoal/consensus/job"
)

// The format, version 1, integers big endian:
//
//	magic "shoalst\n" | version uint32 | index uint64
//	record*: table uint8 | length uint32 | CBOR row
//	end: 0xff | number of records as uint32 | SHA-256 of all before
//
// Records come table by table in the order of their codes and of their primary keys, so that equal states have equal
// bytes. It is streamed both ways: memory is bounded by one record.
const (
	snapshotMagic   = "shoalst\n"
	snapshotVersion = 1
	recordEnd       = 0xff
	maxRecordBytes  = MaxCommandBytes
)

// snapshotTables in order; the code is the position plus one. Only ever append.
var snapshotTables = [...]struct {
	table Table
	read  func(*memdb.Txn, codec, []byte) error
}{
	{TableCluster, readRow[job.Cluster](TableCluster)},
	{TableNodes, readRow[job.Node](TableNodes)},
	{TableJobs, readRow[job.Job](TableJobs)},
	{TableVersions, readRow[job.Job](TableVersions)},
	{TableServices, readRow[serviceRow](TableServices)},
	{TableTasks, readRow[job.Task](TableTasks)},
	{TableStatuses, readRow[job.Status](TableStatuses)},
	{TableBlocked, readRow[job.Blocked](TableBlocked)},
	{TableTokens, readRow[job.Token](TableTokens)},
	{TableEvents, readRow[eventRow](TableEvents)},
	{tableKeys, readRow[keyRow](tableKeys)},
	{TableImages, readRow[job.ImageName](TableImages)},
	{TableRollouts, readRow[job.Rollout](TableRollouts)},
	{TableHomes, readRow[job.VolumeHome](TableHomes)},
	{TableRuns, readRow[job.Run](TableRuns)},
	{TableSchedules, readRow[job.ScheduleState](TableSchedules)},
	{TableAutoscales, readRow[job.AutoscaleState](TableAutoscales)},
}

func readRow[T any](table Table) func(*memdb.Txn, codec, []byte) error {
	return func(w *memdb.Txn, m codec, b []byte) error {
		v := new(T)
		if err := m.dec.Unmarshal(b, v); err != nil {
			return err
		}
		// A row without its parts would make the next reader panic.
		switch r := any(v).(type) {
		case *serviceRow:
			if r.Service == nil {
				return fmt.Errorf("service row without its service")
			}
		case *eventRow:
			if r.Event == nil {
				return fmt.Errorf("event row without its event")
			}
		}
		return w.Insert(string(table), v)
	}
}

// Persist writes the whole state of the view. It may run for long: it holds no lock.
func (v *View) Persist(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 1<<16)
	h := sha256.New()
	out := io.MultiWriter(bw, h)
	head := append([]byte(snapshotMagic), 0, 0, 0, snapshotVersion)
	head = binary.BigEndian.AppendUint64(head, v.index)
	if _, err := out.Write(head); err != nil {
		return fmt.Errorf("persist state: %w", err)
	}
	n, err := v.writeRecords(out)
	if err != nil {
		return fmt.Errorf("persist state: %w", err)
	}
	end := binary.BigEndian.AppendUint32([]byte{recordEnd}, n)
	if _, err := out.Write(end); err != nil {
		return fmt.Errorf("persist state: %w", err)
	}
	if _, err := bw.Write(h.Sum(nil)); err != nil {
		return fmt.Errorf("persist state: %w", err)
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("persist state: %w", err)
	}
	return nil
}

func (v *View) writeRecords(out io.Writer) (n uint32, err error) {
	for i := range snapshotTables {
		k, err := v.writeTable(out, i)
		if err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

// writeTable writes the rows of one of the snapshotTables in the order of their primary keys.
func (v *View) writeTable(out io.Writer, i int) (n uint32, err error) {
	m, err := codecs()
	if err != nil {
		return 0, err
	}
	table := snapshotTables[i].table
	it, err := v.txn.Get(string(table), "id_prefix", []byte(nil))
	if err != nil {
		return 0, err
	}
	var buf bytes.Buffer
	for o := it.Next(); o != nil; o = it.Next() {
		buf.Reset()
		buf.Write([]byte{byte(i + 1), 0, 0, 0, 0})
		b, err := m.enc.Marshal(o)
		if err != nil {
			return n, fmt.Errorf("%s: %w", table, err)
		}
		if len(b) > maxRecordBytes {
			return n, fmt.Errorf("%s: a row of %d bytes, at most %d allowed", table, len(b), maxRecordBytes)
		}
		buf.Write(b)
		binary.BigEndian.PutUint32(buf.Bytes()[1:5], uint32(len(b)))
		if _, err := out.Write(buf.Bytes()); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Hash is a digest of all that Persist writes but the index: replicas have the same one at the same index.
func (v *View) Hash() [32]byte {
	h := sha256.New()
	if _, err := v.writeRecords(h); err != nil {
		panic("state: hash: " + err.Error()) // rows came out of CBOR or were made by Apply: they always encode
	}
	return [32]byte(h.Sum(nil))
}

// Restore replaces all by what Persist wrote. On an error (Invalid: not ours, damaged; *OutdatedError: of a newer build, and
// no command is taken any more) the store is as it was. Afterwards all subscriptions end with ErrSlow.
func (s *Store) Restore(r io.Reader) error {
	db, index, err := readSnapshot(r, s.known)
	if o := (*OutdatedError)(nil); errors.As(err, &o) {
		s.outdated.Store(o)
	}
	if err != nil {
		return err
	}
	v := &View{txn: db.Txn(false), index: index}
	d := derive(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.db, s.derived = db, d
	s.showLocked(index, nil)
	for sub := range s.subs {
		sub.end(ErrSlow)
	}
	clear(s.subs)
	return nil
}

// hashed reads and hashes.
type hashed struct {
	r io.Reader
	h hash.Hash
}

func (x hashed) full(b []byte) error {
	if _, err := io.ReadFull(x.r, b); err != nil {
		return err
	}
	x.h.Write(b)
	return nil
}

func damaged(format string, args ...any) error {
	return job.Errorf(job.Invalid, "restore state: "+format, args...)
}

func readSnapshot(r io.Reader, known int) (*memdb.MemDB, uint64, error) {
	m, err := codecs()
	if err != nil {
		return nil, 0, err
	}
	x := hashed{bufio.NewReaderSize(r, 1<<16), sha256.New()}
	head := make([]byte, len(snapshotMagic)+12)
	if err := x.full(head); err != nil {
		return nil, 0, damaged("header: %w", err)
	}
	rest := head[len(snapshotMagic):]
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return nil, 0, damaged("not a snapshot of shoal")
	}
	if ver := binary.BigEndian.Uint32(rest); ver != snapshotVersion {
		return nil, 0, &OutdatedError{fmt.Sprintf("it reads snapshots of version %d, and this one is of %d", snapshotVersion, ver)}
	}
	index := binary.BigEndian.Uint64(rest[4:])
	db, err := memdb.NewMemDB(schema())
	if err != nil {
		return nil, 0, fmt.Errorf("restore state: %w", err)
	}
	w := db.Txn(true)
	defer w.Abort()
	err = readRecords(x, m, w)
	// Also if they cannot be read: a newer build may write tables and rows that this one does not know. The cluster comes first.
	if old := beyond((&View{txn: w}).Rules(), known); old != nil {
		return nil, 0, old
	}
	if err != nil {
		return nil, 0, err
	}
	w.Commit()
	return db, index, nil
}

func readRecords(x hashed, m codec, w *memdb.Txn) error {
	var buf bytes.Buffer
	for n := uint32(0); ; n++ {
		var h [5]byte
		if err := x.full(h[:]); err != nil {
			return damaged("record %d: %w", n, err)
		}
		size := binary.BigEndian.Uint32(h[1:])
		if h[0] == recordEnd {
			if size != n {
				return damaged("%d records, want %d", n, size)
			}
			want := x.h.Sum(nil)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(x.r, got); err != nil {
				return damaged("checksum: %w", err)
			}
			if !bytes.Equal(got, want) {
				return damaged("checksum is %x, want %x: the snapshot is damaged", got[:8], want[:8])
			}
			return nil
		}
		if h[0] == 0 || int(h[0]) > len(snapshotTables) || size > maxRecordBytes {
			return damaged("record %d: table %d with %d bytes cannot be", n, h[0], size)
		}
		// Grows with what is there, not with what the length claims.
		buf.Reset()
		if _, err := io.CopyN(&buf, x.r, int64(size)); err != nil {
			return damaged("record %d: %w", n, err)
		}
		x.h.Write(buf.Bytes())
		st := snapshotTables[h[0]-1]
		if err := st.read(w, m, buf.Bytes()); err != nil {
			return damaged("record %d of %s: %w", n, st.table, err)
		}
	}
}

// derive computes what Apply keeps beside the tables.
func derive(v *View) *derived {
	d := newDerived()
	for _, n := range v.Nodes() {
		d.subnets[n.Subnet] = true
	}
	each(v.txn, TableServices, "id", nil, func(r *serviceRow) bool {
		d.services[r.Digest] = newServiceInfo(r.Service)
		return true
	})
	each(v.txn, TableTasks, "id", nil, func(k *job.Task) bool {
		if st := v.Status(k.ID); st == nil || !st.State.Terminal() {
			d.claim(k, 1)
		}
		return true
	})
	count := func(table Table) (n int) {
		it, err := v.txn.Get(string(table), "id_prefix", []byte(nil))
		if err != nil {
			panic("state: count " + string(table) + ": " + err.Error())
		}
		for o := it.Next(); o != nil; o = it.Next() {
			n++
		}
		return n
	}
	d.events, d.keys, d.homes = count(TableEvents), count(tableKeys), count(TableHomes)
	return d
}
