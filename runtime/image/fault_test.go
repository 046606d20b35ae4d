//go:build linux

package image

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"shoal/runtime/step"
	"shoal/runtime/step/disk"
)

// writeCalls are the system calls by which a store changes its disk, and about how many of each kind pass between two that
// fail. write itself is not among them, because Go's scheduler dies of it: that fails at the steps around it
// (TestEveryStepOfAStoreFails).
var writeCalls = map[string]int{
	"pwrite64": 23, "fsync": 37, "syncfs": 3, "rename,renameat,renameat2": 31, "mkdirat,mkdir": 43, "linkat,symlinkat,mknodat": 17,
	"fchmodat,fchmod,chmod": 41, "fchown,fchownat,lchown": 5, "utimensat": 37, "unlinkat,rmdir": 61,
}

// Whichever system call of a run of operations fails, for want of space or by the disk: the operation says so or succeeds,
// nothing is half done, the next try works, and nothing is left. In a run some calls of each kind fail, from other first ones in
// each run. SHOAL_TEST_FAULTS says how many runs; with 100 every call of the script has failed.
func TestEveryWriteOfAStoreFails(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is missing: packaging/deps.sh test installs it")
	}
	seed, runs := seedOf(t), countOf(t, "SHOAL_TEST_FAULTS", 4)
	const operations = 200
	hits := map[string]int{}
	for n := range runs {
		base := disk.InMemory(t)
		b := newBed(t, filepath.Join(base, "store"))
		o := order{Dir: b.dir, Acks: filepath.Join(base, "acks"), Seed: seed + uint64(n), Count: operations, Try: 50} // each thread counts for itself
		r := rand.New(rand.NewPCG(o.Seed, 9))
		errno := []string{"EIO", "ENOSPC"}[n%2]
		log := filepath.Join(base, "strace")
		argv := []string{"strace", "-f", "--seccomp-bpf", "-qq", "-o", log, "-e", "trace=" + strings.Join(slices.Sorted(maps.Keys(writeCalls)), ",")}
		for _, calls := range slices.Sorted(maps.Keys(writeCalls)) {
			stride := writeCalls[calls]
			argv = append(argv, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d+%d", calls, errno, 1+r.IntN(stride), stride))
		}
		acked, killed, said := b.run(o, nil, argv...)
		what := fmt.Sprintf("%s, seed %d", errno, o.Seed)
		if killed || acked != operations {
			t.Fatalf("%s: %d operations of %d: %s", what, acked, operations, said)
		}
		state := names{}
		for _, a := range scriptOf(o.Seed, o.Count) {
			state = state.after(a)
		}
		b.judge(what, nil, state)
		b.swept(what)
		raw, err := os.ReadFile(log)
		must(t, err)
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, "(INJECTED)") {
				name, _, _ := strings.Cut(line, "(")
				hits[name[strings.LastIndexByte(name, ' ')+1:]]++
			}
		}
	}
	t.Logf("calls that failed: %v", hits)
	if hits["fsync"] < runs || hits["pwrite64"] < runs || hits["renameat"] < runs {
		t.Error("hardly a call failed: the test shows nothing")
	}
}

// At each step, and so at each write, sync and rename, an operation fails as if the disk had failed it.
func TestEveryStepOfAStoreFails(t *testing.T) {
	needRoot(t)
	seed := seedOf(t)
	b := newBed(t, filepath.Join(disk.InMemory(t), "store"))
	state := names{}
	for i, at := range Steps {
		r := rand.New(rand.NewPCG(seed+uint64(i), 10))
		b.hurt(r, at)
		o := order{Dir: b.dir, Acks: b.dir + ".acks", Seed: seed + uint64(i), Count: 2 * len(actKinds), Try: 20, Child: at == "unpack child started"}
		plan := fmt.Sprintf("%s=%s@%d;%s=%s@%d", at, []string{"eio", "enospc"}[i%2], 1, at, []string{"enospc", "eio"}[i%2], 2+r.IntN(5))
		acked, killed, said := b.run(o, []string{step.Env + "=" + plan})
		what := fmt.Sprintf("%s, seed %d", plan, o.Seed)
		if killed || acked != o.Count {
			t.Fatalf("%s: %d operations of %d: %s", what, acked, o.Count, said)
		}
		for _, a := range scriptOf(o.Seed, o.Count) {
			state = state.after(a)
		}
		b.judge(what, nil, state)
		b.swept(what)
	}
}
