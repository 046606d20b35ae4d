package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// freshSeed is printed, so that a failure can be replayed with SHOAL_SEED.
func freshSeed(t *testing.T) (*rand.Rand, uint64) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SHOAL_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SHOAL_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0)), seed
}

// unpackOld puts a raft directory in place that a shoal wrote before there were checksums of entries.
func unpackOld(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, dirMode); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", dir, "-xzf", "testdata/old-raft.tar.gz").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestDirectoryFromBeforeChecksumsOpens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	unpackOld(t, dir)
	const want = "5f72a95f19ba32e2642beea264ebe48d727854e947d32ad2f7a0435a3263fb33"
	for round, index := range []uint64{0, 24, 26} {
		l, store, err := openDir(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		// What was proposed is there as soon as the log is open and leads.
		stop := run(l)
		waitLeader(t, l)
		if err := l.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := store.View(); round == 0 && fmt.Sprintf("%x", got.Hash()) != want {
			t.Errorf("another state: %x at %d", got.Hash(), got.Index())
		} else if round > 0 && got.Index() < index {
			t.Errorf("round %d: index %d, want at least %d", round, got.Index(), index)
		}
		proposeN(t, l, 2, "new ")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := audit(filepath.Join(dir, logFile))
	if err != nil || got.stale || got.unsummed != 22 {
		t.Errorf("%+v %v; want entries up to 22 without a sum", got, err)
	}
}

// TestAnOlderShoalMayWriteInBetween goes forth and back between the two writers of the same file.
func TestAnOlderShoalMayWriteInBetween(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, logFile)
	next := uint64(1)
	for range 3 {
		s, _, err := openLog(dir, "me", &bridge{out: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		var e raft.Log
		for i := uint64(1); i < next; i++ {
			if err := s.GetLog(i, &e); err != nil || string(e.Data) != fmt.Sprint("entry ", i) {
				t.Errorf("entry %d: %q %v", i, e.Data, err)
			}
		}
		if err := s.StoreLog(&raft.Log{Index: next, Term: 1, Data: fmt.Append(nil, "entry ", next)}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetUint64([]byte("CurrentTerm"), next); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		next++
		old, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{NoFreelistSync: true}, MsgpackUseNewTimeFormat: true})
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i < next; i++ {
			if err := old.GetLog(i, &e); err != nil || string(e.Data) != fmt.Sprint("entry ", i) {
				t.Errorf("the older one reads entry %d: %q %v", i, e.Data, err)
			}
		}
		if err := old.StoreLog(&raft.Log{Index: next, Term: 1, Data: fmt.Append(nil, "entry ", next), AppendedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if err := old.SetUint64([]byte("CurrentTerm"), next); err != nil {
			t.Fatal(err)
		}
		_ = old.Close()
		next++
	}
}

// grow makes a raft directory with random content: snapshots, a cut log, terms and votes.
func grow(t *testing.T, dir string, rng *rand.Rand) {
	t.Helper()
	id, _, err := LoadOrCreateID(dir)
	if err != nil {
		t.Fatal(err)
	}
	stores, files, err := openFiles(dir, raft.ServerID(id), &bridge{out: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	store := state.New()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	index := uint64(0)
	for range 1 + rng.IntN(4) {
		for range 5 + rng.IntN(60) {
			var batch []*raft.Log
			for range 1 + rng.IntN(4) {
				index++
				text := make([]byte, rng.IntN(1+1<<(2+rng.IntN(13))))
				for i := range text {
					text[i] = byte('a' + rng.IntN(26))
				}
				raw, err := state.Encode(event(string(text)))
				must(err)
				store.Apply(index, raw)
				batch = append(batch, &raft.Log{Index: index, Term: 1 + index/50, Data: raw, AppendedAt: time.Now()})
			}
			must(stores.Log.StoreLogs(batch))
		}
		must(stores.Stable.SetUint64([]byte("CurrentTerm"), 1+index/50))
		must(stores.Stable.SetUint64([]byte("LastVoteTerm"), 1+index/50))
		must(stores.Stable.Set([]byte("LastVoteCand"), []byte("127.0.0.1:6174")))
		if rng.IntN(3) > 0 {
			sink, err := stores.Snapshots.Create(1, index, 1+index/50, raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(id), Address: "127.0.0.1:6174"}}}, 1, nil)
			must(err)
			must(fsmSnapshot{view: store.View()}.Persist(sink))
			first, _ := stores.Log.FirstIndex()
			if to := index - uint64(rng.IntN(30)); to > first {
				must(stores.Log.DeleteRange(first, to))
			}
		}
	}
}

// readAll is all that raft can read from a directory.
func readAll(dir string) (out map[string]string, err error) {
	id, fresh, err := LoadOrCreateID(dir)
	if err != nil {
		return nil, err
	}
	if fresh {
		return nil, errors.New("a new id was given")
	}
	stores, files, err := openFiles(dir, raft.ServerID(id), &bridge{out: quiet()})
	if err != nil {
		return nil, err
	}
	defer files.Close()
	out = map[string]string{"id": string(id)}
	first, _ := stores.Log.FirstIndex()
	last, _ := stores.Log.LastIndex()
	out["range"] = fmt.Sprint(first, last)
	for i := first; i <= last && i > 0; i++ {
		var e raft.Log
		if err := stores.Log.GetLog(i, &e); err != nil {
			return nil, fmt.Errorf("it opened, and then: %w", err)
		}
		out[fmt.Sprint("entry ", i)] = fmt.Sprintf("%+v", e)
	}
	for k := range confKeys {
		if k != string(recordKey) {
			v, _ := stores.Stable.Get([]byte(k))
			out[k] = string(v)
		}
	}
	snaps, err := stores.Snapshots.List()
	if err != nil {
		return nil, err
	}
	for n, m := range snaps {
		got, r, err := stores.Snapshots.Open(m.ID)
		if err != nil {
			return nil, fmt.Errorf("it opened, and then: %w", err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		_ = r.Close()
		out[fmt.Sprint("snapshot ", n)] = fmt.Sprintf("%+v %+v %x", *m, *got, b)
	}
	return out, nil
}

// without is what may be read when the damaged snapshots are set aside.
func without(all, some map[string]string) map[string]string {
	var kept []string
	for n := range 9 {
		if v, ok := all[fmt.Sprint("snapshot ", n)]; ok && slices.Contains(slices.Collect(maps.Values(some)), v) {
			kept = append(kept, v)
		}
	}
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.HasPrefix(k, "snapshot ") })
	for n, v := range kept {
		out[fmt.Sprint("snapshot ", n)] = v
	}
	return out
}

// TestDamageIsNeverServed flips bits in, and cuts, the files of raft directories with random content. Each time either a
// clear error names the file, or all that can be read is what was written (the bit was in an unused place, or the log
// does not need the damaged snapshot).
func TestDamageIsNeverServed(t *testing.T) {
	rng, _ := freshSeed(t)
	flips, cuts := 250, 100
	if n := os.Getenv("SHOAL_CRASH_TIMES"); n != "" {
		times := 1
		_, _ = fmt.Sscan(n, &times)
		flips, cuts = flips*times, cuts*times
	}
	tmp := t.TempDir()
	var base string
	var want map[string]string
	var files []string
	detected, harmless := map[string]int{}, map[string]int{}
	for trial := range flips + cuts {
		if trial%35 == 0 { // new content
			base = filepath.Join(tmp, fmt.Sprint("base", trial), "raft")
			if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
				t.Fatal(err)
			}
			grow(t, base, rng)
			var err error
			if want, err = readAll(base); err != nil {
				t.Fatal(err)
			}
			files = nil
			_ = filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && filepath.Base(path) != startedFile {
					rel, _ := filepath.Rel(base, path)
					files = append(files, rel)
					if rel == logFile { // it is what matters most
						files = append(files, rel, rel, rel)
					}
				}
				return nil
			})
		}
		root := filepath.Join(tmp, fmt.Sprint("trial", trial))
		dir := filepath.Join(root, "raft")
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		file := files[rng.IntN(len(files))]
		path := filepath.Join(dir, file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		what := ""
		if trial%7 < 5 {
			at := rng.IntN(len(b))
			if file == logFile && rng.IntN(2) == 0 { // the heads of pages and elements, where little says much
				at = rng.IntN(len(b)/os.Getpagesize())*os.Getpagesize() + rng.IntN(128)
			}
			bit := rng.IntN(8)
			b[at] ^= 1 << bit
			what = fmt.Sprintf("bit %d of byte %d of %s", bit, at, file)
		} else {
			n := rng.IntN(len(b))
			b = b[:n]
			what = fmt.Sprintf("%s cut to %d bytes", file, n)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		kind := filepath.Base(file)
		got, err := readAll(dir)
		var damage *DamageError
		switch {
		case errors.As(err, &damage):
			detected[kind]++
			if text := err.Error(); strings.Contains(text, "\n") || !strings.Contains(text, damage.File) || !strings.HasPrefix(damage.File, dir) {
				t.Errorf("trial %d, %s: the error is %q", trial, what, text)
			}
			if strings.HasPrefix(err.Error(), "it opened") {
				t.Errorf("trial %d, %s: %v", trial, what, err)
			}
		case err != nil:
			t.Errorf("trial %d, %s: %v", trial, what, err)
		case maps.Equal(got, want):
			harmless[kind]++
		case strings.HasPrefix(file, snapshotsDir) && maps.Equal(got, without(want, got)):
			detected[kind]++
		default:
			t.Errorf("trial %d, %s: something else is read now", trial, what)
			for k := range want {
				if got[k] != want[k] {
					t.Logf("%s: %.80q, was %.80q", k, got[k], want[k])
				}
			}
		}
		_ = os.RemoveAll(root)
	}
	t.Logf("detected %v, in unused places %v", detected, harmless)
}

// TestDamageWhileRunningEndsTheLog changes an entry under an open log.
func TestDamageWhileRunningEndsTheLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	l, _, err := openDir(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Run(t.Context()) }()
	waitLeader(t, l)
	proposeN(t, l, 5, "the marked entry ")
	b, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, logFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; ; at++ { // every copy of it, also those in pages that are free by now
		i := bytes.Index(b[at:], []byte("the marked entry 2"))
		if i < 0 {
			break
		}
		at += i
		if _, err := f.WriteAt([]byte{'T'}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	var e raft.Log
	index, _ := l.stores.Log.LastIndex()
	for i := uint64(1); i <= index; i++ {
		i := i
		done := make(chan struct{})
		go func() { defer close(done); _ = l.stores.Log.GetLog(i, &e) }() // the guard ends the goroutine
		<-done
	}
	var disk *DiskError
	select {
	case err := <-ended:
		if !errors.As(err, &disk) || !strings.Contains(err.Error(), "does not match its checksum") || !errors.Is(err, job.Unavailable) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it goes on")
	}
}
