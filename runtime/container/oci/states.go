package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"shoal/runtime/container/stage"
)

// containerState is what state and list print; the names are runc's.
type containerState struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"` // 0 when stopped
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func stateOf(cont *libcontainer.Container) (containerState, error) {
	status, err := cont.Status()
	if err != nil {
		return containerState{}, err
	}
	st, err := cont.State()
	if err != nil {
		return containerState{}, err
	}
	out := containerState{
		Version: st.Config.Version, ID: st.ID, PID: st.InitProcessPid, Status: status.String(), Rootfs: st.Config.Rootfs, Created: st.Created,
	}
	if status == libcontainer.Stopped {
		out.PID = 0
	}
	out.Bundle, out.Annotations = utils.Annotations(st.Config.Labels)
	return out, nil
}

func stateCommand() *cli.Command {
	return onContainer("state", "print a container's state", func(cont *libcontainer.Container) error {
		st, err := stateOf(cont)
		if err != nil {
			return err
		}
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	})
}

func listCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list the containers of the root",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "`FORMAT`: table or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "ids only"},
		},
		Action: func(c *cli.Context) error {
			if err := want(c, 0, 0); err != nil {
				return err
			}
			all, err := listStates(c)
			if err != nil {
				return err
			}
			if c.Bool("quiet") {
				for _, s := range all {
					fmt.Println(s.ID)
				}
				return nil
			}
			switch c.String("format") {
			case "json":
				return json.NewEncoder(os.Stdout).Encode(all)
			case "table":
				w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
				fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
				for _, s := range all {
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.PID, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
				}
				return w.Flush()
			}
			return fmt.Errorf("format %q is neither table nor json", c.String("format"))
		},
	}
}

func listStates(c *cli.Context) ([]containerState, error) {
	root := c.String("root")
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) && !c.IsSet("root") {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var all []containerState
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() {
			continue // deleted meanwhile, or nothing of ours
		}
		cont, err := libcontainer.Load(root, e.Name())
		if err != nil {
			logrus.Warnf("container %s: %v", e.Name(), err)
			continue
		}
		st, err := stateOf(cont)
		if err != nil {
			logrus.Warnf("container %s: %v", e.Name(), err)
			continue
		}
		if sys, ok := info.Sys().(*syscall.Stat_t); ok {
			st.Owner = "#" + strconv.Itoa(int(sys.Uid))
			if u, err := user.LookupId(st.Owner[1:]); err == nil {
				st.Owner = u.Username
			}
		}
		all = append(all, st)
	}
	return all, nil
}

func psCommand() *cli.Command {
	return &cli.Command{
		Name: "ps", Usage: "list a container's processes", ArgsUsage: "ID [OPTIONS OF PS]",
		Flags: []cli.Flag{&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "`FORMAT`: table or json"}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, -1); err != nil {
				return err
			}
			cont, err := load(c)
			if err != nil {
				return err
			}
			pids, err := cont.Processes()
			if err != nil {
				return err
			}
			switch c.String("format") {
			case "json":
				return json.NewEncoder(os.Stdout).Encode(pids)
			case "table":
				return printProcesses(pids, c.Args().Tail())
			}
			return fmt.Errorf("format %q is neither table nor json", c.String("format"))
		},
	}
}

// printProcesses lets ps(1) print, and leaves the lines of pids.
func printProcesses(pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	raw, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ps: %w: %s", err, raw)
	}
	lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("ps printed no column PID")
	}
	fmt.Println(lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if column >= len(fields) {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Println(line)
		}
	}
	return nil
}

func pauseCommand() *cli.Command {
	return onContainer("pause", "freeze a container's processes", (*libcontainer.Container).Pause)
}

func resumeCommand() *cli.Command {
	return onContainer("resume", "let frozen processes go on", (*libcontainer.Container).Resume)
}

func killCommand() *cli.Command {
	return &cli.Command{
		Name: "kill", Usage: "send a signal (default: SIGTERM) to a container's first process", ArgsUsage: "ID [SIGNAL]",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Hidden: true, Usage: "no error when it has ended"}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 2); err != nil {
				return err
			}
			cont, err := load(c)
			if err != nil {
				return err
			}
			sig := unix.SIGTERM
			if name := c.Args().Get(1); name != "" {
				if sig, err = stage.ParseSignal(name); err != nil {
					return err
				}
			}
			err = cont.Signal(sig)
			if errors.Is(err, libcontainer.ErrNotRunning) && c.Bool("all") {
				return nil
			}
			return err
		},
	}
}

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "remove all that a container holds", ArgsUsage: "ID",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill it if it runs; no error when there is none"}},
		Action: func(c *cli.Context) error {
			if err := want(c, 1, 1); err != nil {
				return err
			}
			cont, err := load(c)
			if errors.Is(err, libcontainer.ErrNotExist) && c.Bool("force") {
				// A creation that was cut short leaves a directory without a state. The id is a name, not a path.
				return os.RemoveAll(filepath.Join(c.String("root"), filepath.Base(filepath.Clean("/"+c.Args().First()))))
			} else if err != nil {
				return err
			}
			status, err := cont.Status()
			if err != nil {
				return err
			}
			switch {
			case c.Bool("force"), status == libcontainer.Created:
				return killAndDestroy(cont)
			case status == libcontainer.Stopped:
				return cont.Destroy()
			}
			return fmt.Errorf("cannot delete container %s: it is %s (use --force)", cont.ID(), status)
		},
	}
}

// killAndDestroy waits for the first process's end, up to ten seconds.
func killAndDestroy(cont *libcontainer.Container) error {
	_ = cont.Signal(unix.SIGKILL)
	for wait := time.Millisecond; wait < 5*time.Second; wait = wait * 3 / 2 {
		if cont.Signal(unix.Signal(0)) != nil {
			return cont.Destroy()
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("the first process of container %s does not end", cont.ID())
}
