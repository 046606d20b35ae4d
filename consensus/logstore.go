package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"shoal/runtime/step"
)

// logStore keeps raft's entries, term and vote in one bolt file, in the layout of raft-boltdb (buckets logs and conf),
// which it can read, and which can read it. Beyond that nothing in it goes unchecked:
//   - each entry's value ends with a CRC-32C over key and value, which readers of the old layout do not look at;
//   - the key recordKey in conf says, as of the same transaction, which entries there are and what the other keys of
//     conf are; it lies in the page that each commit writes anyway.
//
// A shoal from before that wrote in between leaves a record of an older transaction: then the newer entries may lack
// their sums, until they are cut.
type logStore struct {
	db        *bbolt.DB
	path      string
	snapshots *snapshotStore // beside it; nil: none are known, see closeGap
}

var (
	_ raft.LogStore    = (*logStore)(nil)
	_ raft.StableStore = (*logStore)(nil)
)

var (
	bucketLogs = []byte("logs")
	bucketConf = []byte("conf")
	recordKey  = []byte("ShoalRecord")
	// keyNodeID is where the log keeps the id of the node that wrote it.
	keyNodeID = []byte("ShoalNodeID")
	// confKeys are all keys of conf: another is a damaged one.
	confKeys = map[string]bool{"CurrentTerm": true, "LastVoteTerm": true, "LastVoteCand": true, string(keyNodeID): true, string(recordKey): true}
)

var errKeyNotFound = errors.New("not found") // raft goes by the text

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumSize = 4

// entrySum is over an entry's key and value.
func entrySum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// sealEntry appends the sum.
func sealEntry(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, entrySum(key, value))
}

// openEntry reads a value. Without a sum it must at least be one whole entry of that index; mustSum refuses that.
func openEntry(key, sealed []byte, mustSum bool, out *raft.Log) error {
	if n := len(sealed) - sumSize; n > 0 && binary.BigEndian.Uint32(sealed[n:]) == entrySum(key, sealed[:n]) {
		return decodeEntry(key, sealed[:n], out)
	}
	if mustSum {
		return damaged("entry %d does not match its checksum", binary.BigEndian.Uint64(key))
	}
	return decodeEntry(key, sealed, out)
}

func decodeEntry(key, value []byte, out *raft.Log) error {
	r := bytes.NewReader(value)
	err := codec.NewDecoder(r, &codec.MsgpackHandle{}).Decode(out)
	switch index := binary.BigEndian.Uint64(key); {
	case err != nil:
		return damaged("entry %d: %v", index, err)
	case r.Len() != 0:
		return damaged("entry %d has %d bytes too many", index, r.Len())
	case out.Index != index:
		return damaged("entry %d says that it is %d", index, out.Index)
	}
	return nil
}

func encodeEntry(log *raft.Log) (key, value []byte, err error) {
	var buf bytes.Buffer
	if err := codec.NewEncoder(&buf, &codec.MsgpackHandle{}).Encode(log); err != nil {
		return nil, nil, fmt.Errorf("encode entry %d: %w", log.Index, err)
	}
	key = binary.BigEndian.AppendUint64(nil, log.Index)
	return key, sealEntry(key, buf.Bytes()), nil
}

// record says what the file holds as of one transaction.
type record struct {
	txid        uint64
	first, last uint64 // 0, 0: no entries
	unsummed    uint64 // entries up to this one may lack a sum
	conf        uint32 // sum over the other keys of conf
}

const recordSize = 1 + 4*8 + 4 + sumSize

func (r record) encode() []byte {
	b := []byte{1}
	for _, n := range []uint64{r.txid, r.first, r.last, r.unsummed} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, r.conf)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func parseRecord(b []byte) (record, error) {
	if len(b) != recordSize || b[0] != 1 || binary.BigEndian.Uint32(b[recordSize-sumSize:]) != crc32.Checksum(b[:recordSize-sumSize], castagnoli) {
		return record{}, damaged("the record of what the log holds does not match its checksum")
	}
	n := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return record{txid: n(0), first: n(1), last: n(2), unsummed: n(3), conf: binary.BigEndian.Uint32(b[33:])}, nil
}

