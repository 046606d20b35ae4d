package compose

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"shoal/consensus/job"
	"shoal/e2e/frugal"
)

// FuzzSeccomp: what is taken for a seccomp profile is JSON of a bounded size.
func FuzzSeccomp(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`))
	f.Add([]byte(`{"defaultAction":1}`))
	f.Add([]byte(`[`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		defer frugal.Watch(t)()
		if err := os.WriteFile(filepath.Join(dir, "p"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := seccompProfile("p", dir)
		if err == nil && (len(got) > job.MaxSeccompBytes || !json.Valid([]byte(got))) {
			t.Errorf("took %d bytes: %.100q", len(got), got)
		}
	})
}
