package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"shoal/runtime/container/stage"
)

// DefaultRoot is where containers' states are when nobody names a directory: apart from those of an agent.
const DefaultRoot = "/run/shoal-oci"

// exitError ends the program with a code of its own, and says nothing when it has no cause.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// Main is the whole program but for the exit: the arguments behind the program's name in, the exit code out. It changes
// the process (working directory, logger, subreaper), so a process calls it once.
func Main(args []string, version string) int {
	// libcontainer gives the first process of a container the name of this one; by it stage tells that the container has no
	// monitor whose death must be its own.
	os.Args = append([]string{stage.RoleOCI}, args...)
	logrus.SetLevel(logrus.InfoLevel)
	err := newApp(version).Run(os.Args)
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{code: 1, err: err}
	}
	if exit.err != nil {
		logrus.Error(exit.err)
		if out, ok := logrus.StandardLogger().Out.(*os.File); !ok || out.Fd() != os.Stderr.Fd() {
			fmt.Fprintln(os.Stderr, exit.err)
		}
	}
	return exit.code
}

func newApp(version string) *cli.App {
	cli.VersionPrinter = func(c *cli.Context) {
		major, minor, micro := seccomp.Version()
		fmt.Fprintf(c.App.Writer, "shoal oci version %s\nspec: %s\ngo: %s\nlibseccomp: %d.%d.%d\n", version, specs.Version, goruntime.Version(), major, minor, micro)
	}
	return &cli.App{
		Name:  stage.RoleOCI,
		Usage: "an OCI runtime with runc's command line, for test suites and engines",
		// What the program prints for itself goes to the log, see Main.
		ExitErrHandler:            func(*cli.Context, error) {},
		DisableSliceFlagSeparator: true,
		HideHelpCommand:           true,
		Version:                   version,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "debug", Usage: "log more"},
			&cli.StringFlag{Name: "log", Usage: "log to this `FILE` (default: standard error)"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "`FORMAT` of the log: text or json"},
			&cli.StringFlag{Name: "root", Value: DefaultRoot, Usage: "`DIR` of the containers' states"},
			&cli.BoolFlag{Name: "systemd-cgroup", Usage: "have systemd make cgroups; cgroupsPath is then slice:prefix:name"},
			&cli.StringFlag{Name: "rootless", Value: "auto", Usage: "ignored: shoal runs as root"},
		},
		Before: prepare,
		Commands: []*cli.Command{
			createCommand(), startCommand(), runCommand(), stateCommand(), killCommand(), deleteCommand(), execCommand(),
			psCommand(), listCommand(), pauseCommand(), resumeCommand(), updateCommand(), eventsCommand(), featuresCommand(), specCommand(),
		},
	}
}

// prepare sets up the log and makes the root absolute, because commands change the working directory.
func prepare(c *cli.Context) error {
	if c.Bool("debug") {
		logrus.SetLevel(logrus.DebugLevel)
	}
	switch f := c.String("log-format"); f {
	case "", "text":
	case "json":
		logrus.SetFormatter(new(logrus.JSONFormatter))
	default:
		return fmt.Errorf("log-format %q is neither text nor json", f)
	}
	if file := c.String("log"); file != "" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
		if err != nil {
			return err
		}
		logrus.SetOutput(f)
	}
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return err
	}
	if root == "/" {
		return errors.New("--root must not be /: name a directory of its own")
	}
	return c.Set("root", root)
}

// load finds the container that the first argument names.
func load(c *cli.Context) (*libcontainer.Container, error) {
	id := c.Args().First()
	if id == "" {
		return nil, errors.New("no container id given")
	}
	return libcontainer.Load(c.String("root"), id)
}

// want checks the number of arguments; most < 0 means any.
func want(c *cli.Context, least, most int) error {
	if n := c.NArg(); n < least || most >= 0 && n > most {
		return fmt.Errorf("%s: %d arguments given; see %s %s --help", c.Command.Name, n, stage.RoleOCI, c.Command.Name)
	}
	return nil
}

// onContainer is a command on one container that takes no other argument.
func onContainer(name, usage string, do func(*libcontainer.Container) error) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, ArgsUsage: "ID", Action: func(c *cli.Context) error {
		if err := want(c, 1, 1); err != nil {
			return err
		}
		cont, err := load(c)
		if err != nil {
			return err
		}
		return do(cont)
	}}
}