// confSum continues a sum with one key of conf.
func confSum(sum uint32, k, v []byte) uint32 {
	if bytes.Equal(k, recordKey) {
		return sum
	}
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(k))), uint32(len(v)))
	for _, b := range [][]byte{head, k, v} {
		sum = crc32.Update(sum, castagnoli, b)
	}
	return sum
}

// update is one transaction; it is durable when this returns nil.
func (s *logStore) update(fn func(logs, conf *bbolt.Bucket) error) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	logs, conf := tx.Bucket(bucketLogs), tx.Bucket(bucketConf)
	if err := fn(logs, conf); err != nil {
		return err
	}
	var r record
	if old := conf.Get(recordKey); old != nil {
		if r, err = parseRecord(old); err != nil {
			return err
		}
	}
	if err := seal(tx, r.unsummed); err != nil {
		return err
	}
	if err := step.Reach(StepWritten); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return step.Reach(StepSynced)
}

// seal writes the record of what tx will have made.
func seal(tx *bbolt.Tx, unsummed uint64) error {
	conf := tx.Bucket(bucketConf)
	r := record{txid: uint64(tx.ID()), unsummed: unsummed}
	c := tx.Bucket(bucketLogs).Cursor()
	if k, _ := c.First(); k != nil {
		r.first = binary.BigEndian.Uint64(k)
		k, _ = c.Last()
		r.last = binary.BigEndian.Uint64(k)
	}
	if r.unsummed < r.first {
		r.unsummed = 0
	}
	err := conf.ForEach(func(k, v []byte) error {
		r.conf = confSum(r.conf, k, v)
		return nil
	})
	if err != nil {
		return err
	}
	return conf.Put(recordKey, r.encode())
}

// StoreLogs writes entries.
func (s *logStore) StoreLogs(entries []*raft.Log) error {
	if err := step.Reach(StepAppend); err != nil {
		return err
	}
	err := s.update(func(logs, _ *bbolt.Bucket) error {
		if len(entries) > 0 {
			if err := s.closeGap(logs, entries[0].Index); err != nil {
				return err
			}
		}
		for _, e := range entries {
			key, value, err := encodeEntry(e)
			if err != nil {
				return err
			}
			if err := logs.Put(key, value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return step.Reach(StepAppended)
}

// StoreLog writes one entry.
func (s *logStore) StoreLog(e *raft.Log) error { return s.StoreLogs([]*raft.Log{e}) }

// DeleteRange removes entries, from and to included.
func (s *logStore) DeleteRange(from, to uint64) error {
	if err := step.Reach(StepCut); err != nil {
		return err
	}
	err := s.update(func(logs, _ *bbolt.Bucket) error { return deleteRange(logs, from, to) })
	if err != nil {
		return err
	}
	return step.Reach(StepWasCut)
}

// GetLog reads one entry, and refuses one that is not what was written.
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		key := binary.BigEndian.AppendUint64(nil, index)
		v := tx.Bucket(bucketLogs).Get(key)
		if v == nil {
			return raft.ErrLogNotFound
		}
		r, err := parseRecord(tx.Bucket(bucketConf).Get(recordKey))
		if err != nil {
			return err
		}
		if index < r.first || index > r.last {
			return damaged("entry %d is there, and the log is from %d to %d", index, r.first, r.last)
		}
		return openEntry(key, v, index > r.unsummed, out)
	})
}

// FirstIndex is 0 for an empty log.
func (s *logStore) FirstIndex() (n uint64, err error) {
	return s.edge(func(c *bbolt.Cursor) []byte { k, _ := c.First(); return k })
}

// LastIndex is 0 for an empty log.
func (s *logStore) LastIndex() (n uint64, err error) {
	return s.edge(func(c *bbolt.Cursor) []byte { k, _ := c.Last(); return k })
}

func (s *logStore) edge(key func(*bbolt.Cursor) []byte) (n uint64, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if k := key(tx.Bucket(bucketLogs).Cursor()); k != nil {
			n = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return n, err
}

// Set stores a term or vote.
func (s *logStore) Set(key, val []byte) error {
	if err := step.Reach(StepVote); err != nil {
		return err
	}
	if err := s.update(func(_, conf *bbolt.Bucket) error { return conf.Put(key, val) }); err != nil {
		return err
	}
	return step.Reach(StepVoted)
}

// Get reads one.
func (s *logStore) Get(key []byte) (val []byte, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketConf).Get(key)
		if v == nil {
			return errKeyNotFound
		}
		val = bytes.Clone(v)
		return nil
	})
	return val, err
}

