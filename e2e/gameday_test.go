package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"shoal/e2e/machines"
	"shoal/node/gameday"
)

// gameReport is what the tests read of a game's report.
type gameReport struct {
	Seed     uint64      `json:"seed"`
	Why      string      `json:"why"`
	Broken   bool        `json:"broken"`
	Faults   []gameFault `json:"faults"`
	Promises []struct {
		Name     string `json:"name"`
		Checked  int    `json:"checked"`
		Breaches []struct {
			Text string `json:"text"`
		} `json:"breaches"`
	} `json:"promises"`
	Left []string `json:"left"`
}

type gameFault struct {
	Fault   string `json:"fault"`
	On      string `json:"on"`
	Skipped string `json:"skipped"`
	Failed  string `json:"failed"`
	Proof   string `json:"proof"`
	UndidIt string `json:"undoneBy"`
}

// gameStage is a cluster of three with a job of six tasks and a fenced service.
func gameStage(t *testing.T) *machines.Net {
	t.Helper()
	n := cluster(t, 3)
	m := n.Machines()[0]
	loadBusybox(t, m)
	sleepers(t, m, "web", replicas)
	runCompose(t, m, "shop", fmt.Sprintf(`
services:
  db:
    image: %s
    command: [sleep, "100000"]
    init: true
    stop_grace_period: 1s
    x-failover: {mode: fenced, lease: 5s}
`, busyboxImage))
	return n
}

// noTraces complains about anything of game days that is left on the machines, but for an empty directory.
func noTraces(n *machines.Net) error {
	for _, m := range n.Machines() {
		if left, _ := os.ReadDir(gameday.Dir(m.DataDir())); len(left) != 0 {
			return fmt.Errorf("%s: %v is left in the directory", m.Name, left)
		}
		if out, err := m.Command("nft", "list", "tables").Output(); err != nil || strings.Contains(string(out), "shoal_chaos") {
			return fmt.Errorf("%s: tables %s, %v", m.Name, out, err)
		}
		for pid, line := range m.Processes() {
			if strings.Contains(line, "chaos-helper") {
				return fmt.Errorf("%s: process %d %s", m.Name, pid, line)
			}
		}
	}
	list, err := nodes(n.Machines()[0])
	if err != nil {
		return err
	}
	for i := range list.Nodes {
		if v := list.Nodes[i].Labels["shoal.chaos.probe"]; v != "" {
			return fmt.Errorf("node %s has the label of the probes: %s", list.Nodes[i].Name, v)
		}
	}
	return nil
}

// play plays a game on a machine and gives its report, with the exit code.
func play(t *testing.T, m *machines.Machine, args ...string) (gameReport, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	res := m.ShoalContext(ctx, nil, append([]string{"chaos", "--json"}, args...)...)
	t.Logf("shoal chaos %s: code %d\n%s", strings.Join(args, " "), res.Code, res.Stderr)
	var r gameReport
	if err := json.Unmarshal([]byte(res.Stdout), &r); err != nil {
		t.Fatalf("the report is not JSON (%v): %s", err, res)
	}
	return r, res.Code
}

// TestGameDays plays on one cluster: what one test leaves is what the next one would stumble over.
func TestGameDays(t *testing.T) {
	if testing.Short() {
		t.Skip("a game over all faults takes its time")
	}
	n := gameStage(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *machines.Net)
	}{
		{"faults end when everybody is dead", faultsEndWhenEverybodyIsDead},
		{"a broken promise is reported", brokenPromiseIsReported},
		// The last, because it leaves agents that the machines did not start themselves.
		{"a game over all safe faults", gameOverAllSafeFaults},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, n) }) {
			return // what follows would fail for this one
		}
		eventually(t, "nothing to be left", func() error { return noTraces(n) })
		settled(t, n, n.Machines()[0], "web", replicas)
	}
}

