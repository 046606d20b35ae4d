//go:build linux

package volume

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/runtime/step"
	"shoal/runtime/step/disk"
)

const (
	envVictim  = "SHOAL_TEST_VOLUME_VICTIM"
	killsAStep = 20
	cutsOfTest = 50
)

// change is one operation on volumes.
type change struct{ Do, Name, User string }

func changesOf(seed uint64, count int) (out []change) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range count {
		out = append(out, change{[]string{"create", "create", "use", "release", "remove"}[r.IntN(5)], fmt.Sprint("v", r.IntN(4)), fmt.Sprint("c", r.IntN(3))})
	}
	return out
}

// held is what must be true of the volumes: each with its users.
type held map[string]map[string]bool

func (h held) after(c change) held {
	out := held{}
	for name, users := range h {
		out[name] = maps.Clone(users)
	}
	switch users, ok := out[c.Name]; {
	case c.Do == "create" && !ok:
		out[c.Name] = map[string]bool{}
	case c.Do == "use" && ok:
		users[c.User] = true
	case c.Do == "release":
		for _, users := range out {
			delete(users, c.User)
		}
	case c.Do == "remove" && ok && len(users) == 0:
		delete(out, c.Name)
	}
	return out
}

func (s *Store) carryOut(c change) error {
	var err error
	switch c.Do {
	case "create":
		_, err = s.Create(c.Name, "job", Options{Labels: map[string]string{"name": c.Name}})
	case "use":
		_, err = s.Use(c.Name, c.User)
	case "release":
		err = s.Release(c.User)
	case "remove":
		err = s.Remove(c.Name)
	}
	if err != nil && (strings.Contains(err.Error(), ErrNotFound.Error()) || strings.Contains(err.Error(), ErrInUse.Error())) {
		return nil
	}
	return err
}

type order struct {
	Dir, Acks, At string
	Seed          uint64
	Nth, Count    int
	Cut           bool // the file system goes down, not only the process
}

// TestVolumeVictim is the other process.
func TestVolumeVictim(t *testing.T) {
	raw := os.Getenv(envVictim)
	if raw == "" {
		return
	}
	var o order
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		t.Fatal(err)
	}
	acks, err := os.Create(o.Acks)
	if err != nil {
		t.Fatal(err)
	}
	step.Arm(&step.Plan{At: step.Name(o.At), Nth: o.Nth, Act: step.Call, Do: func() error {
		if o.Cut {
			if err := disk.Cut(o.Dir, disk.Cable); err != nil {
				panic(err)
			}
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}})
	s, err := Open(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changesOf(o.Seed, o.Count) {
		if err := s.carryOut(c); err != nil {
			t.Fatal(c, err)
		}
		_, _ = acks.WriteString("ack\n")
	}
	os.Exit(0)
}

// live runs a victim and returns how much it acknowledged.
func live(t *testing.T, o order) (acked int, killed bool) {
	t.Helper()
	raw, _ := json.Marshal(o)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestVolumeVictim$")
	cmd.Env = append(os.Environ(), envVictim+"="+string(raw))
	out, err := cmd.CombinedOutput()
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if err != nil && !ws.Signaled() {
		t.Fatalf("%+v: %v: %s", o, err, out)
	}
	b, err := os.ReadFile(o.Acks)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "ack"), ws.Signaled()
}

// found opens the volumes after a crash and reads them; nothing half made may be left.
func found(t *testing.T, what, dir string) held {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Fatalf("%s: %s is left", what, e.Name())
		}
	}
	vs, err := s.List()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	out := held{}
	for _, v := range vs {
		if fi, err := os.Stat(v.Path); v.Labels["name"] != v.Name || err != nil || fi.Mode().Perm() != 0o755 {
			t.Fatalf("%s: volume %s is half there: %+v %v", what, v.Name, v, err)
		}
		out[v.Name] = map[string]bool{}
		for _, u := range v.Users {
			out[v.Name][u] = true
		}
	}
	return out
}

// Wherever the agent is killed between two changes of the volumes, the next one finds what was acknowledged, and what was in
// progress wholly or not at all, and can do it again.
func TestKilledAtEachStepOfAVolume(t *testing.T) {
	seed := seedOf(t)
	for i, at := range Steps {
		base := t.TempDir()
		dir, state := filepath.Join(base, "volumes"), held{}
		for kills, n := 0, 0; kills < killsAStep; n++ {
			o := order{Dir: dir, Acks: filepath.Join(base, "acks"), At: string(at), Seed: seed + uint64(1000*i+n), Nth: 1 + n%3, Count: 60}
			acked, killed := live(t, o)
			if killed {
				kills++
			}
			if n > 20*killsAStep {
				t.Fatalf("%q was reached %d times in %d lives", at, kills, n)
			}
			state = checked(t, fmt.Sprintf("%q, seed %d", at, o.Seed), o, acked, state, false)
		}
	}
}

// checked judges what a life left. After a power cut users may be missing: they follow from which containers live.
func checked(t *testing.T, what string, o order, acked int, state held, cut bool) held {
	t.Helper()
	script := changesOf(o.Seed, o.Count)
	for _, c := range script[:acked] {
		state = state.after(c)
	}
	got := found(t, what, o.Dir)
	may := []held{state}
	if acked < len(script) {
		may = append(may, state.after(script[acked]))
	}
	same := func(h held) bool {
		if cut {
			return slices.Equal(slices.Sorted(maps.Keys(h)), slices.Sorted(maps.Keys(got)))
		}
		return fmt.Sprint(h) == fmt.Sprint(got)
	}
	// A release that was ended half way has let go of some volumes and not of others.
	if !slices.ContainsFunc(may, same) && !(acked < len(script) && script[acked].Do == "release" && maps.EqualFunc(state, got, func(a, b map[string]bool) bool {
		delete(a, script[acked].User)
		delete(b, script[acked].User)
		return maps.Equal(a, b)
	})) {
		t.Fatalf("%s: found %v, want one of %v", what, got, may)
	}
	if acked < len(script) {
		s, err := Open(o.Dir)
		if err == nil {
			err = s.carryOut(script[acked])
		}
		if err != nil {
			t.Fatalf("%s: %v cannot be done again: %v", what, script[acked], err)
		}
	}
	return found(t, what+", done again", o.Dir)
}

// A volume that was acknowledged survives a power cut, and one that was removed does not come back.
func TestPowerCutsUnderVolumes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a file system of its own needs root")
	}
	inside, err := disk.Inside(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !inside {
		return
	}
	seed, base := seedOf(t), t.TempDir()
	d, err := disk.New(base, 32<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	state := held{}
	for n := range cutsOfTest {
		at := Steps[n%len(Steps)]
		o := order{Dir: filepath.Join(d.Dir, "volumes"), Acks: filepath.Join(base, "acks"), At: string(at), Seed: seed + uint64(n), Nth: 1 + n%4, Count: 25, Cut: true}
		acked, killed := live(t, o)
		if !killed {
			if err := disk.Cut(d.Dir, disk.Cable); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Again(); err != nil {
			t.Fatal(err)
		}
		state = checked(t, fmt.Sprintf("cut %d at %q, seed %d", n, at, o.Seed), o, acked, state, true)
	}
	t.Logf("%d power cuts", cutsOfTest)
}

func seedOf(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano() % 1_000_000_000)
	if s := os.Getenv("SHOAL_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("replay with SHOAL_TEST_SEED=%d", seed)
	return seed
}
