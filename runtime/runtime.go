// Package runtime is the contract between a node and whatever runs its containers: what a container is asked to be,
// what it reports, and what every implementation must hold (package runtimetest checks it). It knows neither jobs nor
// other machines, and it holds no implementation: see runtime/container for the real one, runtime/fake for the scripted.
package runtime

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"
)

// ID names a container on one node. It is chosen by the caller, unique for ever, and matches [a-z0-9][a-z0-9_.-]{0,62}.
type ID string

// Error kinds a caller may test for with errors.Is. Anything else is internal to the runtime.
var (
	ErrNotFound = errors.New("not found")     // no such container or image
	ErrConflict = errors.New("conflict")      // the id exists already, a port is taken, the container is in the wrong state
	ErrInvalid  = errors.New("invalid")       // the spec cannot run anywhere as it stands; trying again does not help
	ErrNoSpace  = errors.New("no space left") // the node's disk is full; trying again later may help
	ErrDenied   = errors.New("access denied") // a registry or the kernel refused; trying again does not help
	ErrBusy     = errors.New("try again")     // a passing lack: peer or registry out of reach, kernel resource short
)

// Spec says what to run. The zero value is invalid: ID and Image are required. It is immutable after Create.
type Spec struct {
	ID     ID                `json:"id"`
	Name   string            `json:"name"`             // for people and for DNS of the container's own name, such as "web.2"
	Labels map[string]string `json:"labels,omitempty"` // opaque here; Info gives them back

	Image      string   `json:"image"`                // reference or digest; must be present (Pull) when Create is called
	Entrypoint []string `json:"entrypoint,omitempty"` // nil: the image's
	Command    []string `json:"command,omitempty"`    // nil: the image's, unless Entrypoint is set
	Env        []string `json:"env,omitempty"`        // KEY=VALUE, over the image's
	WorkingDir string   `json:"workingDir,omitempty"` // "": the image's
	User       string   `json:"user,omitempty"`       // uid[:gid] or names, "": the image's
	Hostname   string   `json:"hostname,omitempty"`   // "": Name; at most 64 bytes

	TTY   bool `json:"tty,omitempty"`
	Stdin bool `json:"stdin,omitempty"` // keep stdin open; else it is /dev/null
	// Attach keeps what it writes before the first Attach for that one; see KeptOutput.
	Attach   bool `json:"attach,omitempty"`
	Init     bool `json:"init,omitempty"`     // a small reaping init as PID 1
	ReadOnly bool `json:"readOnly,omitempty"` // root file system is read-only

	StopSignal string        `json:"stopSignal,omitempty"` // "": the image's, else SIGTERM
	StopGrace  time.Duration `json:"stopGrace,omitempty"`  // nanoseconds; 0: 10 s

	Mounts    []Mount   `json:"mounts,omitempty"`
	CapAdd    []string  `json:"capAdd,omitempty"`  // "NET_ADMIN", "CAP_NET_ADMIN" or "ALL"
	CapDrop   []string  `json:"capDrop,omitempty"` // applied before CapAdd, as Docker does
	Resources Resources `json:"resources"`
	Ports     []Port    `json:"ports,omitempty"`
	Log       LogLimits `json:"log"`

	// Lease, when it is not 0, makes the container's life hang on Renew: it does not start without, and the kernel kills
	// it when the last renewal has run out, whatever became of the agent and of the container's monitor. How long one
	// lasts is Renew's matter. It implies Init, because a first process that changes its user could not be held so.
	Lease time.Duration `json:"lease,omitempty"`
	// Network is "" for an address on the node's network, NetworkNone, NetworkHost, or Joining another container's.
	Network string `json:"network,omitempty"`
	// What few containers set; nil when they set none of it.
	Isolation *Isolation `json:"isolation,omitempty"`
	Tuning    *Tuning    `json:"tuning,omitempty"`
	Naming    *Naming    `json:"naming,omitempty"`
}

// MountType is where a mount's content comes from.
type MountType string

// The kinds of mounts.
const (
	MountBind   MountType = "bind"
	MountVolume MountType = "volume"
	MountTmpfs  MountType = "tmpfs"
)

// Mount places something into the container's file system.
type Mount struct {
	Type           MountType `json:"type"`
	Source         string    `json:"source,omitempty"` // bind: absolute host path; volume: its full name, or "" for one that lives and dies with the container
	Target         string    `json:"target"`           // absolute path in the container
	ReadOnly       bool      `json:"readOnly,omitempty"`
	CreateHostPath bool      `json:"createHostPath,omitempty"` // bind: make a missing source directory
	SizeBytes      int64     `json:"sizeBytes,omitempty"`      // tmpfs: 0 is the kernel's default (half of memory)
	Mode           uint32    `json:"mode,omitempty"`           // tmpfs: permission bits, 0 is 01777
	NoCopy         bool      `json:"noCopy,omitempty"`         // volume: do not fill it from the image at first use
	External       bool      `json:"external,omitempty"`       // volume: a missing one is an error (ErrInvalid), not made
	Propagation    string    `json:"propagation,omitempty"`    // bind: as in mount(8); "": rprivate
	NoRecurse      bool      `json:"noRecurse,omitempty"`      // bind: without what is mounted below the source
	Subpath        string    `json:"subpath,omitempty"`        // volume: the part that is mounted; must be there (ErrInvalid)
	Options        string    `json:"options,omitempty"`        // tmpfs: further ones, with commas between
}