// gameOverAllSafeFaults: each safe fault is played and seen to act, no promise is broken, nothing is left, and the
// cluster's history says what was done.
func gameOverAllSafeFaults(t *testing.T, n *machines.Net) {
	m := n.Machines()[0]
	dir := t.TempDir()
	html, text := filepath.Join(dir, "game.html"), filepath.Join(dir, "game.txt")

	before := tree(t, n)
	first := shoal(t, m, "chaos", "--for", "10m", "--seed", "5", "--dry-run")
	if again := shoal(t, m, "chaos", "--for", "10m", "--seed", "5", "--dry-run"); again != first || !strings.Contains(first, "kill-agent") {
		t.Errorf("two dry runs of one seed:\n%s\n%s", first, again)
	}
	if after := tree(t, n); after != before {
		t.Errorf("a dry run left traces: %s, before %s", after, before)
	}

	safe := gameday.Names(gameday.Safe)
	// Long enough for all of them also on a busy machine: the game ends with its schedule.
	r, code := play(t, m, "--for", "5m", "--rounds", fmt.Sprint(len(safe)), "--hold", "700ms", "--pause", "100ms", "--seed", "5", "--size", "16m", "--within", "2m", "--report", html, "--report", text)
	if code != 0 || r.Broken || r.Why != "" {
		t.Errorf("code %d, broken %v, ended by %q: %+v", code, r.Broken, r.Why, r.Promises)
	}
	played := map[string]bool{}
	for _, f := range r.Faults {
		if f.Failed != "" || f.Skipped == "" && f.Proof == "" {
			t.Errorf("%s on %s: failed %q, proof %q", f.Fault, f.On, f.Failed, f.Proof)
		}
		if f.Skipped == "" {
			played[f.Fault] = true
		}
	}
	for _, name := range safe {
		if !played[name] {
			t.Errorf("%s was not played", name)
		}
	}
	for _, p := range []string{html, text} {
		b, err := os.ReadFile(p)
		if err != nil || !strings.Contains(string(b), "no promise was broken") {
			t.Errorf("%s: %v, %d bytes", p, err, len(b))
		}
	}
	events := shoal(t, m, "events")
	for _, want := range []string{"a game day begins", "on purpose", "the game day is over"} {
		if !strings.Contains(events, want) {
			t.Errorf("events do not say %q", want)
		}
	}
}

// tree says what of game days is on the machines.
func tree(t *testing.T, n *machines.Net) string {
	t.Helper()
	var out []string
	for _, m := range n.Machines() {
		found, err := filepath.Glob(gameday.Dir(m.DataDir()) + "*")
		must(t, err)
		out = append(out, found...)
	}
	return strings.Join(append(out, shoal(t, n.Machines()[0], "events", "--json")), "\n")
}

