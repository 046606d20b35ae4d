package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/node/api"
)

// What somebody loaded is on three nodes when the load ends, no prune takes it, and any node answers for all.
func TestLoadedImagesAreKeptAndLookedAfter(t *testing.T) {
	n := cluster(t, 4)
	m := n.Machines()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	must(t, m[0].LoadImage(small(t, "kept:1", "kept")))
	with := func() (on []string) {
		for _, machine := range m {
			for _, name := range imageNames(t, machine) {
				if name == "docker.io/library/kept:1" {
					on = append(on, machine.Name)
				}
			}
		}
		return on
	}
	// When load has returned, its machine may die.
	if on := with(); len(on) < 3 {
		t.Errorf("the image was loaded, and is on %v alone", on)
	}

	// Every verb of it, from another node.
	shoal(t, m[3], "image", "tag", "--node", m[0].Name, "kept:1", "kept:stable")
	var details []api.ImageDetail
	must(t, json.Unmarshal([]byte(shoal(t, m[3], "image", "inspect", "--node", m[0].Name, "kept:stable")), &details))
	if len(details) != 1 || len(details[0].Names) != 2 || len(details[0].LayerList) != 2 || details[0].Platform == "" {
		t.Errorf("inspect: %+v", details)
	}
	shoal(t, m[3], "image", "history", "--node", m[0].Name, "kept:1")
	saved := filepath.Join(t.TempDir(), "saved.tar")
	shoal(t, m[3], "image", "save", "--node", m[0].Name, "-o", saved, "kept:1")
	if fi, err := os.Stat(saved); err != nil || fi.Size() < 1000 {
		t.Errorf("save: %v, %v", fi, err)
	}
	shoal(t, m[3], "image", "load", saved)
	df := shoal(t, m[1], "system", "df")
	for _, machine := range m {
		if !strings.Contains(df, machine.Name) {
			t.Errorf("system df does not tell of %s:\n%s", machine.Name, df)
		}
	}
	if !strings.Contains(df, "images") || !strings.Contains(df, "volumes") {
		t.Errorf("system df:\n%s", df)
	}

	// Pruning beside work that needs the image, on all nodes, again and again.
	pruned := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if r := m[2].ShoalContext(ctx, nil, "image", "prune", "--all", "--all-nodes"); r.Code != 0 && ctx.Err() == nil {
				pruned <- r
				return
			}
		}
		pruned <- nil
	}()
	for i := range 5 {
		job := fmt.Sprintf("j%d", i)
		shoal(t, m[i%4], "run", "--name", job, "--replicas", "4", "--init", "kept:1", "sleep", "1000000")
		shoal(t, m[i%4], "rm", job)
	}
	stop()
	must(t, <-pruned)
	if on := with(); len(on) < 3 {
		t.Errorf("after pruning it is on %v", on)
	}
	if r := m[1].Shoal("image", "ls", "--node", "nobody"); r.Code == 0 || !strings.Contains(r.Error(), "no node") {
		t.Error(errors.New("a node that there is not: " + r.String()))
	}
}

// A name that was taken away means nothing any more: no node brings it back, also when somebody loads the same image under
// another name.
func TestRemovedImageNamesStayAway(t *testing.T) {
	n := cluster(t, 3)
	m := n.Machines()
	must(t, m[0].LoadImage(small(t, "gone:1", "word")))
	shoal(t, m[0], "image", "rm", "gone:1")
	must(t, m[1].LoadImage(small(t, "other:1", "word")))                // the same bytes
	always(t, "a name that was removed", 20*time.Second, func() error { // longer than a node's care sleeps
		for _, machine := range m {
			if names := imageNames(t, machine); slices.Contains(names, "docker.io/library/gone:1") {
				return fmt.Errorf("%s has %v", machine.Name, names)
			}
		}
		return nil
	})
}
