package state

import (
	"bytes"
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
