//go:build linux

package image

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"shoal/runtime/step/disk"
)

// Whenever the power goes, in this boot or with it, every image that was acknowledged is there, and what is run from is whole.
// The file system goes down under a kernel that goes on, so that no boot id tells what was lost. SHOAL_TEST_CUTS says how often.
func TestPowerCutsUnderImages(t *testing.T) {
	needRoot(t)
	inside, err := disk.Inside(t.Name())
	must(t, err)
	if !inside {
		return
	}
	seed, cuts := seedOf(t), countOf(t, "SHOAL_TEST_CUTS", 100)
	base := disk.InMemory(t)
	d, err := disk.New(base, 96<<20)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	b := newBed(t, filepath.Join(d.Dir, "images"))
	state := names{}
	var said bytes.Buffer // of the stores that are opened afterwards
	b.log = slog.New(slog.NewTextHandler(&said, nil))
	for n := range cuts {
		r := rand.New(rand.NewPCG(seed+uint64(n), 7))
		o := order{Dir: b.dir, Acks: filepath.Join(base, "acks"), Seed: seed + uint64(n), Count: 20, Child: r.IntN(3) == 0}
		o.Flag = []uint32{disk.Cable, disk.Cable, disk.Cable, disk.Cable, disk.Journal, disk.Flush}[r.IntN(6)]
		o.Cut = fmt.Sprintf("%s@%d", Steps[r.IntN(len(Steps))], 1+r.IntN(3))
		acked, killed, acks := b.run(o, nil)
		if !killed { // the step was not passed so often: the power goes after all of it
			if o.Seed%2 == 0 {
				writeOut(filepath.Join(o.Dir, "layers/sha256/*.json"))
			}
			must(t, disk.Cut(d.Dir, o.Flag))
		} else if !strings.Contains(acks, "cut") {
			t.Fatalf("%+v: killed before the cut: %s", o, acks)
		}
		must(t, d.Again())
		script := scriptOf(o.Seed, o.Count)
		for _, a := range script[:acked] {
			state = state.after(a)
		}
		what := fmt.Sprintf("cut %d at %s, flag %d, seed %d", n, o.Cut, o.Flag, o.Seed)
		if acked == len(script) {
			state = b.judge(what, nil, state)
		} else {
			state = b.judge(what, &script[acked], state, state.after(script[acked]))
		}
		if n%10 == 9 {
			b.swept(what)
		}
	}
	hurt := strings.Count(said.String(), "had not reached the disk whole")
	t.Logf("%d power cuts, %d unpacked layers damaged by them", cuts, hurt)
	if cuts >= 50 && hurt == 0 {
		t.Error("no cut damaged an unpacked layer: the test shows nothing")
	}
}

// countOf is how often a test does something: as the environment says.
func countOf(t *testing.T, env string, usual int) int {
	if s := os.Getenv(env); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		return n
	}
	return usual
}
