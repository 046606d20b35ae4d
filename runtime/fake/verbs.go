package fake

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"shoal/runtime"
)

// Pause notes that a container is paused; its programs go on nevertheless, but nothing can be executed in it.
func (m *machine) Pause(_ context.Context, id runtime.ID) error { return m.setPaused(id, true) }

// Resume takes that back.
func (m *machine) Resume(_ context.Context, id runtime.ID) error { return m.setPaused(id, false) }

func (m *machine) setPaused(id runtime.ID, paused bool) error {
	p, err := m.running(id)
	if err != nil {
		return fmt.Errorf("pause or resume %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.c.info.Paused != paused {
		p.c.info.Paused = paused
		m.emitLocked(runtime.Event{Kind: runtime.EventPaused, ID: id, At: time.Now()})
	}
	return nil
}

// Processes lists the first program and the executed ones.
func (m *machine) Processes(_ context.Context, id runtime.ID) ([]runtime.Process, error) {
	p, err := m.running(id)
	if err != nil {
		return nil, fmt.Errorf("processes of %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	all := []*process{p}
	for e := range p.c.execs {
		all = append(all, e)
	}
	out := make([]runtime.Process, len(all))
	for i, e := range all {
		out[i] = runtime.Process{PID: p.c.info.PID + i, User: "root", State: "S", Started: e.started, Command: strings.Join(e.args, " ")}
	}
	return out, nil
}

// Changes lists the files that were copied in.
func (m *machine) Changes(_ context.Context, id runtime.ID) ([]runtime.FileChange, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil {
		return nil, fmt.Errorf("changes of %s: %w", id, runtime.ErrNotFound)
	}
	out := []runtime.FileChange{}
	for name := range c.files {
		out = append(out, runtime.FileChange{Kind: "A", Path: name})
	}
	slices.SortFunc(out, func(a, b runtime.FileChange) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// Dial connects to something that says again what it is told, on every port but 1, where nobody listens.
func (m *machine) Dial(_ context.Context, id runtime.ID, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp" && network != "udp" {
		return nil, fmt.Errorf("dial %s %s in %s: %w", network, address, id, runtime.ErrInvalid)
	}
	if _, err := m.running(id); err != nil {
		return nil, fmt.Errorf("dial %s in %s: %w", address, id, err)
	}
	if to.Port() == 1 {
		return nil, fmt.Errorf("dial %s in %s: connection refused: %w", address, id, runtime.ErrBusy)
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		_, _ = io.Copy(theirs, theirs) // until the caller hangs up
	}()
	return ours, nil
}

// file is one that was copied in. A container has these directories besides: /, /etc and /tmp.
type file struct {
	head tar.Header
	data []byte
}

func (c *container) fileLocked(name string) (file, bool) {
	name = path.Clean("/" + name)
	if slices.Contains([]string{"/", "/etc", "/tmp"}, name) {
		return file{head: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}, true
	}
	f, ok := c.files[name]
	return f, ok
}

func (m *machine) file(id runtime.ID, name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil {
		return file{}, fmt.Errorf("container %s: %w", id, runtime.ErrNotFound)
	}
	f, ok := c.fileLocked(name)
	if !ok {
		return file{}, fmt.Errorf("%s in %s: %w", name, id, runtime.ErrNotFound)
	}
	return f, nil
}

// StatPath looks at a file.
func (m *machine) StatPath(_ context.Context, id runtime.ID, name string) (runtime.PathStat, error) {
	f, err := m.file(id, name)
	if err != nil {
		return runtime.PathStat{}, err
	}
	f.head.Name = path.Base(path.Clean("/" + name))
	fi := f.head.FileInfo()
	return runtime.PathStat{Name: f.head.Name, Mode: uint32(fi.Mode()), Size: fi.Size(), ModAt: fi.ModTime(), Link: f.head.Linkname}, nil
}

// CopyOut archives a file, or a directory and what was copied into it.
func (m *machine) CopyOut(_ context.Context, id runtime.ID, c runtime.CopyOut, to io.Writer) error {
	top, err := m.file(id, c.Path)
	if err != nil {
		return err
	}
	base := path.Clean("/" + c.Path)
	all := map[string]file{base: top}
	m.mu.Lock()
	if c := m.containers[id]; c != nil {
		for name, f := range c.files {
			if strings.HasPrefix(name, strings.TrimSuffix(base, "/")+"/") {
				all[name] = f
			}
		}
	}
	m.mu.Unlock()
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	out := tar.NewWriter(to)
	for _, name := range names {
		f := all[name]
		f.head.Name = path.Join(path.Base(base), strings.TrimPrefix(name, base))
		if f.head.Typeflag == tar.TypeDir {
			f.head.Name += "/"
		}
		if err := out.WriteHeader(&f.head); err != nil {
			return err
		}
		if _, err := out.Write(f.data); err != nil {
			return err
		}
	}
	return out.Close()
}

// CopyIn keeps an archive's files.
func (m *machine) CopyIn(_ context.Context, id runtime.ID, c runtime.CopyIn, from io.Reader) error {
	dir, err := m.file(id, c.Path)
	if err != nil {
		return err
	}
	if dir.head.Typeflag != tar.TypeDir {
		return fmt.Errorf("%s in %s is no directory: %w", c.Path, id, runtime.ErrInvalid)
	}
	in := tar.NewReader(from)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || !fs.ValidPath(path.Clean(h.Name)) {
			return fmt.Errorf("copy into %s: no archive, or it leads outside: %w", id, runtime.ErrInvalid)
		}
		data, err := io.ReadAll(io.LimitReader(in, 1<<20))
		if err != nil {
			return fmt.Errorf("copy into %s: %w", id, runtime.ErrInvalid)
		}
		m.mu.Lock()
		if c2 := m.containers[id]; c2 != nil {
			if c2.files == nil {
				c2.files = map[string]file{}
			}
			c2.files[path.Join("/", c.Path, h.Name)] = file{*h, data}
		}
		m.mu.Unlock()
	}
}
