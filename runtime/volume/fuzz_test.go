package volume

import (
	"os"
	"path/filepath"
	"testing"

	"shoal/e2e/frugal"
)

// FuzzVolume: what somebody left in the directory of volumes is read or refused, and keeps no store from opening.
func FuzzVolume(f *testing.F) {
	f.Add([]byte(`{"name":"v","job":"j","created":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte("\x00\x00"))
	dir := f.TempDir()
	for _, d := range []string{dataDir, usersDir} {
		if err := os.MkdirAll(filepath.Join(dir, "v", d), 0o700); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, meta []byte) {
		defer frugal.Watch(t)()
		if err := os.WriteFile(filepath.Join(dir, "v", metaFile), meta, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Get("v")
		_, _ = s.List()
	})
}