// SetUint64 is Set of a number.
func (s *logStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 is Get of a number.
func (s *logStore) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, damaged("%s has %d bytes", key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// Close lets go of the file.
func (s *logStore) Close() error { return s.db.Close() }

// contents are what an audit found.
type contents struct {
	used        int64 // bytes of what is stored
	oldest      uint64
	before      uint64 // the entry before the newest gap; 0: there is none, and first is oldest
	first, last uint64 // between them all are there
	unsummed    uint64 // the newest entry without a sum
	owner       string // "": nobody's yet
	stale       bool   // there is no record, or one from before the newest transaction
}

// audit reads the whole file and checks all that can be checked. (It costs one pass over the file, which opening it
// without a stored freelist costs anyway.)
func audit(path string) (contents, error) {
	tree, file, err := openTree(path)
	if err != nil {
		return contents{}, err
	}
	defer file.Close()
	var got contents
	var rec *record
	var sum uint32
	var entry raft.Log
	var bare []uint64 // entries without a sum
	buckets := 0
	err = tree.walk(func(bucket string, k, v []byte) error {
		got.used += int64(len(k) + len(v))
		switch bucket {
		case "":
			buckets++
			return nil
		case string(bucketLogs):
			if len(k) != 8 {
				return damaged("an entry's key has %d bytes", len(k))
			}
			index := binary.BigEndian.Uint64(k)
			switch {
			case index == 0:
				return damaged("it has an entry 0")
			case got.last == 0:
				got.oldest, got.first = index, index
			case index != got.last+1: // whether that is damage depends on the snapshots: covered
				got.before, got.first = got.last, index
			}
			got.last = index
			entry = raft.Log{}
			if openEntry(k, v, true, &entry) != nil {
				bare = append(bare, index)
				return openEntry(k, v, false, &entry)
			}
			return nil
		case string(bucketConf):
			if !confKeys[string(k)] {
				return damaged("%q is no key of a log", k)
			}
			if bytes.Equal(k, recordKey) {
				r, err := parseRecord(v)
				rec = &r
				return err
			}
			if bytes.Equal(k, keyNodeID) {
				got.owner = string(v)
			}
			sum = confSum(sum, k, v)
			return nil
		}
		return damaged("%q is no part of a log", bucket)
	})
	if err == nil && buckets != 2 {
		err = damaged("it has %d parts, and should have 2", buckets)
	}
	if err != nil {
		return got, err
	}
	if len(bare) > 0 {
		got.unsummed = bare[len(bare)-1]
	}
	if rec == nil || rec.txid < tree.txid {
		got.stale = true
		return got, nil
	}
	switch {
	case rec.txid != tree.txid:
		return got, damaged("the record is of transaction %d, and the newest is %d", rec.txid, tree.txid)
	case rec.first != got.oldest || rec.last != got.last:
		return got, damaged("it has entries %d to %d, and should have %d to %d", got.oldest, got.last, rec.first, rec.last)
	case rec.conf != sum:
		return got, damaged("term, vote or owner do not match their checksum")
	case got.unsummed > rec.unsummed:
		return got, damaged("entry %d does not match its checksum", bare[len(bare)-1])
	}
	return got, nil
}
