package reconciler

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"shoal/consensus/job"
	"shoal/e2e/frugal"
	"shoal/runtime/fake"
)

// FuzzRestore: no saved file keeps a node from going on.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(`{"index":3,"assignments":[{"task":{"id":"t","job":"j"}}]}`), []byte(`{"bootID":"b","seq":7,"records":[{"status":{"task":"t"},"starts":1}]}`))
	f.Add([]byte(`{"index":"x"}`), []byte(`{"records":[{}]}`))
	f.Add([]byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, assignments, statuses []byte) {
		defer frugal.Watch(t)()
		dir := t.TempDir()
		for name, b := range map[string][]byte{assignmentsFile: assignments, statusesFile: statuses} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := New(Config{
			Runtime: fake.New(fake.Config{}), Node: "n", Dir: dir, BootID: "b",
			Report: func(context.Context, []job.Status) error { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
