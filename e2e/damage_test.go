package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shoal/e2e/machines"
)

// spoil ends a machine's agent and changes one byte in every KiB of a file in its raft directory, all but the first 8 KiB.
func spoil(t *testing.T, m *machines.Machine, name string) {
	t.Helper()
	must(t, m.Signal(syscall.SIGKILL))
	_, err := m.AwaitEnd(patience)
	must(t, err)
	path := filepath.Join(m.DataDir(), "raft", name)
	b, err := os.ReadFile(path)
	must(t, err)
	for i := min(8<<10, len(b)/2); i < len(b); i += 1 << 10 {
		b[i] ^= 0x10
	}
	must(t, os.WriteFile(path, b, 0o600))
}

// TestDamagedLogOfALoneNodeIsRefused: nobody else has the log, so the agent says what is wrong and touches nothing.
func TestDamagedLogOfALoneNodeIsRefused(t *testing.T) {
	n := cluster(t, 1)
	m := n.Machines()[0]
	spoil(t, m, "raft.db")
	path := filepath.Join(m.DataDir(), "raft", "raft.db")
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, m.Start())
	_, err = m.AwaitEnd(patience)
	must(t, err)
	text := tail(m.LogPath(), 20)
	for _, want := range []string{"raft/raft.db is damaged: ", "restore the directory", "No other node is known"} {
		if !strings.Contains(text, want) {
			t.Errorf("the agent does not say %q:\n%s", want, text)
		}
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the damaged log was touched: %v", err)
	}
}
