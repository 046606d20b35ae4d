package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"shoal/consensus/job"
	"shoal/consensus/state"
	"shoal/runtime/step"
	ext4 "shoal/runtime/step/disk"
)

// The tests below let a process of its own write acknowledged commands into a raft directory, end it in some unkind way,
// and read the directory again.

const (
	writerEnv = "SHOAL_TEST_WRITER" // a writerOrder
	ackFile   = "acknowledged"      // beside the raft directory: a line for each command, written once it was
)

// writerOrder is what a writer is to do.
type writerOrder struct {
	Root   string // holds raft and acknowledged
	Seed   uint64
	Writes int
	NoSync bool // the positive control: bolt does not sync
	Ready  bool // print a line when the first command is acknowledged
	Crowd  int  // so many proposals at a time; 0: one
	Renew  bool // only set the directory aside and begin it anew
	Acks   string
}

func (o writerOrder) acks() string {
	if o.Acks != "" {
		return o.Acks
	}
	return filepath.Join(o.Root, ackFile)
}

// crashTiming elects within a few milliseconds: there is nobody else to wait for.
var crashTiming = Timing{Heartbeat: 20 * time.Millisecond, Election: 20 * time.Millisecond, Lease: 20 * time.Millisecond}

func openCrash(dir string) (*Log, *state.Store, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	store := state.New()
	l, err := Open(Config{
		Dir: dir, Advertise: "127.0.0.1:6174", Streams: ln, Logger: quiet(), Timing: crashTiming, trailing: 8,
		Dial: func(context.Context, job.NodeID, string) (net.Conn, error) {
			return nil, errors.New("there is nobody else")
		},
	}, store)
	return l, store, err
}

// TestWriter is the writer's process; it does nothing by itself.
func TestWriter(t *testing.T) {
	spec := os.Getenv(writerEnv)
	if spec == "" {
		return
	}
	var o writerOrder
	if err := json.Unmarshal([]byte(spec), &o); err != nil {
		t.Fatal(err)
	}
	if err := step.FromEnv(); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(superviseEnv) != "" {
		if err := superviseSelf(); err != nil {
			t.Fatal(err)
		}
	}
	compactBytes = 64 << 10
	boltNoSync = o.NoSync
	if err := write(o); err != nil {
		fmt.Println("writer:", err)
		os.Exit(3)
	}
}

