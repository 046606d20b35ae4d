package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal/e2e/machines"
)

// demoDir is where one demo's machines have their disks. It is locked while the demo runs, so that nobody takes a
// running one down; the lock goes with the process, however that ends.
type demoDir struct {
	path string
	lock *os.File
}

const dirPrefix = "shoal-demo-"

func newDir() (*demoDir, error) {
	path, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, err
	}
	return lockDir(path)
}

func lockDir(path string) (*demoDir, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is in use by a demo that runs: %w", path, err)
	}
	return &demoDir{path: path, lock: f}, nil
}

func (d *demoDir) unlock() { d.lock.Close() }

func (d *demoDir) remove() error { return os.RemoveAll(d.path) }

// cleanUp removes everything and says what is left, which should be nothing. After a failure it shows how the
// agents' logs end.
func (p *play) cleanUp(d *demoDir, failed bool) error {
	if p.ctx.Err() != nil {
		p.print("\n")
		p.tell(yellow, "Interrupted: cleaning up.")
	}
	failed = failed && p.ctx.Err() == nil
	if failed {
		for _, m := range p.net.Machines() {
			if _, err := os.Stat(m.LogPath()); err != nil {
				continue // its agent was never started
			}
			p.print(fmt.Sprintf("%s the end of %s's log\n%s\n", p.paint(red, "---"), m.Name, tail(m.LogPath())))
		}
	}
	err := errors.Join(p.net.Close(), p.net.Gone(), d.remove())
	if err == nil {
		p.tell(green, "Cleaned up: no process, mount, namespace, cgroup, link or rule is left.")
	}
	return err
}

func tail(path string) string {
	const lines = 15
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// leaveUp ends the demo without taking the cluster down.
func (p *play) leaveUp() error {
	if err := p.net.Save(); err != nil {
		return err
	}
	p.step("The cluster stays up, also when this terminal closes")
	binary := p.binary
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, binary); err == nil && !strings.HasPrefix(rel, "..") {
			binary = rel
		}
	}
	all := p.net.Machines()
	line := func(what, format string, args ...any) {
		p.print(fmt.Sprintf("   %-24s %s\n", what, p.paint(bold, fmt.Sprintf(format, args...))))
	}
	for _, m := range all {
		line("ask "+m.Name, "%s --host %s ps", binary, m.Socket())
	}
	line("or for the whole shell", "export SHOAL_HOST=%s", all[0].Socket())
	line("watch", "%s --host %s ps --watch", binary, all[1].Socket())
	line("cut a machine's power", "make demo-off M=%s", all[0].Name)
	line("switch it on again", "make demo-on M=%s", all[0].Name)
	line("look into a machine", "make demo-enter M=%s", all[1].Name)
	line("its agent's log", "tail -f %s", all[0].LogPath())
	line("remove it all", "make demo-down")
	return nil
}

// kept are the directories of demos on this host.
func kept() []string {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*")) // the pattern is right
	return dirs
}

// takeDown removes what kept demos have left, and what killed ones have.
func takeDown(s *stage) error {
	var errs []error
	dirs := kept()
	for _, path := range dirs {
		errs = append(errs, removeKept(s, path))
	}
	if len(dirs) == 0 {
		s.tell(green, "No demo is up.")
	}
	return errors.Join(errs...)
}

func removeKept(s *stage, path string) error {
	d, err := lockDir(path)
	if err != nil {
		return err
	}
	defer d.unlock()
	n, err := machines.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist): // it was killed before there was a machine
		err = nil
	case err != nil:
		return err
	default:
		err = errors.Join(n.Close(), n.Gone())
	}
	if err != nil {
		return fmt.Errorf("%s stays: %w", path, err)
	}
	if err := d.remove(); err != nil {
		return err
	}
	s.tell(green, "Removed the cluster in %s: no process, mount, namespace or cgroup of it is left.", path)
	return nil
}

// open takes over the one kept cluster.
func open(name string) (*demoDir, *machines.Net, *machines.Machine, error) {
	dirs := kept()
	if len(dirs) != 1 {
		return nil, nil, nil, fmt.Errorf("%d clusters are kept; `make demo KEEP=1` makes one, `make demo-down` removes all", len(dirs))
	}
	d, err := lockDir(dirs[0])
	if err != nil {
		return nil, nil, nil, err
	}
	n, err := machines.Open(d.path)
	if err != nil {
		d.unlock()
		return nil, nil, nil, err
	}
	var names []string
	for _, m := range n.Machines() {
		if m.Name == name {
			return d, n, m, nil
		}
		names = append(names, m.Name)
	}
	d.unlock()
	return nil, nil, nil, fmt.Errorf("there is no machine %q; there are %s", name, strings.Join(names, ", "))
}

func powerOff(s *stage, name string) error {
	d, n, m, err := open(name)
	if err != nil {
		return err
	}
	defer d.unlock()
	if !m.On() {
		return fmt.Errorf("machine %s is off already", name)
	}
	if err := errors.Join(m.PowerOff(), n.Save()); err != nil {
		return err
	}
	s.tell(yellow, "%s is off. `make demo-on M=%s` switches it on again.", name, name)
	return nil
}

func powerOn(ctx context.Context, s *stage, name string) error {
	d, n, m, err := open(name)
	if err != nil {
		return err
	}
	defer d.unlock()
	if !m.On() {
		if err := m.PowerOn(); err != nil {
			return err
		}
	}
	if !m.Running() {
		err = m.Start()
	}
	if err = errors.Join(err, n.Save()); err != nil {
		return err
	}
	for begun := time.Now(); !m.Ready(); time.Sleep(20 * time.Millisecond) {
		if !m.Running() || ctx.Err() != nil || time.Since(begun) > patience {
			return fmt.Errorf("the agent of %s is not ready; its log is %s", name, m.LogPath())
		}
	}
	s.tell(green, "%s is on and takes part in its cluster.", name)
	return nil
}

// enter becomes a shell on the machine.
func enter(name string) error {
	d, n, m, err := open(name)
	if err != nil {
		return err
	}
	if !m.On() {
		d.unlock()
		return fmt.Errorf("machine %s is off; `make demo-on M=%s` switches it on", name, name)
	}
	cmd := m.Command("bash", "--norc")
	path, err := exec.LookPath(cmd.Args[0])
	if err != nil {
		d.unlock()
		return err
	}
	d.unlock()
	env := append(os.Environ(), "PS1="+name+"# ", "SHOAL_HOST="+m.Socket(), "PATH="+filepath.Dir(n.Binary())+":"+os.Getenv("PATH"))
	return unix.Exec(path, cmd.Args, env)
}
