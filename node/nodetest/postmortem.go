package nodetest

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"

	"shoal/consensus/job"
	"shoal/consensus/state"
)

// logTail keeps the last that the nodes logged, for a failure; SHOAL_SIM_LOGS names the directory where it is written.
type logTail struct {
	mu    sync.Mutex
	lines [][]byte
}

const maxLogLines = 20_000

func (l *logTail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == maxLogLines {
		l.lines = append(l.lines[:0], l.lines[maxLogLines/2:]...)
	}
	l.lines = append(l.lines, bytes.Clone(b))
	return len(b), nil
}

func (l *logTail) save(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = os.WriteFile(path, bytes.Join(l.lines, nil), 0o600) // the failure itself is told in any case
}

// postMortem tells what the leader has of every task, and what the nodes have.
func (s *sim) postMortem() string {
	var b strings.Builder
	if l := s.Leader(); l != nil {
		writeTables(&b, l.node.State().View())
	} else {
		b.WriteString("no leader\n")
	}
	for _, m := range s.Machines {
		if m.node == nil || !m.node.Started() {
			continue
		}
		d, err := m.node.Debug(s.t.Context())
		fmt.Fprintf(&b, "%s holds=%v: %+v %v\n", m.Name, m.node.HasState(), d, err)
	}
	return b.String()
}

func writeTables(b *strings.Builder, v *state.View) {
	for _, n := range v.Nodes() {
		fmt.Fprintf(b, "node %s %.6s %s drained=%v %v\n", n.Name, n.ID, n.State, n.Drained, n.Labels)
	}
	for _, t := range v.Tasks() {
		st := v.Status(t.ID)
		if t.Desired != job.DesiredRun && st != nil && st.State.Terminal() {
			continue
		}
		fmt.Fprintf(b, "%s %s/%s %.6s on %.6s index %d %s", t.ID, t.Job, t.Name(), t.Digest, t.Node, t.Index, t.Desired)
		if st != nil {
			fmt.Fprintf(b, ": %s %s seq %d %q", st.State, st.Health, st.Seq, st.Message)
		}
		b.WriteByte('\n')
	}
	for _, k := range v.Blocked("") {
		fmt.Fprintf(b, "blocked %s/%s: %s\n", k.Job, k.Service, k.Reason)
	}
}