// write proposes commands, and notes each that was acknowledged. Some are large, and now and then it makes a snapshot,
// cuts the log, or changes a holder.
func write(o writerOrder) error {
	if o.Renew {
		id, _, err := LoadOrCreateID(filepath.Join(o.Root, "raft"))
		if err == nil {
			err = Renew(filepath.Join(o.Root, "raft"), id)
		}
		return err
	}
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	acks, err := os.OpenFile(o.acks(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l, _, err := openCrash(filepath.Join(o.Root, "raft"))
	if err != nil {
		return err
	}
	if !l.Bootstrapped() {
		if err := l.Bootstrap(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	if err := crashLeader(l, ended); err != nil {
		return err
	}
	propose := func(i int) error {
		var crowd sync.WaitGroup
		var failed atomic.Pointer[error]
		for j := range max(o.Crowd, 1) {
			text := fmt.Sprintf("%d.%d ", o.Seed, i+j)
			filler := strings.Repeat("x", rng.IntN(1<<(3+rng.IntN(11))))
			crowd.Go(func() {
				_, err := l.Propose(ctx, event(text+filler))
				if err == nil {
					_, err = fmt.Fprintln(acks, text)
				}
				if err != nil {
					failed.Store(&err)
				}
			})
		}
		crowd.Wait()
		if failed.Load() != nil {
			select { // what ended the log says more
			case err := <-ended:
				return err
			case <-time.After(2 * time.Second):
				return *failed.Load()
			}
		}
		if o.Ready && i == 0 {
			fmt.Println("ready")
		}
		return nil
	}
	snapshot := func() error {
		if err := l.raft.Snapshot().Error(); err != nil && l.disk.failure() != nil {
			return err
		}
		return nil // or there was nothing new
	}
	other := job.NodeID(strings.Repeat("ab", nodeIDLength))
	for i := 0; i < o.Writes; i += max(o.Crowd, 1) {
		if err := propose(i); err != nil {
			return err
		}
		switch rng.IntN(12) {
		case 0, 1:
			err = snapshot()
		case 2:
			err = l.AddStandby(ctx, other, "127.0.0.2:6174")
		case 3:
			err = l.Remove(ctx, other)
		}
		if err != nil {
			return err
		}
	}
	all := o.Writes + o.Crowd
	o.Crowd = 0
	for i := range 3 * 4 { // what random did not do
		err := propose(all + i)
		if err == nil && i%4 == 3 {
			err = errors.Join(l.AddStandby(ctx, other, "127.0.0.2:6174"), l.Remove(ctx, other), snapshot())
		}
		if err != nil {
			return err
		}
	}
	cancel()
	return <-ended
}

// crashLeader waits until l leads, or ended.
func crashLeader(l *Log, ended <-chan error) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-ended:
			return fmt.Errorf("it ended: %w", err)
		default:
		}
		if l.IsLeader() {
			return l.Barrier(context.Background())
		}
		if time.Now().After(end) {
			return errors.New("no leader in a minute")
		}
	}
}

// check opens the directory again. Everything that was acknowledged must be there, once and in order; nothing half done
// may lie about; and it must take the next command. It returns how many were acknowledged.
func check(o writerOrder) (int, error) {
	raw, err := os.ReadFile(o.acks())
	if err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	acked := strings.FieldsFunc(string(raw), func(r rune) bool { return r == '\n' })
	dir := filepath.Join(o.Root, "raft")
	l, store, err := openCrash(dir)
	if err != nil {
		return len(acked), fmt.Errorf("the next start: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if !l.Bootstrapped() {
		if len(acked) > 0 {
			return len(acked), errors.New("an empty log, and there were acknowledged commands")
		}
		if err := l.Bootstrap(); err != nil {
			return 0, err
		}
	}
	if err := crashLeader(l, ended); err != nil {
		return len(acked), err
	}
	var there []string
	place := map[string]int{} // of each, from 1
	for _, e := range store.View().Events(state.EventFilter{}) {
		if strings.Contains("0123456789", e.Message[:1]) { // else not a writer's
			there = append(there, e.Message[:strings.Index(e.Message, " ")+1])
			if place[there[len(there)-1]] != 0 {
				return len(acked), fmt.Errorf("command %q was applied twice", there[len(there)-1])
			}
			place[there[len(there)-1]] = len(there)
		}
	}
	before := 0
	for i, want := range acked {
		if place[want] == 0 {
			return len(acked), fmt.Errorf("command %q, acknowledged as number %d of %d, is lost: %d are there", want, i, len(acked), len(there))
		}
		if place[want] < before && o.Crowd == 0 {
			return len(acked), fmt.Errorf("command %q, acknowledged as number %d, comes before one that was acknowledged earlier", want, i)
		}
		before = place[want]
	}
	if _, err := l.Propose(ctx, event("the next ")); err != nil {
		return len(acked), fmt.Errorf("the next command: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "snapshots", "*"+tmpSuffix))
	if err != nil || len(left) > 0 {
		return len(acked), fmt.Errorf("left over: %v %v", left, err)
	}
	return len(acked), nil
}

// writer is the command that runs a writer.
func (o writerOrder) command(t testing.TB, env ...string) *exec.Cmd {
	spec, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriter$")
	cmd.Env = append(append(os.Environ(), writerEnv+"="+string(spec)), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// crashTimes is how often the slow tests of this kind do each thing: a tenth, or what make crash asks for (1 in .ci/run).
func crashTimes(t *testing.T, normal int) int {
	n := os.Getenv("SHOAL_CRASH_TIMES")
	if n == "" {
		return max(normal/10, 1)
	}
	times := 1
	if _, err := fmt.Sscan(n, &times); err != nil {
		t.Fatal(err)
	}
	return normal * times
}

// TestKilledAtEachStep kills a writer at each step of the raft directory, 20 times each, at random passes of it and over
// random content.
func TestKilledAtEachStep(t *testing.T) {
	rng, _ := freshSeed(t)
	root := ext4.InMemory(t)
	type kill struct {
		at   step.Name
		seed uint64
	}
	var kills []kill
	for _, s := range Steps {
		for range crashTimes(t, 20) {
			kills = append(kills, kill{s, rng.Uint64() >> 16})
		}
	}
	var mu sync.Mutex
	killed, acked := map[step.Name]int{}, 0
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(kills) || t.Failed() {
					return
				}
				k := kills[i]
				dir := filepath.Join(root, fmt.Sprint(i))
				done, n, err := killAt(t, k.at, dir, k.seed)
				if err != nil {
					t.Errorf("step %q, seed %d: %v", k.at, k.seed, err)
				} else {
					_ = os.RemoveAll(dir)
				}
				mu.Lock()
				if done {
					killed[k.at]++
				}
				acked += n
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, s := range Steps {
		if killed[s] < crashTimes(t, 20) {
			t.Errorf("step %q: killed %d times, want %d", s, killed[s], crashTimes(t, 20))
		}
	}
	t.Logf("%d steps, %d kills, %d acknowledged commands", len(Steps), len(kills), acked)
}

// killAt runs writers in one directory: one that leaves something behind, and one that is killed at a pass of the step.
func killAt(t *testing.T, at step.Name, root string, seed uint64) (killed bool, acked int, err error) {
	rng := rand.New(rand.NewPCG(seed, 2))
	o := writerOrder{Root: root, Seed: seed, Writes: 4 + rng.IntN(20)}
	if err := os.Mkdir(root, 0o700); err != nil {
		return false, 0, err
	}
	before := rng.IntN(3)
	switch at { // what only an old directory, or one with much that is free, passes
	case StepLogSealed:
		before = 0
		if rng.IntN(2) == 0 {
			unpackOld(t, filepath.Join(root, "raft"))
		}
	case StepLogCopied, StepLogReplaced, StepSnapRestore, StepSnapRestored, StepRenewMade, StepRenewAside, StepRenewRenamed, StepRenewDurable:
		before = max(before, 1)
	}
	for i := range before { // in this process: it is done sooner
		b := o
		b.Seed, b.Writes = seed+uint64(i)+1, 1+rng.IntN(30)
		if err := write(b); err != nil {
			return false, 0, fmt.Errorf("before: %w", err)
		}
	}
	if at == StepLogCopied || at == StepLogReplaced {
		if err := waste(filepath.Join(root, "raft")); err != nil {
			return false, 0, err
		}
	}
	anew := false
	o.Renew = strings.HasPrefix(string(at), "raft directory ") && at != StepDirMade
	most := 12
	if strings.HasPrefix(string(at), "raft log ") || o.Renew || at == StepDirMade || at == StepSnapChecked || at == StepSnapRestore || at == StepSnapRestored {
		most = 1 // once in a process
	}
	for pass := 1 + rng.IntN(most); !killed; pass = (pass + 1) / 2 {
		cmd := o.command(t, fmt.Sprintf("%s=%s=kill@%d", step.Env, at, pass))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
			killed = true
		case err != nil:
			return false, 0, fmt.Errorf("pass %d: %w: %s", pass, err, out)
		case pass == 1:
			// Only a directory that is new passes some steps.
			if anew {
				return false, 0, fmt.Errorf("not passed: %s", out)
			}
			anew, o.Seed = true, seed+99
			if err := os.RemoveAll(filepath.Join(root, "raft")); err != nil {
				return false, 0, err
			}
			_ = os.Remove(o.acks())
		default: // it did all of it; the next one is another writer
			o.Seed += 1 << 40
		}
	}
	if o.Renew {
		if done, err := renewed(o); done || err != nil {
			return killed, 0, err
		}
	}
	acked, err = check(o)
	return killed, acked, err
}

// renewed checks a directory that was to be begun anew; done tells that it was.
func renewed(o writerOrder) (done bool, err error) {
	dir := filepath.Join(o.Root, "raft")
	id, fresh, err := LoadOrCreateID(dir)
	if err != nil || fresh {
		return false, fmt.Errorf("the id after a renewal: %s, fresh %t, %v", id, fresh, err)
	}
	if _, err := os.Stat(dir + newSuffix); err == nil {
		return false, errors.New("half a new directory lies about")
	}
	life, err := Life(dir)
	if life == "" || err != nil {
		return false, err
	}
	old, _, err := LoadOrCreateID(dir + asideSuffix)
	if err != nil || old != id {
		return true, fmt.Errorf("the directory set aside is of %s, and this one of %s: %v", old, id, err)
	}
	l, _, err := openCrash(dir)
	if err != nil {
		return true, err
	}
	if l.Bootstrapped() || l.ID() != id || l.Life() != life {
		err = fmt.Errorf("it came back as %s of life %q", l.ID(), l.Life())
	}
	return true, errors.Join(err, l.Close())
}

// waste makes the log's file mostly free pages.
func waste(dir string) error {
	s, err := openBolt(filepath.Join(dir, logFile))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.update(func(_, conf *bbolt.Bucket) error { return conf.Put([]byte("LastVoteCand"), make([]byte, 1<<20)) }); err != nil {
		return err
	}
	return s.update(func(_, conf *bbolt.Bucket) error { return conf.Put([]byte("LastVoteCand"), []byte("nobody")) })
}