// Resources are hard limits; 0 means none.
type Resources struct {
	NanoCPUs    int64 `json:"nanoCPUs,omitempty"`    // 1e9 is one CPU
	MemoryBytes int64 `json:"memoryBytes,omitempty"` // at least MinMemoryBytes
	PIDs        int64 `json:"pids,omitempty"`
	// MemoryReservationBytes is the soft limit (memory.low or memory.soft_limit_in_bytes).
	MemoryReservationBytes int64 `json:"memoryReservationBytes,omitempty"`
}

// MinMemoryBytes is the smallest memory limit with which a container starts: its first process is this binary
// (measured: 6 MB with a binary of 23 MB). Less is refused as ErrInvalid, with the number.
const MinMemoryBytes = 6 << 20

// Port publishes a container's port on the node.
type Port struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"` // invalid (zero): all addresses
	HostPort      uint16     `json:"hostPort,omitempty"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      string     `json:"protocol"` // "tcp" or "udp"
}

// LogLimits bound a container's log on disk. Zero values: 10 MiB and 3 files.
type LogLimits struct {
	MaxBytes int64 `json:"maxBytes,omitempty"` // of one file
	MaxFiles int   `json:"maxFiles,omitempty"`
	None     bool  `json:"none,omitempty"` // nothing is kept: Logs is ErrInvalid
}

// State is where a container is in its life. A stopped container may be started again.
type State string

// Container states.
const (
	Created State = "created"
	Running State = "running"
	Stopped State = "stopped"
)

// Info is what is known of a container at one moment.
type Info struct {
	ID     ID                `json:"id"`
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	State  State             `json:"state"`
	PID    int               `json:"pid,omitempty"` // of the container's first process, 0 unless running

	CreatedAt  time.Time `json:"createdAt,omitzero"`
	StartedAt  time.Time `json:"startedAt,omitzero"`  // of the last start
	FinishedAt time.Time `json:"finishedAt,omitzero"` // of the last exit
	Starts     int       `json:"starts,omitempty"`    // how many times it was started

	ExitCode  int    `json:"exitCode,omitempty"`  // 128+n when signal n killed it; valid when Stopped and Starts > 0
	OOMKilled bool   `json:"oomKilled,omitempty"` // the last exit came from its memory limit
	Error     string `json:"error,omitempty"`     // why the last start failed or its exit is not known
	Paused    bool   `json:"paused,omitempty"`    // running, and frozen

	Resources Resources `json:"resources"` // limits that it has, or will have when it runs

	Image   string     `json:"image"`            // digest that it runs
	Address netip.Addr `json:"address,omitzero"` // on the node's network
	Ports   []Port     `json:"ports,omitempty"`  // as bound: HostPort is never 0
	// Warnings tell what of the spec this machine could not do and left out, where that is no reason to fail.
	Warnings []string `json:"warnings,omitempty"`
	// Joined are the containers whose namespaces its last start joined, and the number of their start then; nil for most.
	// Where that is no longer a container's Starts, its namespaces are gone, and this one is in what is left of them.
	Joined map[ID]int `json:"joined,omitempty"`
}

// Image is what Pull learned; Health is the image's own HEALTHCHECK, nil when it has none.
type Image struct {
	Ref       string        `json:"ref"`
	Digest    string        `json:"digest"`
	SizeBytes int64         `json:"sizeBytes"`
	Health    *HealthConfig `json:"health,omitempty"`
}

// HealthConfig is an image's HEALTHCHECK as Docker writes it: Test[0] is CMD, CMD-SHELL or NONE. Zero durations and
// retries mean Docker's defaults.
type HealthConfig struct {
	Test                                          []string
	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       int
}

// Exec is a further process in a running container. Stdin nil is /dev/null; Stdout and Stderr nil discard. With TTY
// all output goes to Stdout. Resize may be nil; it is read until Exec returns.
type Exec struct {
	Args           []string
	Env            []string
	WorkingDir     string // "": the container's
	User           string // "": the container's
	TTY            bool
	Privileged     bool // all capabilities, whatever the container has
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
	Started        func() // nil, or called once when the process runs
	// Leave, once closed, ends Exec with an error while the process goes on, without its streams; nil: never.
	Leave <-chan struct{}
}

// Size of a terminal in characters.
type Size struct{ Rows, Cols uint16 }

// Stream of a log line.
type Stream string

// The two streams; a container with a TTY writes only to Stdout.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// LogLine is one line, without its newline. Partial marks a piece of a line longer than 16 KiB that goes on in the next.
type LogLine struct {
	Time    time.Time
	Stream  Stream
	Partial bool
	Text    []byte // the callee's until the callback returns
}

// LogQuery selects lines. The zero value means everything that is kept, then return.
type LogQuery struct {
	Tail   int       // last n lines; 0 means all, -1 none
	Since  time.Time // zero: no bound
	Follow bool      // go on until ctx ends or the container is removed
}

// Stats are live figures of one container.
type Stats struct {
	CPU         time.Duration // total CPU time used
	MemoryBytes int64         // in use, without page cache that can be dropped at once
	MemoryLimit int64         // 0: none
	PIDs        int64

	NetReceived, NetSent    int64 // bytes through its network interfaces but for lo, since it was started
	BlockRead, BlockWritten int64 // bytes from and to block devices
}

// EventKind tells what happened.
type EventKind string

// Kinds of events.
const (
	EventStarted EventKind = "started"
	EventExited  EventKind = "exited"
	EventOOM     EventKind = "oom"    // the kernel killed something in it; it may live on
	EventPaused  EventKind = "paused" // it was paused or resumed
	EventLost    EventKind = "lost"   // events may have been missed: List again
)

// Event is a hint that a container changed; Inspect tells the truth. ID is empty for EventLost.
type Event struct {
	Kind EventKind
	ID   ID
	At   time.Time
}

// Runtime runs containers on this machine. All methods are safe for concurrent use; calls on one container are
// serialised by the runtime. Containers outlive the process that created them: a new Runtime over the same directory
// adopts them, finds exit codes and logs of the time between, and removes what was left half-made.
type Runtime interface {
	Hands

	// Pull makes the image present, from wherever the runtime was told to look, and blocks until it is. progress may be
	// nil and is called from one goroutine at a time. ErrNotFound, ErrDenied, ErrNoSpace, ErrBusy.
	Pull(ctx context.Context, ref string, progress func(done, total int64)) (Image, error)

	// Present tells of an image that is here, and keeps it for a while as Pull does. It asks no other machine: ErrNotFound
	// where Pull would have to.
	Present(ctx context.Context, ref string) (Image, error)

	// Create prepares a container: root file system, address, mounts. Nothing of it runs. On error nothing is left.
	// ErrConflict if the id exists, ErrNotFound if the image is not present, ErrInvalid, ErrNoSpace.
	Create(ctx context.Context, s Spec) (Info, error)

	// Start runs a created or stopped container and returns once its process was executed. A command that cannot be
	// executed is ErrInvalid, and the container is Stopped with exit code 127 or 126 and Error set.
	Start(ctx context.Context, id ID) (Info, error)

	// Boot is the clock of leases: since the machine was booted, also counting while it was suspended (CLOCK_BOOTTIME).
	// Nobody can set it.
	Boot() time.Duration

	// Renew lets a leased container live until a moment of Boot's clock; before its start, it is what Start needs
	// (ErrConflict without one that lies ahead). A moment earlier than one given before changes nothing. It does not
	// wait for other calls on the container. Renewing one that has ended, or that has no lease, is ErrConflict or no
	// effect at its next start. ErrNotFound.
	Renew(ctx context.Context, id ID, until time.Duration) error

	// Stop sends the stop signal, waits for the grace period (grace < 0: the spec's), then kills. It returns when the
	// container is Stopped; stopping what does not run is no error.
	Stop(ctx context.Context, id ID, grace time.Duration) error

	// Update changes what can be changed of a container, whether it runs or not, at once and for its further starts. After an
	// error nothing is changed. ErrNotFound, ErrInvalid, ErrConflict when what it uses now is more than the new limits.
	Update(ctx context.Context, id ID, to Change) (Info, error)

	// Signal sends a signal ("SIGHUP", "HUP" or "1") to the first process. ErrConflict unless running.
	Signal(ctx context.Context, id ID, signal string) error

	// Remove kills if needed and removes everything of the container but named volumes. Idempotent: removing what is
	// not there is nil.
	Remove(ctx context.Context, id ID) error

	// Inspect tells the present state. ErrNotFound.
	Inspect(ctx context.Context, id ID) (Info, error)

	// List tells all containers, sorted by id.
	List(ctx context.Context) ([]Info, error)

	// Events delivers from now until ctx ends, then closes the channel. A reader too slow gets EventLost instead of
	// what it missed. Call it before List to miss nothing.
	Events(ctx context.Context) <-chan Event

	// Exec runs a further process and blocks until it ended and its output was copied; the int is its exit code
	// (128+n for signal n). When ctx ends the process is killed; when e.Leave is closed it goes on. ErrNotFound, ErrConflict unless running, ErrInvalid
	// when the command cannot be executed (exit codes 127, 126).
	Exec(ctx context.Context, id ID, e Exec) (int, error)

	// Logs calls line for each selected line, oldest first, and stops at its first error, which it returns.
	Logs(ctx context.Context, id ID, q LogQuery, line func(LogLine) error) error

	// Stats tells live figures. ErrConflict unless running.
	Stats(ctx context.Context, id ID) (Stats, error)
}
