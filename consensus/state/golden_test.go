package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files that do not exist yet")

// Golden logs and snapshots were written when their commands were new. They must apply for ever, to the same state.
func TestGoldenLogStillApplies(t *testing.T) {
	for _, g := range []struct {
		version string
		script  func(*log)
		kinds   []byte // that must be in it
	}{
		{"v1", scripted, span(kindInitCluster, kindEvent)},
		{"v2", scripted2, []byte{kindStartJob, kindRestartJob}},
		{"heal", scriptedHeal, []byte{kindRelease}},
		{"batch", scriptedBatch, []byte{kindStartRun, kindStopRun, kindFireSchedule, kindPauseSchedule, kindAutoscale}},
		{"place", scriptedPlace, []byte{kindSetCluster, kindSetOvercommit}},
		{"rules", scriptedRules, []byte{kindRaiseRules}},
		{"runs", scriptedRuns, []byte{kindRaiseRules, kindFireSchedule}},
		{"change", scriptedChange, []byte{kindPromoteJob, kindFailJob, kindRestartTasks}},
	} {
		t.Run(g.version, func(t *testing.T) { stillApplies(t, g.version, g.script, g.kinds) })
	}
}

func span(from, to byte) (all []byte) {
	for k := from; k <= to; k++ {
		all = append(all, k)
	}
	return all
}

func stillApplies(t *testing.T, version string, script func(*log), wantKinds []byte) {
	logFile, hashFile, snapFile := "testdata/log-"+version+".cbor", "testdata/log-"+version+".sha256", "testdata/snapshot-"+version+".bin"
	if _, err := os.Stat(logFile); *update && os.IsNotExist(err) {
		l := newLog(t)
		script(l)
		writeGolden(t, l, logFile, hashFile, snapFile)
	}
	raw, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(hashFile)
	if err != nil {
		t.Fatal(err)
	}
	s := New()
	kinds := map[byte]bool{}
	for index := uint64(1); len(raw) > 0; index++ {
		n := binary.BigEndian.Uint32(raw)
		kinds[raw[4]] = true
		if _, err := Decode(raw[4 : 4+n]); err != nil {
			t.Fatalf("index %d: %v", index, err)
		}
		s.Apply(index, raw[4:4+n])
		raw = raw[4+n:]
	}
	for _, k := range wantKinds {
		if !kinds[k] {
			t.Errorf("kind %d is not in the golden log", k)
		}
	}
	got := s.View().Hash()
	if hex.EncodeToString(got[:]) != strings.TrimSpace(string(want)) {
		t.Errorf("the golden log gives state %x, want %s: a released command or row was changed", got, want)
	}
	f, err := os.Open(snapFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	restored := New()
	if err := restored.Restore(f); err != nil {
		t.Fatal(err)
	}
	if restored.View().Hash() != got || restored.View().Index() != s.View().Index() {
		t.Errorf("the golden snapshot at index %d differs from the golden log at %d", restored.View().Index(), s.View().Index())
	}
}

func writeGolden(t *testing.T, l *log, logFile, hashFile, snapFile string) {
	var b, snap bytes.Buffer
	for _, r := range l.raw {
		binary.Write(&b, binary.BigEndian, uint32(len(r)))
		b.Write(r)
	}
	h := l.s.View().Hash()
	if err := l.s.View().Persist(&snap); err != nil {
		t.Fatal(err)
	}
	os.MkdirAll("testdata", 0o755)
	for name, c := range map[string][]byte{logFile: b.Bytes(), hashFile: []byte(hex.EncodeToString(h[:]) + "\n"), snapFile: snap.Bytes()} {
		if err := os.WriteFile(name, c, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
