//go:build linux

package gameday

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 30 * time.Second

// TestMain is also the helper, the backup, the load and the agent of the tests.
func TestMain(m *testing.M) {
	command := []string{"/proc/self/exe", "helper"}
	if exe, err := os.Executable(); err == nil {
		command[0] = exe
	}
	if a := os.Args[1:]; len(a) > 1 && a[0] == "helper" {
		var err error
		switch a[1] {
		case "hold":
			err = Hold(a[2], a[3], command, os.NewFile(3, "agent"))
		case "backup":
			err = Backup(a[2], a[3])
		case "load":
			size, _ := strconv.ParseInt(a[4], 10, 64)
			err = Load(a[2], a[3], size)
		case "agent":
			err = agent(a[2], a[3], command)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// agent is a process with a Keeper and the lock of its data directory; it begins the fault that it is told to, once.
func agent(dataDir, fault string, command []string) error {
	f, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	k := keeper(dataDir, command)
	if _, err := os.Stat(filepath.Join(dataDir, "begun")); err != nil {
		_ = os.WriteFile(filepath.Join(dataDir, "begun"), nil, 0o600)
		if err := k.Begin(game("g")); err != nil {
			return err
		}
		hold, _ := time.ParseDuration(os.Getenv("TEST_HOLD"))
		if _, err := k.Start(context.Background(), Request{ID: "f", Game: "g", Fault: fault, Hold: hold}); err != nil {
			return err
		}
	}
	return k.Run(context.Background())
}

func keeper(dataDir string, command []string) *Keeper {
	return New(Config{DataDir: dataDir, Policy: Allow, Helper: command, Logger: slog.New(slog.DiscardHandler)})
}

func game(id string) Game {
	return Game{ID: id, By: "a test", Began: time.Now(), Until: time.Now().Add(time.Hour)}
}

func self(t *testing.T) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{exe, "helper"}
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func status(t *testing.T, dir string) Status {
	t.Helper()
	st, err := StatusOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// leftovers are processes of ours that have the directory in their command line.
func leftovers(dir string) []string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		b, _ := os.ReadFile(p)
		pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
		if strings.Contains(string(b), Dir(dir)) && begun(pid) != "" {
			out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

func TestADiskFaultIsUndoneAtItsDeadlineAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	k := keeper(dir, self(t))
	if err := k.Begin(game("g")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Start(context.Background(), Request{ID: "f", Game: "g", Fault: BusyDisk, Hold: time.Second, SizeBytes: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(Dir(dir), ballastFile)
	await(t, "the file to be written", func() bool {
		if o := status(t, dir).Outcomes; len(o) > 0 {
			t.Fatalf("it ended: %+v", o)
		}
		_, err := os.Stat(ballast)
		return err == nil
	})
	if _, err := k.Start(context.Background(), Request{ID: "g", Game: "g", Fault: BusyDisk, Hold: time.Second}); !errors.Is(err, ErrBusy) {
		t.Errorf("a second fault meanwhile: %v, want busy", err)
	}
	if err := k.Begin(game("other")); !errors.Is(err, ErrBusy) {
		t.Errorf("a second game meanwhile: %v, want busy", err)
	}
	await(t, "its end", func() bool { return status(t, dir).Fault == nil })
	o := status(t, dir).Outcomes
	if len(o) != 1 || o[0].By != "helper" || o[0].Error != "" {
		t.Errorf("outcomes %+v, want one by the helper", o)
	}
	if held := o[0].Undone.Sub(o[0].Began); held < time.Second {
		t.Errorf("it was held for %v, want a second", held)
	}
	if _, err := os.Stat(ballast); err == nil {
		t.Error("the file is still there")
	}
	if _, err := k.Stop(""); err != nil {
		t.Fatal(err)
	}
	await(t, "all processes to end", func() bool { return len(leftovers(dir)) == 0 })
	if left, _ := os.ReadDir(Dir(dir)); len(left) != 0 {
		t.Errorf("left in the directory: %v", left)
	}
}

// startAgent starts an agent that begins a fault, and waits until the fault is carried out.
func startAgent(t *testing.T, dir, fault string, hold time.Duration) (*exec.Cmd, *Record) {
	t.Helper()
	command := append(self(t), "agent", dir, fault)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "TEST_HOLD="+hold.String())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_, _ = StopOn(dir)
		// An agent that was started again has nobody else.
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range all {
			b, _ := os.ReadFile(p)
			pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
			if strings.Contains(string(b), "agent\x00"+dir+"\x00") {
				_ = processOf(pid).kill()
			}
		}
	})
	var r *Record
	await(t, fault+" to be carried out", func() bool {
		st, err := StatusOf(dir)
		if err == nil && st.Fault != nil && st.Fault.Acted {
			r = st.Fault
		}
		return r != nil || err == nil && len(st.Outcomes) > 0
	})
	if r == nil && hold > 0 {
		t.Fatalf("%s was over before anybody saw it, though it was to hold for %v", fault, hold)
	}
	return cmd, r
}

func state(pid int) string {
	if f := stat(pid); len(f) > 0 {
		return f[0]
	}
	return ""
}

func TestAFrozenAgentIsThawedByTheHelper(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := startAgent(t, dir, FreezeAgent, 3*time.Second)
	await(t, "the agent to be frozen", func() bool { return state(cmd.Process.Pid) == "T" })
	await(t, "the agent to be thawed", func() bool { return state(cmd.Process.Pid) == "S" })
	await(t, "the outcome", func() bool { return len(status(t, dir).Outcomes) == 1 })
	if o := status(t, dir).Outcomes[0]; o.By != "helper" || !strings.Contains(o.Proof, "state T") {
		t.Errorf("outcome %+v", o)
	}
}

func TestTheBackupThawsWhenTheHelperWasKilled(t *testing.T) {
	dir := t.TempDir()
	cmd, r := startAgent(t, dir, FreezeAgent, 3*time.Second)
	if err := r.Helper.kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "the outcome", func() bool { return len(status(t, dir).Outcomes) == 1 })
	if o := status(t, dir).Outcomes[0]; o.By != "backup" {
		t.Errorf("outcome %+v, want one by the backup", o)
	}
	await(t, "the agent to be thawed", func() bool { return state(cmd.Process.Pid) == "S" })
}

func TestTheAgentUndoesWhatNobodyHolds(t *testing.T) {
	dir := t.TempDir()
	_, r := startAgent(t, dir, BusyDisk, time.Minute)
	for _, p := range []Process{r.Backup, r.Helper} {
		if err := p.kill(); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the outcome", func() bool { return len(status(t, dir).Outcomes) == 1 })
	if o := status(t, dir).Outcomes[0]; o.By != "agent" {
		t.Errorf("outcome %+v, want one by the agent", o)
	}
	if _, err := os.Stat(filepath.Join(Dir(dir), ballastFile)); err == nil {
		t.Error("the file is still there")
	}
}

func TestAKilledAgentIsStartedAgainWhereNothingElseDoes(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := startAgent(t, dir, KillAgent, 0)
	_ = cmd.Wait()
	await(t, "the outcome", func() bool { return len(status(t, dir).Outcomes) == 1 })
	await(t, "an agent that has the directory", func() bool { return agentRuns(dir) })
	if o := status(t, dir).Outcomes[0]; o.By != "helper" || o.Error != "" {
		t.Errorf("outcome %+v", o)
	}
}

func TestStopUndoesWithoutAnAgent(t *testing.T) {
	dir := t.TempDir()
	cmd, r := startAgent(t, dir, FreezeAgent, time.Minute)
	await(t, "the agent to be frozen", func() bool { return state(cmd.Process.Pid) == "T" })
	o, err := StopOn(dir)
	if err != nil || o == nil || o.By != "stop" {
		t.Fatalf("stop: %+v, %v", o, err)
	}
	await(t, "the agent to be thawed", func() bool { return state(cmd.Process.Pid) == "S" })
	if r.Helper.alive() || r.Backup.alive() {
		t.Error("a helper lives on")
	}
	if st := status(t, dir); st.Fault != nil || st.Game != nil || len(st.Outcomes) != 0 {
		t.Errorf("left: %+v", st)
	}
}

func TestARecordOfAnotherRunOfTheKernelIsALeftover(t *testing.T) {
	dir := t.TempDir()
	f := files{Dir(dir)}
	r := &Record{Request: Request{ID: "f", Game: "g", Fault: DiskFull}, Boot: "another", Helper: processOf(os.Getpid()), DeadlineBoot: bootClock() + time.Hour}
	r.Helper.Begun = "1" // whoever has that id now is somebody else
	if err := f.write(recordFile, r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path(ballastFile), make([]byte, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keeper(dir, nil).look(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.path(ballastFile)); err == nil {
		t.Error("the file is still there")
	}
	if st := status(t, dir); st.Fault != nil || len(st.Outcomes) != 1 {
		t.Errorf("after the look: %+v", st)
	}
}

func TestWhatAnAgentForbids(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		fault  string
		want   error
	}{
		{Never, KillTask, ErrForbidden}, {Mild, PowerOff, ErrForbidden}, {Mild, DiskFull, ErrForbidden}, {Allow, "no-such", ErrInvalid},
	} {
		dir := t.TempDir()
		k := New(Config{DataDir: dir, Policy: c.policy, Logger: slog.New(slog.DiscardHandler)})
		err := k.Begin(game("g"))
		if c.policy != Never {
			if err != nil {
				t.Fatal(err)
			}
			_, err = k.Start(context.Background(), Request{ID: "f", Game: "g", Fault: c.fault})
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s with --chaos=%s: %v, want %v", c.fault, c.policy, err, c.want)
		}
	}
	k := keeper(t.TempDir(), nil)
	if _, err := k.Start(context.Background(), Request{ID: "f", Game: "g", Fault: KillTask}); !errors.Is(err, ErrNoGame) {
		t.Errorf("a fault without a game: %v", err)
	}
	over := game("g")
	over.Until = time.Now().Add(-time.Second)
	if err := k.Begin(over); !errors.Is(err, ErrInvalid) {
		t.Errorf("a game that is over: %v", err)
	}
}

func TestTheCatalogue(t *testing.T) {
	for _, f := range Catalogue {
		if f.What == "" || f.Undo == "" || f.Needs == "" || f.Scope == "" || f.Least > f.Most || f.Most > MaxHold {
			t.Errorf("%s is not described: %+v", f.Name, f)
		}
		if f.Destructive && !strings.Contains(f.Needs, "--yes") {
			t.Errorf("%s is destructive and does not say that it needs --yes", f.Name)
		}
	}
	if slices.Contains(Names(Safe), PowerOff) || !slices.Contains(Names(Safe), KillAgent) {
		t.Errorf("safe ones are %v", Names(Safe))
	}
}

func TestAvailableMemory(t *testing.T) {
	if got := availableMemory("MemTotal: 1000 kB\nMemAvailable:     512 kB\n"); got != 512<<10 {
		t.Errorf("%d", got)
	}
	if got := availableMemory("nothing"); got != 0 {
		t.Errorf("%d", got)
	}
}
