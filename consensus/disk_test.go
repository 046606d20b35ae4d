package consensus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// openDir opens a log in dir that talks TCP on loopback.
func openDir(t testing.TB, dir string) (*Log, *state.Store, error) {
	t.Helper()
	quick := Timing{Heartbeat: 100 * time.Millisecond, Election: 100 * time.Millisecond, Lease: 100 * time.Millisecond}
	return openAt(t, dir, "127.0.0.1:0", quick)
}

func openAt(t testing.TB, dir, addr string, timing Timing) (*Log, *state.Store, error) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	store := state.New()
	l, err := Open(Config{
		Dir: dir, Advertise: ln.Addr().String(), Streams: ln, Logger: quiet(), Timing: timing,
		Dial: func(ctx context.Context, _ job.NodeID, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}, store)
	return l, store, err
}

// run runs l; the returned function stops it and returns what Run did.
func run(l *Log) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func waitLeader(t testing.TB, l *Log) {
	t.Helper()
	for range 3000 {
		if l.IsLeader() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no leader in 30 s")
}

// founder is a new log in dir that leads.
func founder(t testing.TB, dir string) (l *Log, stop func() error) {
	t.Helper()
	l, _, err := openDir(t, dir)
	if err == nil {
		err = l.Bootstrap()
	}
	if err != nil {
		t.Fatal(err)
	}
	stop = run(l)
	waitLeader(t, l)
	return l, stop
}

func proposeN(t *testing.T, l *Log, n int, text string) (last uint64) {
	t.Helper()
	for i := range n {
		r, err := l.Propose(t.Context(), event(fmt.Sprint(text, i)))
		if err != nil || r.Err != nil {
			t.Fatalf("propose: %v %v", err, r.Err)
		}
		last = r.Index
	}
	return last
}

func TestRestartFromDiskKeepsTheState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	l, store, err := openDir(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if l.Bootstrapped() {
		t.Error("a new log says that it was bootstrapped")
	}
	if err := l.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	stop := run(l)
	waitLeader(t, l)
	proposeN(t, l, 10, "before the snapshot ")
	if err := l.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openDir(t, dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second process opened the same log: %v", err)
	}
	last := proposeN(t, l, 10, "after it ")
	want := store.View().Hash()
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	half := filepath.Join(dir, "snapshots", "1-2-3.tmp")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	again, store, err := openDir(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer run(again)()
	if again.ID() != l.ID() || !again.Bootstrapped() {
		t.Errorf("came back as %s, bootstrapped %t; was %s", again.ID(), again.Bootstrapped(), l.ID())
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unfinished snapshot is still there: %v", err)
	}
	waitLeader(t, again)
	if err := again.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := store.View(); got.Hash() != want || got.Index() != last {
		t.Errorf("the state is another: index %d, want %d", got.Index(), last)
	}
}

// TestThreeNodesOnDiskAllRestart is the whole way with real sockets and files: form, agree, stop all, start all.
func TestThreeNodesOnDiskAllRestart(t *testing.T) {
	const n = 3
	var logs [n]*Log
	var stores [n]*state.Store
	var stops [n]func() error
	root := t.TempDir()
	start := func(i int, addr string) {
		var err error
		if logs[i], stores[i], err = openAt(t, filepath.Join(root, fmt.Sprint(i), "raft"), addr, DefaultTiming()); err != nil {
			t.Fatal(err)
		}
		stops[i] = run(logs[i])
	}
	// propose tries at whoever leads, for as long as the machine's other work makes leaders change.
	propose := func(text string) uint64 {
		var last error
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			for _, l := range logs {
				r, err := l.Propose(t.Context(), event(text))
				if err == nil {
					return r.Index
				}
				last = err
			}
		}
		t.Fatal(last)
		return 0
	}
	agree := func(index uint64) (hash [32]byte) {
		for i, s := range stores {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := s.WaitIndex(ctx, index); err != nil {
				t.Fatal(err)
			}
			cancel()
			if got := s.View().Hash(); i > 0 && got != hash {
				t.Errorf("node %d has another state", i)
			} else {
				hash = got
			}
		}
		return hash
	}

	for i := range n {
		start(i, "127.0.0.1:0")
	}
	if err := logs[0].Bootstrap(); err != nil {
		t.Fatal(err)
	}
	waitLeader(t, logs[0])
	for _, l := range logs[1:] {
		if err := logs[0].AddStandby(t.Context(), l.ID(), l.cfg.Advertise); err != nil {
			t.Fatal(err)
		}
		if err := logs[0].Promote(t.Context(), l.ID()); err != nil {
			t.Fatal(err)
		}
	}
	before := propose("before")
	agree(before)
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	for i := range n {
		start(i, logs[i].cfg.Advertise)
	}
	after := propose("after")
	agree(after)
	if got := len(stores[n-1].View().Events(state.EventFilter{})); got < 2 {
		t.Errorf("%d events after the restart", got)
	}
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestNodeIDSurvivesAndIsNeverSplitFromItsLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "raft")
	id, fresh, err := LoadOrCreateID(dir)
	if err != nil || !fresh || len(id) != 32 {
		t.Fatalf("%q %t %v", id, fresh, err)
	}
	// A crash at any moment leaves a temporary file at most.
	if err := os.WriteFile(filepath.Join(dir, idFile+tmpSuffix), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, fresh, err := LoadOrCreateID(dir); again != id || fresh || err != nil {
		t.Errorf("second time: %q %t %v, want %q", again, fresh, err, id)
	}
	l, _, err := openDir(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	idPath, logPath := filepath.Join(dir, idFile), filepath.Join(dir, logFile)
	if err := os.WriteFile(idPath, []byte(strings.Repeat("ab", 16)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openDir(t, dir); err == nil || !strings.Contains(err.Error(), "belongs to node "+string(id)) {
		t.Errorf("another node's id beside the log: %v", err)
	}
	if err := os.WriteFile(idPath, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadOrCreateID(dir); err == nil {
		t.Error("a damaged id was taken")
	}
	if err := os.Remove(idPath); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadOrCreateID(dir); err == nil || !strings.Contains(err.Error(), logFile) {
		t.Errorf("a log without an id was given a new one: %v", err)
	}
	if err := os.WriteFile(idPath, []byte(string(id)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(logPath); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openDir(t, dir); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("an id without its log came back: %v", err)
	}
}

func TestCrashWhileTheLogIsMadeDoesNotBlockTheNextStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	if _, _, err := LoadOrCreateID(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, logFile+tmpSuffix), []byte("half a log"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, _, err := openDir(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestDamagedLogIsAnErrorNotAPanic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	l, stop := founder(t, dir)
	proposeN(t, l, 50, "x")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"both meta pages": func(b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b },
		"cut short":       func(b []byte) []byte { return b[:3*os.Getpagesize()] },
		"all but meta":    func(b []byte) []byte { clear(b[2*os.Getpagesize():]); return b },
		"empty":           func(b []byte) []byte { return b[:0] },
		"noise": func(b []byte) []byte {
			for i := 2 * os.Getpagesize(); i < len(b); i++ {
				b[i] ^= byte(i * 31)
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, logFile), damage([]byte(string(whole))), 0o600); err != nil {
				t.Fatal(err)
			}
			l, _, err := openDir(t, dir)
			if err == nil {
				_ = l.Close()
				t.Error("it was opened")
			} else {
				t.Log(err)
			}
		})
	}
}

func TestLargeEmptyFileIsWrittenAnew(t *testing.T) {
	if wasteful(compactBytes, 0) || wasteful(2*compactBytes, compactBytes) || !wasteful(2*compactBytes, compactBytes/4) {
		t.Error("the wrong files are written anew")
	}
	dir := filepath.Join(t.TempDir(), "raft")
	if err := os.Mkdir(dir, dirMode); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, logFile)
	bolt, _, err := openLog(dir, "me", &bridge{out: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(8) {
		if err := bolt.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 1<<20)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := bolt.DeleteRange(1, 7); err != nil {
		t.Fatal(err)
	}
	if err := bolt.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := compact(path, 0); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || after.Size() > before.Size()/2 {
		t.Errorf("the file has %d bytes, and had %d", after.Size(), before.Size())
	}
	if bolt, _, err = openLog(dir, "me", &bridge{out: quiet()}); err != nil {
		t.Fatal(err)
	}
	defer bolt.Close()
	var entry raft.Log
	if err := bolt.GetLog(8, &entry); err != nil || len(entry.Data) != 1<<20 {
		t.Errorf("entry 8: %v", err)
	}
	if err := bolt.GetLog(7, &entry); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry 7: %v", err)
	}
}

func TestOnlyAWriteWithoutSpaceMayBeTriedAgain(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{&fs.PathError{Op: "write", Path: "raft.db", Err: syscall.ENOSPC}, true},
		{&fs.PathError{Op: "write", Path: "raft.db", Err: syscall.EDQUOT}, true},
		{fmt.Errorf("file resize error: %s", &fs.PathError{Op: "truncate", Path: "raft.db", Err: syscall.ENOSPC}), true},
		{&os.LinkError{Op: "rename", Old: "1-2-3.tmp", New: "1-2-3", Err: syscall.ENOSPC}, true},
		{fmt.Errorf("set it aside: %w", &os.LinkError{Op: "rename", Old: "1-2-3", New: "1-2-3.tmp", Err: syscall.EDQUOT}), true},
		{&os.LinkError{Op: "rename", Old: "1-2-3.tmp", New: "1-2-3", Err: syscall.EIO}, false},
		{&fs.PathError{Op: "write", Path: "raft.db", Err: syscall.EIO}, false},
		{&fs.PathError{Op: "sync", Path: "raft.db", Err: syscall.ENOSPC}, false},
		{syscall.ENOSPC, false}, // fdatasync
		{fmt.Errorf("file sync error: %s", &fs.PathError{Op: "sync", Path: "raft.db", Err: syscall.ENOSPC}), false},
	} {
		if got := isFull(tc.err); got != tc.want {
			t.Errorf("%v: %t", tc.err, got)
		}
	}
}
