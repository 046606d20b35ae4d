package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"shoal/consensus/job"
)

func scriptedSnapshot(t testing.TB) (*Store, []byte) {
	l := newLog(t)
	scripted(l)
	var b bytes.Buffer
	if err := l.s.View().Persist(&b); err != nil {
		t.Fatal(err)
	}
	return l.s, b.Bytes()
}

func TestRestoreGivesTheSameState(t *testing.T) {
	s, snap := scriptedSnapshot(t)
	r := New()
	if err := r.Restore(bytes.NewReader(snap)); err != nil {
		t.Fatal(err)
	}
	if r.View().Hash() != s.View().Hash() || r.View().Index() != s.View().Index() {
		t.Error("the restored state differs")
	}
	var again bytes.Buffer
	if err := r.View().Persist(&again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), snap) {
		t.Error("equal states must have equal snapshots")
	}
	if why := broken(r); why != "" {
		t.Error(why)
	}
}

func TestDamagedSnapshotsAreRefusedAndChangeNothing(t *testing.T) {
	_, snap := scriptedSnapshot(t)
	s := New()
	empty := s.View().Hash()
	try := func(what string, b []byte, want job.Kind) {
		t.Helper()
		s := New()
		if err := s.Restore(bytes.NewReader(b)); job.KindOf(err) != want {
			t.Errorf("%s: %v", what, err)
		}
		if s.View().Hash() != empty || s.View().Index() != 0 {
			t.Fatalf("%s: the store changed", what)
		}
	}
	for i := 0; i < len(snap); i += 1 + len(snap)/200 {
		try("cut", snap[:i], job.Invalid)
		b := bytes.Clone(snap)
		b[i] ^= 0x40
		want := job.Invalid
		if i >= len(snapshotMagic) && i < len(snapshotMagic)+4 { // the version of the format: of a newer build
			want = job.Conflict
		}
		try("flipped", b, want)
	}
}

// A length that lies must cost no more memory than the bytes that are there.
func TestRestoreAllocatesOnlyWhatItReads(t *testing.T) {
	head := append([]byte(snapshotMagic), 0, 0, 0, snapshotVersion)
	head = append(head, make([]byte, 8)...)
	lie := binary.BigEndian.AppendUint32(append(head, 1), maxRecordBytes)
	got := testing.AllocsPerRun(5, func() {
		if err := New().Restore(io.MultiReader(bytes.NewReader(lie), strings.NewReader("little"))); err == nil {
			t.Error("no error")
		}
	})
	if got > 2000 {
		t.Errorf("%v allocations", got)
	}
}

func TestAFailingWriterIsReported(t *testing.T) {
	s, _ := scriptedSnapshot(t)
	if err := s.View().Persist(failingWriter{}); err == nil {
		t.Error("no error")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }
