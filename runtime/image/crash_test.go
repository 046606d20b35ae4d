//go:build linux

package image

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/runtime/step"
	"shoal/runtime/step/disk"
)

const (
	killsAStep = 20
	killWalks  = 4  // steps walked through at the same time: a victim mostly waits for its own start
	lifeOfKill = 40 // operations of a victim
)

// Wherever between two writes the store's process is killed, the next one finds every image that was acknowledged, whole, and
// nothing of what was not but all of it; nothing half made is left; and the operation can be done again. Each step is killed
// killsAStep times, each time in another state.
func TestKilledAtEachStepOfAnImage(t *testing.T) {
	needRoot(t)
	seed := seedOf(t)
	if called := stepsInSource(t); !slices.Equal(called, slices.Sorted(slices.Values(Steps))) {
		t.Fatalf("Steps has\n%q\nthe source passes\n%q", slices.Sorted(slices.Values(Steps)), called)
	}
	stepCh := make(chan int)
	var wait sync.WaitGroup
	var mu sync.Mutex
	kills := 0
	for range killWalks {
		wait.Go(func() {
			for i := range stepCh {
				t.Run(strings.ReplaceAll(string(Steps[i]), " ", "-"), func(t *testing.T) {
					n := killAt(t, Steps[i], seed+uint64(i)*1000)
					mu.Lock()
					kills += n
					mu.Unlock()
				})
			}
		})
	}
	for i := range Steps {
		stepCh <- i
	}
	close(stepCh)
	wait.Wait()
	t.Logf("%d kills at %d steps", kills, len(Steps))
}

// seedOf gives a fresh seed, or SHOAL_TEST_SEED, and prints it.
func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano() % 1_000_000_000)
	if s := os.Getenv("SHOAL_TEST_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("replay with SHOAL_TEST_SEED=%d", seed)
	return seed
}

// rareSteps are passed about once in a life.
var rareSteps = []step.Name{
	"open", "open directories made", "open catalog read", "quarantine", "sweep of an unsettled tree", "remove decided", "tree out of the way", "unpack child started",
}

func killAt(t *testing.T, at step.Name, seed uint64) (kills int) {
	base := disk.InMemory(t)
	b := newBed(t, filepath.Join(base, "store"))
	o := order{Dir: b.dir, Acks: filepath.Join(base, "acks"), Count: lifeOfKill}
	state := names{}
	for n := 0; kills < killsAStep; n++ {
		if n == 4*killsAStep {
			t.Fatalf("%q was reached in %d lives of %d only", at, kills, n)
		}
		o.Seed = seed + uint64(n)
		r := rand.New(rand.NewPCG(o.Seed, 6))
		o.Child = at == "unpack child started" || r.IntN(3) == 0
		b.hurt(r, at)
		nth := 1 + r.IntN(4)
		if slices.Contains(rareSteps, at) {
			nth = 1
		}
		acked, killed, _ := b.run(o, []string{fmt.Sprintf("%s=%s=kill@%d", step.Env, at, nth)})
		what := fmt.Sprintf("%q, pass %d, seed %d", at, nth, o.Seed)
		script := scriptOf(o.Seed, o.Count)
		for _, a := range script[:acked] {
			state = state.after(a)
		}
		if !killed {
			state = b.judge(what+", not reached", nil, state)
			continue
		}
		kills++
		if acked == len(script) {
			state = b.judge(what, nil, state)
			continue
		}
		state = b.judge(what, &script[acked], state, state.after(script[acked]))
		if kills%5 == 0 {
			b.swept(what)
		}
	}
	return kills
}

// hurt makes a state in which the steps are passed that only a damaged store passes.
func (b *bed) hurt(r *rand.Rand, at step.Name) {
	pick := func(pattern string) string {
		all, _ := filepath.Glob(filepath.Join(b.dir, pattern))
		if len(all) == 0 {
			return ""
		}
		return all[r.IntN(len(all))]
	}
	switch {
	case at == "quarantine":
		blobs, _ := filepath.Glob(filepath.Join(b.dir, "blobs/sha256/*"))
		for _, path := range blobs {
			if raw, err := os.ReadFile(path); err == nil && len(raw) > 0 && raw[0] != '{' {
				raw[len(raw)/2] ^= 1
				must(b, os.WriteFile(path, raw, 0o600))
				b.harmed = true
			}
		}
	case at == "sweep of an unsettled tree" || r.IntN(4) == 0:
		if path := pick("layers/sha256/*.json"); path != "" {
			must(b, os.WriteFile(path, []byte(`{"boot":"another"}`), 0o600))
		}
	case r.IntN(3) == 0:
		if path := pick("layers/sha256/*/id"); path != "" {
			must(b, os.Truncate(path, 0))
			b.harmed = true
		}
	}
}

// stepsInSource are the steps that the source passes, sorted.
func stepsInSource(t *testing.T) (out []step.Name) {
	call := regexp.MustCompile(`step\.Reach\("([a-z ]+)"\)`)
	files, _ := filepath.Glob("*.go")
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		must(t, err)
		for _, m := range call.FindAllSubmatch(bytes.ReplaceAll(text, []byte("\n"), nil), -1) {
			out = append(out, step.Name(m[1]))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
