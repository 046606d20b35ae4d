package gameday

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// What lies in the directory. Each is written to a temporary file and renamed, so that a reader sees all or nothing.
const (
	gameFile     = "game.json"     // the game that the machine takes part in
	recordFile   = "fault.json"    // the fault that is under way: at most one at a time
	outcomesFile = "outcomes.json" // of the game's faults, for who asks afterwards
	ballastFile  = "ballast"       // what fills the disk
)

// maxOutcomes is how many are kept; the oldest go.
const maxOutcomes = 64

// Game is what a machine takes part in. While there is one it takes part in no other.
type Game struct {
	ID    string    `json:"id"`
	By    string    `json:"by"` // for people
	Began time.Time `json:"began"`
	Until time.Time `json:"until"` // afterwards it is over, also if nobody said so
}

// Request asks for a fault.
type Request struct {
	ID    string        `json:"id"`
	Game  string        `json:"game"`
	Fault string        `json:"fault"`
	Hold  time.Duration `json:"hold"`
	// SizeBytes bounds what memory and disk faults take; 0: as the catalogue says.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// Percent of packets that are lost.
	Percent int `json:"percent,omitempty"`
	// Target is what is hit on this machine.
	Target Target `json:"target"`
}

// Target is what a fault hits, as the node knows it.
type Target struct {
	Task string `json:"task,omitempty"` // for people
	PID  int    `json:"pid,omitempty"`  // of the container's first process

	Self  netip.AddrPort   `json:"self,omitzero"`
	Peers []netip.AddrPort `json:"peers,omitempty"` // those that are cut off

	Subnet netip.Prefix `json:"subnet,omitzero"` // of the node's containers
	Pool   netip.Prefix `json:"pool,omitzero"`   // of all containers
}

// Record is a fault that is under way: all that somebody needs who finds it and must undo it.
type Record struct {
	Request
	Began        time.Time     `json:"began"`
	Deadline     time.Time     `json:"deadline"`     // wall clock, for people
	DeadlineBoot time.Duration `json:"deadlineBoot"` // on the boot clock: the one that counts
	Boot         string        `json:"boot"`         // which run of the kernel that is
	Agent        Process       `json:"agent"`        // who began it
	Helper       Process       `json:"helper"`       // who holds it
	Backup       Process       `json:"backup"`       // who ends it if the helper does not
	Acted        bool          `json:"acted"`        // it was carried out, or is about to be
	DataDir      string        `json:"dataDir"`
	// Command starts the agent again where nobody else does; Supervised: something does, but it may give up.
	Command    []string `json:"command,omitempty"`
	WorkDir    string   `json:"workDir,omitempty"`
	Supervised bool     `json:"supervised,omitempty"`
	Freezer    string   `json:"freezer,omitempty"` // the container's freezer: a file of the cgroup file system
}

// Outcome tells how a fault ended.
type Outcome struct {
	ID     string    `json:"id"`
	Game   string    `json:"game"`
	Fault  string    `json:"fault"`
	Task   string    `json:"task,omitempty"`
	Began  time.Time `json:"began"`
	Undone time.Time `json:"undone"`
	By     string    `json:"by"` // who undid it: helper, backup, agent, stop
	// Proof that it acted: what the kernel counted. "": nothing to count.
	Proof string `json:"proof,omitempty"`
	Error string `json:"error,omitempty"`
}

// files are those of one machine.
type files struct{ dir string }

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

// read gives nil when there is no such file, and an error for one that is not what we write.
func read[T any](f files, name string) (*T, error) {
	b, err := os.ReadFile(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("%s: not a file of ours: %w", f.path(name), err)
	}
	return &v, nil
}

func (f files) write(name string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(f.dir, "."+name+"-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(b)
	if err == nil {
		err = temp.Sync() // a machine that is reset must find it
	}
	if e := temp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temp.Name(), f.path(name))
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return err
	}
	return syncDir(f.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (f files) remove(name string) error {
	err := os.Remove(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f files) addOutcome(o Outcome) error {
	all, err := read[[]Outcome](f, outcomesFile)
	if err != nil || all == nil {
		all = &[]Outcome{}
	}
	list := append(*all, o)
	return f.write(outcomesFile, list[max(0, len(list)-maxOutcomes):])
}

// sweep removes what writers that were killed have left.
func (f files) sweep() {
	left, _ := filepath.Glob(filepath.Join(f.dir, ".*-*")) // the pattern is right
	for _, name := range left {
		_ = os.Remove(name)
	}
}
