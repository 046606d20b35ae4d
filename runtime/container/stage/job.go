package stage

import (
	"net/netip"
	"time"

	"shoal/runtime"
)

// Launch is what the launcher is told. It knows nothing else.
type Launch struct {
	ID         runtime.ID    `json:"id"`
	Start      int           `json:"start"`
	Dir        string        `json:"dir"`
	StateDir   string        `json:"stateDir"`
	Cgroup     string        `json:"cgroup"`
	Record     Record        `json:"record"`
	Layers     []string      `json:"layers"`  // lowest first
	Volumes    []VolumeMount `json:"volumes"` // named and anonymous
	Self       Binary        `json:"self"`
	HasNetwork bool          `json:"hasNetwork"`
	Lease      time.Duration `json:"lease,omitempty"` // until when it may live at first, on the boot clock; 0: no lease
	// Joined are the first processes of the containers whose namespaces this one joins.
	Joined map[runtime.ID]int `json:"joined,omitempty"`
	// JoinedStarts are the numbers of those containers' starts.
	JoinedStarts map[runtime.ID]int `json:"joinedStarts,omitempty"`
	// JoinedAddress is that of the container whose network is joined.
	JoinedAddress netip.Addr `json:"joinedAddress,omitzero"`
}

// Binary is the agent's own file on disk, which can be monitor and a container's init. Device and inode tell whether the
// path still leads to it: the file may have been replaced.
type Binary struct {
	Path string `json:"path"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
}

// VolumeMount is a directory of the host that may have to be filled from the image before it covers it.
type VolumeMount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	Fill     bool   `json:"fill,omitempty"`
	Subpath  string `json:"subpath,omitempty"`
}

// Exec is what an exec helper is told. The process gets the helper's own stdin, stdout and stderr, or a terminal.
type Exec struct {
	ID         runtime.ID `json:"id"`
	StateDir   string     `json:"stateDir"`
	InitPID    int        `json:"initPID"`
	Record     Record     `json:"record"`
	Args       []string   `json:"args"`
	Env        []string   `json:"env,omitempty"`
	User       string     `json:"user,omitempty"`
	WorkingDir string     `json:"workingDir,omitempty"`
	TTY        bool       `json:"tty,omitempty"`
	Privileged bool       `json:"privileged,omitempty"`
}

// Word is what the agent says after the job: to a launcher, to go on; to an exec helper, to kill its process.
type Word struct{}

// Reply is what a launcher says: that it waits for the job (Waiting), that it is at work on a volume (Filling), that the network can be attached to a process
// while the rest goes on (Attach), that the process is parked (PID), that its command runs (Started). Attach may be missing. An exec
// helper says that its process runs (PID), then how it ended (Exit).
type Reply struct {
	Waiting bool       `json:"waiting,omitempty"`
	Filling bool       `json:"filling,omitempty"`
	Attach  int        `json:"attach,omitempty"` // a process in the container's network namespace
	PID     int        `json:"pid,omitempty"`
	Started *time.Time `json:"started,omitempty"`
	Exit    *int       `json:"exit,omitempty"` // the exit code, or 128 and the signal
	Refusal *Refusal   `json:"refusal,omitempty"`
}
