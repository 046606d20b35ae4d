package runtime

import (
	"context"
	"io"
	"net"
	"time"
)

// Attach joins the caller to a container's own standard streams. Several may be attached at once: each gets all output,
// and what they send is mixed as it comes. With Spec.TTY all output goes to Stdout.
type Attach struct {
	Stdin io.Reader // nil: nothing is sent; ignored unless Spec.Stdin
	// EndStdin lets the end of Stdin (io.EOF, no other error) be the end of the container's standard input, for good; on a
	// terminal it is sent as the end-of-transmission character. Otherwise the container's input stays open.
	EndStdin       bool
	Stdout, Stderr io.Writer   // nil: discarded
	Resize         <-chan Size // nil: the terminal's size stays; read until Attach returns
}

// KeptOutput is how many bytes of each attached caller's output wait for a slow Write, and of a container with
// Spec.Attach for its first caller. Beyond that the container is held back for AttachPatience, and then output is dropped
// for that caller alone, who finds a note of how much. The log has all of it.
const KeptOutput = 4 << 20

// AttachPatience is how long a caller who takes nothing at all may hold a container back.
const AttachPatience = 10 * time.Second

// CopyPatience is how long a copy out of or into a container that does not run may hold back who wants to start or remove it.
const CopyPatience = 10 * time.Second

// Process is a process of a container, as ps tells it.
type Process struct {
	PID     int           `json:"pid"` // on the node
	Parent  int           `json:"parent"`
	User    string        `json:"user"`  // a name if the container has one for it, else its number
	State   string        `json:"state"` // R, S, D, T, Z or I, as in /proc/PID/stat
	Started time.Time     `json:"started"`
	CPU     time.Duration `json:"cpu"` // used so far
	Memory  int64         `json:"memory"`
	Command string        `json:"command"` // its arguments, joined by spaces, at most 4 KiB
}

// CopyOut says what to read out of a container's files.
type CopyOut struct {
	Path   string // in the container; absolute, or taken as such
	Follow bool   // if Path's last element is a symbolic link, copy what it points to (in the container)
}

// CopyIn says where to put an archive's entries.
type CopyIn struct {
	Path string // a directory in the container that exists
	// Owners keeps the archive's numeric owners; otherwise everything belongs to root, as with docker.
	Owners bool
	// NoOverwrite refuses to put a directory in a file's place or the other way round. It is what docker's client asks for.
	NoOverwrite bool
	// MaxBytes bounds what may be written; 0: MaxCopyBytes.
	MaxBytes int64
}

// Bounds of one copy.
const (
	MaxCopyBytes   = 1 << 40
	MaxCopyEntries = 1 << 20
)

// PathStat tells of one file in a container. Link is where a symbolic link points to, as it stands there.
type PathStat struct {
	Name   string    `json:"name"` // last element
	Mode   uint32    `json:"mode"` // io/fs.FileMode
	Size   int64     `json:"size"`
	ModAt  time.Time `json:"modAt"`
	Link   string    `json:"link,omitempty"`
	Target *PathStat `json:"target,omitempty"` // what a link leads to, if that is there; its Name is that of the path it leads to
}

// FileChange is one difference between a container's files and its image's. Kind is A, C or D: added, changed, deleted.
type FileChange struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
}

// Hands are what people do with a container while it is there.
type Hands interface {
	// Attach blocks until the container's present run has ended and all its output was passed on, and gives its exit
	// code; or until ctx ends, which leaves the container as it is. A container that was created and not started yet is
	// waited for. With Spec.Attach a container that has ended can be attached to, once, for what nobody has read yet.
	// ErrNotFound; ErrConflict when it is stopped; ErrInvalid, with the exit code 126 or 127, when its command could not
	// be executed.
	Attach(ctx context.Context, id ID, a Attach) (int, error)

	// Pause freezes all processes of a container, Resume lets them go on. Either is no error if it is so already.
	// ErrNotFound; ErrConflict unless running. Stop resumes what it stops, and Remove does.
	Pause(ctx context.Context, id ID) error
	Resume(ctx context.Context, id ID) error

	// Processes lists all processes of a container, sorted by PID; at most MaxProcesses. ErrConflict unless running.
	Processes(ctx context.Context, id ID) ([]Process, error)

	// StatPath looks at one file, whether the container runs or not. ErrNotFound if it is not there.
	StatPath(ctx context.Context, id ID, path string) (PathStat, error)

	// CopyOut writes a tar archive of a file, or of a directory with all below, whose first entry is the last element of
	// its path. Nothing outside the container's own files can be reached, whatever links and races there are. A container
	// that does not run cannot be started or removed meanwhile: whoever wants to ends the copy with ErrConflict after
	// CopyPatience.
	CopyOut(ctx context.Context, id ID, c CopyOut, to io.Writer) error

	// CopyIn unpacks a tar archive, compressed or not. No name, link or race leads out of the container's own files. An
	// error leaves what was written until then. ErrInvalid for an archive that is none or that leads outside. It gives
	// way as CopyOut does; for that, from is closed if it can be.
	CopyIn(ctx context.Context, id ID, c CopyIn, from io.Reader) error

	// Changes lists what differs from the image, sorted by path; at most MaxChanges.
	Changes(ctx context.Context, id ID) ([]FileChange, error)

	// Dial connects to an address as the container sees it ("tcp" or "udp", "127.0.0.1:80"). ErrConflict unless running.
	Dial(ctx context.Context, id ID, network, address string) (net.Conn, error)
}

// Bounds of lists.
const (
	MaxProcesses = 10_000
	MaxChanges   = 100_000
)
