package consensus

import (
	"encoding/binary"

	"go.etcd.io/bbolt"
)

// A log-holder that was away for long gets a snapshot from the leader, and appends what comes after it. What it had before
// is older than the snapshot, and raft leaves some of it in the log: entries to 23, say, a snapshot of 123, entries from
// 124 on. Raft works with that. Here it must not stay: whether a log has lost entries is told by their having no gap.

// closeGap removes all entries when the next one, to be written in the same transaction, does not follow them. Without a
// snapshot on disk that has what is between it refuses: raft appends so only behind one.
func (s *logStore) closeGap(logs *bbolt.Bucket, next uint64) error {
	k, _ := logs.Cursor().Last()
	if k == nil {
		return nil
	}
	last := binary.BigEndian.Uint64(k)
	if next <= last+1 {
		return nil
	}
	var base uint64
	if s.snapshots != nil {
		metas, err := s.snapshots.List()
		if err != nil {
			return err
		}
		if len(metas) > 0 {
			base = metas[0].Index
		}
	}
	if next > base+1 {
		return damaged("entry %d would be followed by entry %d, and the newest snapshot ends with %d", last, next, base)
	}
	return deleteRange(logs, 0, last)
}

// closeOldGap removes what is older than a gap that a shoal left which did not know closeGap. The snapshots have it:
// covered.
func (s *logStore) closeOldGap(got contents) error {
	if got.before == 0 {
		return nil
	}
	return guarded(func() error { return s.DeleteRange(got.oldest, got.before) })
}

// deleteRange removes entries, from and to included.
func deleteRange(logs *bbolt.Bucket, from, to uint64) error {
	c := logs.Cursor()
	for k, _ := c.Seek(binary.BigEndian.AppendUint64(nil, from)); k != nil && binary.BigEndian.Uint64(k) <= to; k, _ = c.Next() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}
