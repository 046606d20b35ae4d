package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"shoal/runtime"
)

// A machine that loses its power leaves a log that ends anywhere, or in zeros. The next start's first line is not lost with it.
func TestATornLogCostsTheNextStartNothing(t *testing.T) {
	r := newRig(t)
	for i, torn := range []string{
		"2026-11-25T19:53:01.12345",
		"2026-11-25T19:53:01.123456789Z stdout F half a li",
		strings.Repeat("\x00", 5000),
		"2026-11-25T19:53:01.123456789Z stdout F " + strings.Repeat("x", 9000),
	} {
		id := runtime.ID(fmt.Sprint("torn", i))
		r.run(runtime.Spec{ID: id, Command: []string{"sh", "-c", "echo first; echo second"}})
		r.stopped(id)
		path := filepath.Join(r.dir, "containers", string(id), "log", "0000000001")
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(torn)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.rt.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.stopped(id)
		if got := r.lines(id, runtime.LogQuery{}); !slices.Equal(got, []string{"first", "second", "first", "second"}) {
			t.Errorf("after %.60q: %q", torn, got)
		}
	}
}
