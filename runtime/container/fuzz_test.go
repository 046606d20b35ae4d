package container

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"shoal/e2e/frugal"
	"shoal/runtime/container/stage"
)

func FuzzParseLogLine(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.000000006Z stdout F text"))
	f.Add([]byte("  "))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		if l, ok := parseLogLine(b); ok && len(l.Text) > len(b) {
			t.Errorf("%q has a text of %d bytes", b, len(l.Text))
		}
	})
}

// FuzzLog: a log whose files hold anything is read to its end, with no more lines than it has, from any tail on.
func FuzzLog(f *testing.F) {
	line := []byte("2026-01-02T03:04:05.000000006Z stdout F text\n")
	f.Add(line, bytes.Repeat(line, 3), 2)
	f.Add([]byte{0}, []byte("\n\n"), -1)
	f.Add(bytes.Repeat([]byte{0}, maxRawLine+1), line, 0)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, first, second []byte, tail int) {
		defer frugal.Watch(t)()
		for n, b := range map[int64][]byte{1: first, 2: second} {
			if err := os.WriteFile(logPath(dir, n), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l := &logReader{dir: dir}
		defer l.close()
		if err := l.seek(tail); err != nil {
			t.Fatal(err)
		}
		lines := bytes.Count(first, []byte{'\n'}) + bytes.Count(second, []byte{'\n'})
		if tail > 0 {
			lines = min(lines, tail)
		}
		for n := 0; ; n++ {
			if _, err := l.next(); errors.Is(err, io.EOF) {
				break
			} else if err != nil || n >= lines {
				t.Fatalf("line %d of %d: %v", n+1, lines, err)
			}
		}
	})
}

// FuzzRecords: what stands in a container's directory is read or refused, whatever a power cut made of it.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"start":1,"code":137,"signal":9,"at":"2026-01-02T03:04:05Z"}`+"\n"), []byte(`{"start":1,"pid":7}`))
	f.Add([]byte("\x00\x00\x00"), []byte(`{"start":-1}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, exit, start []byte) {
		defer frugal.Watch(t)()
		for name, b := range map[string][]byte{stage.FileExit: exit, stage.FileStart: start, stage.FileRecord: exit} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var s stage.StartRecord
		_ = stage.ReadJSON(dir, stage.FileStart, &s)
		if e, ok := readExit(dir, s); ok && e.Start != s.Start {
			t.Errorf("%+v is the exit of start %d", e, s.Start)
		}
		var r stage.Record
		_ = stage.ReadJSON(dir, stage.FileRecord, &r)
	})
}
