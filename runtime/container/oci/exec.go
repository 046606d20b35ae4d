package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

func execCommand() *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a further process in a container", ArgsUsage: "ID COMMAND [ARGUMENTS] | -p FILE ID",
		Flags: append(ioFlags(),
			&cli.StringFlag{Name: "cwd", Usage: "`DIR` to run in"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`KEY=VALUE` of the environment"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`UID[:GID]`"},
			&cli.Int64SliceFlag{Name: "additional-gids", Aliases: []string{"g"}, Usage: "further groups"},
			&cli.StringFlag{Name: "process", Aliases: []string{"p"}, Usage: "`FILE` with the process as in config.json"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait"},
			&cli.StringFlag{Name: "process-label", Usage: "SELinux label"},
			&cli.StringFlag{Name: "apparmor", Usage: "AppArmor profile"},
			&cli.BoolFlag{Name: "no-new-privs", Usage: "it gains no privileges by executing files"},
			&cli.StringSliceFlag{Name: "cap", Aliases: []string{"c"}, Usage: "`CAPABILITY` to add"},
			&cli.StringSliceFlag{Name: "cgroup", Usage: "existing cgroup below the container's, `[CONTROLLER,…:]PATH`"},
			&cli.BoolFlag{Name: "ignore-paused", Usage: "also in a paused container"},
		),
		Action: func(c *cli.Context) error {
			code, err := execProcess(c)
			if err != nil {
				return &exitError{code: 255, err: fmt.Errorf("exec failed: %w", err)}
			}
			if code != 0 {
				return &exitError{code: code}
			}
			return nil
		},
	}
}

func execProcess(c *cli.Context) (int, error) {
	if err := want(c, 1, -1); err != nil {
		return 0, err
	}
	o, err := optionsOf(c, c.Bool("detach"))
	if err != nil {
		return 0, err
	}
	cont, err := load(c)
	if err != nil {
		return 0, err
	}
	status, err := cont.Status()
	switch {
	case err != nil:
		return 0, err
	case status == libcontainer.Stopped:
		return 0, errors.New("cannot exec in a stopped container")
	case status == libcontainer.Paused && !c.Bool("ignore-paused"):
		return 0, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	p, err := execSpec(c, cont)
	if err != nil {
		return 0, err
	}
	if o.subCgroups, err = subCgroups(c.StringSlice("cgroup")); err != nil {
		return 0, err
	}
	return o.run(cont, p, false, func(cont *libcontainer.Container, p *libcontainer.Process) error { return cont.Run(p) })
}

// execSpec is the process of a file, or the bundle's own with what the flags change.
func execSpec(c *cli.Context, cont *libcontainer.Container) (*specs.Process, error) {
	if file := c.String("process"); file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var p specs.Process
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		return &p, checkProcess(&p)
	}
	bundle, ok := utils.SearchLabels(cont.Config().Labels, "bundle")
	if !ok {
		return nil, fmt.Errorf("the state of container %s does not say where its bundle is", cont.ID())
	}
	if err := os.Chdir(bundle); err != nil {
		return nil, err
	}
	spec, err := loadSpec()
	if err != nil {
		return nil, err
	}
	p := spec.Process
	if c.NArg() < 2 {
		return nil, errors.New("no command given")
	}
	p.Args = c.Args().Tail()
	for _, f := range []struct {
		flag string
		to   *string
	}{{"cwd", &p.Cwd}, {"apparmor", &p.ApparmorProfile}, {"process-label", &p.SelinuxLabel}} {
		if v := c.String(f.flag); v != "" {
			*f.to = v
		}
	}
	addCapabilities(p, c.StringSlice("cap"))
	p.Env = append(p.Env, c.StringSlice("env")...)
	p.Terminal = c.Bool("tty")
	if c.IsSet("no-new-privs") {
		p.NoNewPrivileges = c.Bool("no-new-privs")
	}
	if user := c.String("user"); user != "" {
		if p.User.UID, p.User.GID, err = parseUser(user, p.User.GID); err != nil {
			return nil, err
		}
	}
	for _, g := range c.Int64Slice("additional-gids") {
		if g < 0 {
			return nil, fmt.Errorf("group %d is negative", g)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
	}
	return p, checkProcess(p)
}

func addCapabilities(p *specs.Process, names []string) {
	if len(names) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	set := p.Capabilities
	set.Bounding = append(set.Bounding, names...)
	set.Effective = append(set.Effective, names...)
	set.Permitted = append(set.Permitted, names...)
	if set.Inheritable != nil { // the kernel refuses an ambient one that is not inheritable
		set.Ambient = append(set.Ambient, names...)
	}
}

func parseUser(s string, gid uint32) (uint32, uint32, error) {
	u, g, both := strings.Cut(s, ":")
	uid, err := strconv.ParseUint(u, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("user %q: want UID[:GID], both numbers", s)
	}
	if both {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("user %q: want UID[:GID], both numbers", s)
		}
		gid = uint32(n)
	}
	return uint32(uid), gid, nil
}

// subCgroups reads [CONTROLLER,…:]PATH; on cgroup v2 there is one path, under the controller "".
func subCgroups(args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	paths := map[string]string{}
	for _, a := range args {
		names, path, ok := strings.Cut(a, ":")
		if !ok {
			if len(args) != 1 {
				return nil, fmt.Errorf("cgroup %q: it names no controller, and there are several", a)
			}
			return map[string]string{"": a}, nil
		}
		for name := range strings.SplitSeq(names, ",") {
			if name == "" || paths[name] != "" {
				return nil, fmt.Errorf("cgroup %q: controller %q is empty or given twice", a, name)
			}
			paths[name] = path
		}
	}
	return paths, nil
}