// faultsEndWhenEverybodyIsDead: the client is killed, and the agent of the machine that is cut off and frozen too; the
// helper undoes the fault nevertheless. And stop undoes everything, wherever it is asked.
func faultsEndWhenEverybodyIsDead(t *testing.T, n *machines.Net) {
	m, other := n.Machines()[0], n.Machines()[1]
	var said, complaints lockedText // by the last game
	begin := func(fault, hold string) *exec.Cmd {
		t.Helper()
		eventually(t, "a cluster that lets a game begin", func() error {
			if res := m.Shoal("chaos", "--for", "1m", "--dry-run"); res.Code != 0 {
				return res
			}
			return nil
		})
		said.reset()
		complaints.reset()
		c := exec.Command(binary, "--host", m.Socket(), "chaos", "--for", "1m", "--faults", fault, "--hold", hold, "--nodes", other.Name)
		c.Stdout, c.Stderr = &said, &complaints
		must(t, c.Start())
		t.Cleanup(func() {
			_ = c.Process.Kill()
			_ = c.Wait()
		})
		eventually(t, fault+" to be carried out", func() error {
			st, err := gameday.StatusOf(other.DataDir())
			if err == nil && (st.Fault == nil || !st.Fault.Acted) {
				err = fmt.Errorf("it is not: %+v; the game says %s", st, complaints.String())
			}
			return err
		})
		return c
	}

	c := begin(gameday.Partition, "4s")
	must(t, c.Process.Kill())
	must(t, other.Signal(syscall.SIGKILL))
	if out, err := other.Command("nft", "list", "tables").Output(); err != nil || !strings.Contains(string(out), "shoal_chaos") {
		t.Errorf("the node is not cut off: %s, %v", out, err)
	}
	eventually(t, "the helper to undo it", func() error {
		st, err := gameday.StatusOf(other.DataDir())
		if err == nil && (st.Fault != nil || len(st.Outcomes) != 1 || st.Outcomes[0].By != "helper") {
			err = fmt.Errorf("%+v", st)
		}
		return err
	})
	must(t, other.Start())
	settled(t, n, m, "web", replicas)
	shoal(t, m, "chaos", "stop")
	must(t, noTraces(n))

	// Frozen for long: what ends it works without the agent.
	c = begin(gameday.FreezeAgent, "5m")
	if res := m.Shoal("chaos", "--for", "1m"); res.Code != 4 || !strings.Contains(res.Stderr, "chaos") {
		t.Errorf("a second game meanwhile: %v", res)
	}
	if out, err := other.Command(binary, "chaos", "stop", "--local", "--data-dir", other.DataDir()).CombinedOutput(); err != nil || !strings.Contains(string(out), "undone: freeze-agent") {
		t.Errorf("stop --local: %s, %v", out, err)
	}
	_ = c.Wait()
	eventually(t, "nothing to be left", func() error { return noTraces(n) })
	settled(t, n, m, "web", replicas)

	// Ctrl-C ends the game, undoes everything, and still writes the report.
	c = begin(gameday.Partition, "5s")
	must(t, c.Process.Signal(os.Interrupt))
	if err := c.Wait(); c.ProcessState.ExitCode() != 130 || !strings.Contains(said.String(), "It ended early: interrupted") {
		t.Errorf("interrupted: %v\n%s", err, said.String())
	}
	must(t, noTraces(n))
	settled(t, n, m, "web", replicas)

	// Where the node can be asked, stop ends it from anywhere.
	c = begin(gameday.CPU, "5m")
	shoal(t, n.Machines()[2], "chaos", "stop")
	_ = c.Wait()
	eventually(t, "nothing to be left", func() error { return noTraces(n) })
	if events := shoal(t, m, "events"); !strings.Contains(events, "was stopped by") {
		t.Error("events do not say that the game was stopped")
	}
}

// lockedText is what a program says while others read it.
type lockedText struct {
	mu   sync.Mutex
	text []byte
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

func (l *lockedText) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = nil
}

// brokenPromiseIsReported is the control: what is bound to a machine that is away does not run again in time, and the
// game must say so.
func brokenPromiseIsReported(t *testing.T, n *machines.Net) {
	m, other := n.Machines()[0], n.Machines()[1]
	runCompose(t, m, "pinned", fmt.Sprintf(`
services:
  one:
    image: %s
    command: [sh, -c, "sleep 100000"]
    restart: "no"
    stop_grace_period: 1s
    deploy:
      placement: {constraints: [node.hostname == %s]}
      restart_policy: {condition: none}
`, busyboxImage, other.Name))
	r, code := play(t, m, "--for", "3s", "--faults", gameday.KillTask, "--nodes", other.Name, "--jobs", "pinned", "--within", "1s", "--pause", "100ms", "--seed", "1")
	if code != 9 || !r.Broken {
		t.Errorf("code %d, broken %v: %+v", code, r.Broken, r.Promises)
	}
	if !slices.ContainsFunc(r.Faults, func(f gameFault) bool { return f.Proof != "" }) {
		t.Errorf("the task was not seen to be killed: %+v", r.Faults)
	}
	shoal(t, m, "stop", "pinned")
	shoal(t, m, "rm", "pinned")
}
