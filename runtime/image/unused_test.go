package image

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Prune with names takes what was long unused and nobody keeps, the longest unused first, and nothing else.
func TestPruneOfNamedSparesWhatIsNeeded(t *testing.T) {
	s := open(t)
	for i, name := range []string{"old:1", "older:1", "kept:1", "held:1", "fresh:1"} {
		load(t, s, ociArchive(t, name, plain(tarOf(t, file("f", name)))))
		img, err := s.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock() // as if it came long ago
		s.opened = time.Now().Add(-100 * time.Hour)
		e := *s.catalog.images[img.Manifest]
		e.added = time.Now().Add(-time.Duration(10+i) * time.Hour)
		s.catalog.images[img.Manifest] = &e
		s.mu.Unlock()
	}
	if _, err := s.Hold("held:1", "c1"); err != nil {
		t.Fatal(err)
	}
	fresh, err := s.Get("fresh:1")
	if err != nil {
		t.Fatal(err)
	}
	s.Use(fresh)
	keep := func(i Image) bool { return strings.Contains(i.Names[0], "kept") }
	have := func() (out string) {
		list, _ := s.List()
		for _, i := range list {
			out += mustName(t, i.Names[0]).Familiar() + " "
		}
		return out
	}
	freed, err := s.Prune(t.Context(), PrunePolicy{Named: true, Keep: keep, DryRun: true})
	if err != nil || len(freed.Images) != 2 || freed.Bytes == 0 {
		t.Errorf("dry run: %+v, %v", freed, err)
	}
	if _, err := s.Prune(t.Context(), PrunePolicy{Named: true, Keep: keep, Most: 1}); err != nil {
		t.Fatal(err)
	}
	if got := have(); got != "fresh:1 held:1 kept:1 old:1 " { // older:1 was longest unused
		t.Errorf("after one: %s", got)
	}
	if _, err := s.Prune(t.Context(), PrunePolicy{Named: true, Keep: keep}); err != nil {
		t.Fatal(err)
	}
	if got := have(); got != "fresh:1 held:1 kept:1 " {
		t.Errorf("after all: %s", got)
	}
	if _, err := s.Get("old:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("old: %v", err)
	}
}
