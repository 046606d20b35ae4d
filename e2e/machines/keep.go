package machines

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// stateFile, in the Net's directory, lets another process take over what one has made.
const stateFile = "machines.json"

type savedNet struct {
	ID       string         `json:"id"`
	Binary   string         `json:"binary"`
	LogLevel string         `json:"logLevel,omitempty"`
	Keep     bool           `json:"keep"`
	OwnDir   bool           `json:"ownDir"`
	Holder   *process       `json:"holder"`
	Machines []savedMachine `json:"machines"`
	Before   []string       `json:"before"` // of the ledger; its namespaces are found anew
}

type savedMachine struct {
	Name    string         `json:"name"`
	Num     int            `json:"num"`
	Addr    netip.Addr     `json:"addr"`
	Options MachineOptions `json:"options"`
	Init    *process       `json:"init,omitempty"` // none: off
	First   int            `json:"first,omitempty"`
	Agent   *process       `json:"agent,omitempty"` // none: not running
}

// Save writes down what there is, so that Open in another process can go on with it, or clean it up.
func (n *Net) Save() error {
	s := savedNet{ID: n.id, Binary: n.opts.Binary, LogLevel: n.opts.LogLevel, Keep: n.opts.Keep, OwnDir: n.ownDir, Holder: n.holder}
	for _, m := range n.Machines() {
		s.Machines = append(s.Machines, m.saved())
	}
	n.mu.Lock()
	s.Before = slices.Sorted(maps.Keys(n.ledger.before))
	n.mu.Unlock()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(n.dir, stateFile)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (m *Machine) saved() savedMachine {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := savedMachine{Name: m.Name, Num: m.num, Addr: m.Addr, Options: m.Options, Init: m.init, First: m.pid}
	if m.agent != nil && !m.agent.ended() {
		s.Agent = &process{PID: m.agent.pid, Begun: begun(m.agent.pid)}
	}
	return s
}

// Open takes over what another process has made and saved in a directory. What ended meanwhile is off.
func Open(dir string) (*Net, error) {
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, fmt.Errorf("no machines are kept in %s: %w", dir, err)
	}
	var s savedNet
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, stateFile), err)
	}
	if s.ID == "" || s.Holder == nil {
		return nil, fmt.Errorf("read %s: it names no switch", filepath.Join(dir, stateFile))
	}
	n := &Net{opts: Options{Binary: s.Binary, Dir: dir, LogLevel: s.LogLevel, Keep: s.Keep}, id: s.ID, dir: dir, ownDir: s.OwnDir, holder: s.Holder, driver: namespaces{}}
	n.ledger = &ledger{before: map[string]bool{}, spaces: map[string]tenancy{}}
	for _, thing := range s.Before {
		n.ledger.before[thing] = true
	}
	if s.Holder.alive() {
		n.note(s.Holder.PID)
	}
	for _, sm := range s.Machines {
		m := n.machine(sm.Num, sm.Options)
		if sm.Init != nil && sm.Init.alive() {
			m.init, m.pid = sm.Init, sm.First
			n.note(m.pid)
		}
		if sm.Agent != nil && sm.Agent.alive() {
			m.agent = adopt(sm.Agent)
		}
		n.machines = append(n.machines, m)
	}
	return n, nil
}

// adopt watches an agent that is not our child: its exit code remains unknown.
func adopt(p *process) *agent {
	a := &agent{pid: p.PID, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		for p.alive() {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return a
}
