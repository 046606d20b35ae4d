package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"shoal/e2e/frugal"
)

// FuzzApply: no command makes Apply panic or breaks an invariant, and what was applied can be saved and restored.
func FuzzApply(f *testing.F) {
	l := newLog(f)
	scripted(l)
	for _, raw := range l.raw {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		defer frugal.Watch(t)()
		s := New()
		for i, c := range l.raw[:20] {
			s.Apply(uint64(i+1), c)
		}
		before := s.View().Hash()
		if r := s.Apply(21, raw); r.Err != nil && s.View().Hash() != before {
			t.Fatalf("failed with %v and changed the state", r.Err)
		}
		if why := broken(s); why != "" {
			t.Fatal(why)
		}
		var b bytes.Buffer
		if err := s.View().Persist(&b); err != nil {
			t.Fatal(err)
		}
		if err := New().Restore(&b); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRestore: no input makes Restore panic.
func FuzzRestore(f *testing.F) {
	_, snap := scriptedSnapshot(f)
	f.Add(snap)
	f.Add(snap[:len(snap)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		s := New()
		if s.Restore(bytes.NewReader(b)) == nil {
			s.View().Hash()
		}
	})
}

// FuzzRecord: a row that says anything, in a snapshot whose checksum is right, makes Restore panic no more than its readers.
func FuzzRecord(f *testing.F) {
	_, snap := scriptedSnapshot(f)
	headBytes := len(snapshotMagic) + 12
	seen := map[byte]int{}
	for rest := snap[headBytes:]; rest[0] != recordEnd; {
		size := binary.BigEndian.Uint32(rest[1:])
		if seen[rest[0]]++; seen[rest[0]] <= 3 {
			f.Add(rest[0], bytes.Clone(rest[5:5+size]))
		}
		rest = rest[5+size:]
	}
	f.Fuzz(func(t *testing.T, table byte, row []byte) {
		defer frugal.Watch(t)()
		b := append(bytes.Clone(snap[:headBytes]), table)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(row))), row...)
		b = binary.BigEndian.AppendUint32(append(b, recordEnd), 1)
		sum := sha256.Sum256(b)
		s := New()
		if s.Restore(bytes.NewReader(append(b, sum[:]...))) != nil {
			return
		}
		v := s.View()
		hash := v.Hash()
		var again bytes.Buffer
		if err := v.Persist(&again); err != nil {
			t.Fatal(err)
		}
		r := New()
		if err := r.Restore(&again); err != nil || r.View().Hash() != hash {
			t.Fatalf("written anew it is %v", err)
		}
	})
}
