package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"shoal/runtime/container/stage"
)

// startFlags are those of create and run.
func startFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "`DIR` of the bundle (default: the working directory)"},
		&cli.BoolFlag{Name: "no-pivot", Usage: "change the root without pivot_root, for a root file system in an initramfs"},
		&cli.BoolFlag{Name: "no-new-keyring", Usage: "leave the container the caller's session keyring"},
	}, append(ioFlags(), more...)...)
}

func createCommand() *cli.Command {
	return &cli.Command{Name: "create", Usage: "make a container; its process waits for start", ArgsUsage: "ID", Flags: startFlags(), Action: func(c *cli.Context) error {
		return startContainer(c, func(cont *libcontainer.Container, p *libcontainer.Process) error { return cont.Start(p) }, true)
	}}
}

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "make a container, start it and wait for its end", ArgsUsage: "ID",
		Flags: startFlags(
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait"},
			&cli.BoolFlag{Name: "keep", Usage: "do not delete the container when it ended"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "do not adopt the container's orphans"},
		),
		Action: func(c *cli.Context) error {
			return startContainer(c, func(cont *libcontainer.Container, p *libcontainer.Process) error { return cont.Run(p) }, c.Bool("detach"))
		},
	}
}

// startContainer makes the container of a bundle and starts its first process with begin.
func startContainer(c *cli.Context, begin starter, detach bool) error {
	if err := want(c, 1, 1); err != nil {
		return err
	}
	o, err := optionsOf(c, detach)
	if err != nil {
		return err
	}
	if bundle := c.String("bundle"); bundle != "" {
		if err := os.Chdir(bundle); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	spec, err := loadSpec()
	if err != nil {
		return err
	}
	cont, late, err := newContainer(c, spec)
	if err != nil {
		return err
	}
	if !c.Bool("no-subreaper") && !detach {
		o.subreaper = true
	}
	code, err := o.run(cont, spec.Process, true, func(cont *libcontainer.Container, p *libcontainer.Process) error {
		if err := begin(cont, p); err != nil {
			return err
		}
		return late.Apply(cont)
	})
	if err != nil {
		return errors.Join(err, cont.Destroy())
	}
	if !detach && !c.Bool("keep") {
		err = cont.Destroy()
	}
	if code != 0 || err != nil {
		return &exitError{code: max(code, 1), err: err}
	}
	return nil
}

// newContainer turns the spec into a container without processes. A CPU quota is laid on it only when its process is
// parked, as in shoal's own containers.
func newContainer(c *cli.Context, spec *specs.Spec) (*libcontainer.Container, stage.LateQuota, error) {
	id := c.Args().First()
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: id, UseSystemdCgroup: c.Bool("systemd-cgroup"), NoPivotRoot: c.Bool("no-pivot"), NoNewKeyring: c.Bool("no-new-keyring"),
		Spec: spec, RootlessEUID: os.Geteuid() != 0,
	})
	if err != nil {
		return nil, stage.LateQuota{}, err
	}
	late := stage.TakeQuota(config)
	cont, err := libcontainer.Create(c.String("root"), id, config)
	return cont, late, err
}

func startCommand() *cli.Command {
	return onContainer("start", "let the process of a created container run", func(cont *libcontainer.Container) error {
		status, err := cont.Status()
		if err != nil {
			return err
		}
		if status != libcontainer.Created {
			return fmt.Errorf("cannot start container %s: it is %s", cont.ID(), status)
		}
		return cont.Exec()
	})
}

// writePID puts a process's number into a file at once: whoever finds the file finds the number.
func writePID(file string, p *libcontainer.Process) error {
	pid, err := p.Pid()
	if err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(temp, fmt.Append(nil, pid), 0o666); err != nil {
		return err
	}
	return os.Rename(temp, file)
}
