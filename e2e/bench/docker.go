package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// docker is a dockerd of the distribution in network, mount and process namespaces of its own, with an empty store. It
// ends with them: nothing of it outlives Close.
type docker struct {
	dir     string
	cgroup  string
	cmd     *exec.Cmd
	log     bytes.Buffer // of the daemon; read it only after it ended
	endedCh chan struct{}
}

const (
	dockerPatience = 30 * time.Second // until it answers, and until it is gone
	// dockerScript starts it where /run is its own. A bridge and its rules are made in the namespace, as anywhere.
	dockerScript = `set -e
ip link set lo up
mount --make-rprivate /
mount -t tmpfs tmpfs /run
exec dockerd --data-root "$1/data" --exec-root /run/docker --pidfile /run/docker.pid -H "unix://$1/docker.sock" \
  --cgroup-parent "/$2" --storage-driver overlay2 --log-level error $3`
)

// startDocker runs dockerd with all it writes below dir, which must exist, and waits until it answers. args are further
// flags of dockerd.
func startDocker(dir string, args ...string) (*docker, error) {
	for _, p := range []string{"dockerd", "docker", "containerd", "runc", "ip"} {
		if _, err := exec.LookPath(p); err != nil {
			return nil, fmt.Errorf("%s is missing: packaging/deps.sh bench installs it", p)
		}
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		args = append(args, "--iptables=false")
	}
	d := &docker{dir: dir, cgroup: fmt.Sprintf("shoal-bench-docker-%d", os.Getpid()), endedCh: make(chan struct{})}
	d.cmd = exec.Command("unshare", "--net", "--mount", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child",
		"sh", "-c", dockerScript, "sh", dir, d.cgroup, strings.Join(args, " "))
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	go func() {
		_ = d.cmd.Wait() // it is killed in the end: its status says nothing
		close(d.endedCh)
	}()
	for end := time.Now().Add(dockerPatience); ; {
		if d.command(context.Background(), "version").Run() == nil {
			return d, nil
		}
		select {
		case <-d.endedCh:
			return nil, errors.Join(fmt.Errorf("dockerd ended: %s", d.log.String()), d.Close())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			err := d.Close()
			return nil, errors.Join(fmt.Errorf("dockerd does not answer after %v: %s", dockerPatience, d.log.String()), err)
		}
	}
}

// command is a docker client that speaks to this daemon only.
func (d *docker) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "docker", args...)
	c.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.socket(), "DOCKER_CONTEXT=", "DOCKER_CONFIG="+filepath.Join(d.dir, "config"))
	return c
}

func (d *docker) socket() string { return filepath.Join(d.dir, "docker.sock") }

// do runs a docker client with stdin, which may be nil; an error tells what it printed.
func (d *docker) do(ctx context.Context, stdin io.Reader, args ...string) error {
	c := d.command(ctx, args...)
	c.Stdin = stdin
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Close kills the daemon with all that it started, and removes what it wrote and its cgroups.
func (d *docker) Close() error {
	_ = d.cmd.Process.Kill() // the first process of its namespace dies with unshare, and all others with that
	select {
	case <-d.endedCh:
	case <-time.After(dockerPatience):
		return fmt.Errorf("dockerd (process %d) does not end", d.cmd.Process.Pid)
	}
	var err error
	for end := time.Now().Add(dockerPatience); ; time.Sleep(20 * time.Millisecond) { // the last of its containers may still be dying
		if err = errors.Join(d.removeCgroups(), os.RemoveAll(d.dir)); err == nil || time.Now().After(end) {
			return err
		}
	}
}

func (d *docker) removeCgroups() error {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		tops, err := filepath.Glob(pattern + d.cgroup)
		if err != nil {
			return err
		}
		for _, top := range tops {
			_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
		}
	}
	var errs []error
	for i := len(dirs) - 1; i >= 0; i-- { // children first
		if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
