package stage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"shoal/runtime"
)

// Names in a container's directory. DESIGN.md lists who writes each and when.
const (
	FileRecord   = "container.json" // its presence is what makes the directory a container
	FileStart    = "start.json"     // the last start: written by the launcher just before the command is executed
	FileExit     = "exit"           // the last exit: written by the monitor
	fileExitTemp = "exit.tmp"       // made in full before the start, so that a full disk cannot lose the exit
	FileLock     = "lock"           // locked as long as the launcher or monitor lives
	FileHosts    = "hosts"
	FileHostname = "hostname"
	FileResolv   = "resolv.conf"
	FileStdin    = "stdin"
	DirUpper     = "upper"
	DirWork      = "work"
	DirRootfs    = "rootfs"
	DirLog       = "log"
	DirVolumes   = "volumes"
	DirInit      = "init" // mount point for the init binary
)

// exitFileBytes is the fixed size of the exit file; monitor.c has the same number.
const exitFileBytes = 256

// ImageConfig is what counts of an image's configuration once its container was made.
type ImageConfig struct {
	Entrypoint []string            `json:",omitempty"`
	Cmd        []string            `json:",omitempty"`
	Env        []string            `json:",omitempty"`
	WorkingDir string              `json:",omitempty"`
	User       string              `json:",omitempty"`
	Volumes    map[string]struct{} `json:",omitempty"`
	StopSignal string              `json:",omitempty"`
}

// Record is what Create decided. Update changes its spec, and a start the address, where the old one was lost.
type Record struct {
	Spec    runtime.Spec `json:"spec"`
	Config  ImageConfig  `json:"config"` // the image's, as it was at Create
	Image   string       `json:"image"`  // digest
	Address netip.Addr   `json:"address,omitzero"`
	// UserBase is the first of the 65,536 users of its own; 0: it has the machine's.
	UserBase uint32 `json:"userBase,omitempty"`
	// Warnings are what of the spec is left out.
	Warnings  []string  `json:"warnings,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}

// StartRecord tells of the last start that reached the command.
type StartRecord struct {
	Start int       `json:"start"` // counts from 1
	PID   int       `json:"pid"`
	At    time.Time `json:"at"`
	// Joined are the containers whose namespaces this one has joined, with the number of their start.
	Joined map[runtime.ID]int `json:"joined,omitempty"`
	// Address is that of the container whose network it has joined.
	Address netip.Addr `json:"address,omitzero"`
}

// ExitRecord tells of the last exit. It belongs to the start with the same number.
type ExitRecord struct {
	Start     int       `json:"start"`
	Code      int       `json:"code"`
	Signal    int       `json:"signal"` // 0: exited by itself
	OOMKills  int       `json:"oomKills"`
	At        time.Time `json:"at"`
	LostLines int64     `json:"lostLines"`
	OOM       bool      `json:"oom,omitempty"`   // decided by the runtime, not by the monitor
	Error     string    `json:"error,omitempty"` // written by the runtime for a start that failed or an exit nobody saw
}

// ReadJSON fills v from dir/name. fs.ErrNotExist if there is none.
func ReadJSON(dir, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(bytes.TrimRight(b, " \n\x00"), v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// WriteJSON replaces dir/name durably: temporary file, fsync, rename, fsync of the directory.
func WriteJSON(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(dir, name, append(b, '\n'))
}

func writeFile(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return SyncDir(dir)
}

func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
