package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node"
	"shoal/node/gameday"
	"shoal/runtime/step"
)

const defaultDataDir = "/var/lib/shoal"

func agentCommand() *cli.Command {
	return &cli.Command{
		Name: "agent", Category: categoryCluster,
		Usage: "run this machine's part of the cluster",
		Description: "Without --join the first start founds a cluster of one. `shoal token create` there prints the command for the\n" +
			"next machine. Stopping the agent touches no container; the next start adopts them all.\n\n" +
			"Example: shoal agent --join 192.0.2.1:6174 --token shoal1-…",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "data-dir", Value: defaultDataDir, EnvVars: []string{"SHOAL_DATA_DIR"}, Usage: "`DIR` for all that lasts"},
			&cli.StringFlag{Name: "name", EnvVars: []string{"SHOAL_NAME"}, Usage: "node `NAME`, unique in the cluster (default: the host's name)"},
			&cli.StringFlag{Name: "bind", Value: fmt.Sprintf("0.0.0.0:%d", node.DefaultPort), EnvVars: []string{"SHOAL_BIND"}, Usage: "listen on `ADDR:PORT`, TCP and UDP"},
			&cli.StringFlag{Name: "advertise", EnvVars: []string{"SHOAL_ADVERTISE"}, Usage: "`ADDR:PORT` at which the others reach this node (default: the machine's address, and the port of --bind)"},
			&cli.StringSliceFlag{Name: "join", EnvVars: []string{"SHOAL_JOIN"}, Usage: "`ADDR:PORT` of a node of the cluster to join; may be given more than once"},
			&cli.StringFlag{Name: "token", EnvVars: []string{"SHOAL_TOKEN"}, Usage: "join `TOKEN`, from `shoal token create`"},
			&cli.StringSliceFlag{Name: "label", Usage: "`KEY=VALUE` that placement constraints can name; may be given more than once"},
			&cli.StringFlag{Name: "voter", Value: string(job.VoterAuto), Usage: "`POLICY`: auto, or never: this node shall not hold the log"},
			&cli.StringFlag{Name: "socket", Value: defaultSocket, EnvVars: []string{"SHOAL_SOCKET"}, Usage: "unix `SOCKET` for people on this machine"},
			&cli.StringFlag{Name: "pool", Usage: "`PREFIX` of container addresses when founding a cluster (default " + node.DefaultPool.String() + ")"},
			&cli.StringFlag{Name: "cgroup-parent", Value: "shoal", Usage: "`CGROUP` below which containers' cgroups are"},
			&cli.Float64Flag{Name: "patience", EnvVars: []string{"SHOAL_PATIENCE"}, Usage: "multiply every time-out between nodes by this `FACTOR`, at most 20, where machines or the network are so slow that healthy nodes are called dead: what is truly dead is noticed as many times later; give all nodes the same (default: 1)"},
			&cli.DurationFlag{Name: "drain-on-stop", EnvVars: []string{"SHOAL_DRAIN_ON_STOP"}, Usage: "when asked to stop, drain this node first, for at most this `TIME`; the next start activates it again"},
			&cli.StringFlag{Name: "chaos", Value: string(gameday.Allow), EnvVars: []string{"SHOAL_CHAOS"}, Usage: "`MODE`: what `shoal chaos` may break on this machine on purpose: allow (what an admin asks for), safe (nothing destructive) or never"},
			&cli.BoolFlag{Name: "check", Usage: "list what this machine's kernel can do, and what is lost without, and end; fails only if something is missing without which no container runs"},
			&cli.BoolFlag{Name: "json", Usage: "with --check: print JSON"},
			&cli.StringFlag{Name: "log-level", Value: "info", EnvVars: []string{"SHOAL_LOG_LEVEL"}, Usage: "`LEVEL`: debug, info, warn or error"},
		}, append(imageFlags(), resourceFlags()...)...),
		Action: runAgent,
	}
}

func runAgent(c *cli.Context) error {
	if c.Args().Present() {
		return &exitError{code: exitUsage, message: fmt.Sprintf("agent takes no arguments, got %q", c.Args().First())}
	}
	if c.Bool("check") {
		return checkMachine(c)
	}
	if os.Geteuid() != 0 {
		return job.Errorf(job.Denied, "the agent makes containers and needs root: run it with sudo or as a service")
	}
	if err := step.FromEnv(); err != nil {
		return job.Errorf(job.Invalid, "%w", err)
	}
	cfg, err := agentConfig(c)
	if err != nil {
		return err
	}
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	cfg.Logger.Info("starting", "version", version, "node", cfg.Name, "bind", cfg.Bind, "advertise", cfg.Advertise, "data", cfg.DataDir)
	sayWhatIsLost(cfg.Logger, cfg.DataDir)
	if err := n.Run(c.Context); err != nil {
		return err
	}
	cfg.Logger.Info("stopped; containers run on")
	return nil
}

func agentConfig(c *cli.Context) (node.Config, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return node.Config{}, job.Errorf(job.Invalid, "--log-level %s: it takes debug, info, warn or error", c.String("log-level"))
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	dataDir, err := filepath.Abs(c.String("data-dir"))
	if err != nil {
		return node.Config{}, err
	}
	images, err := imageSettings(c)
	if err != nil {
		return node.Config{}, err
	}
	generic, overcommit, reserve, err := machineShare(c)
	if err != nil {
		return node.Config{}, err
	}
	cfg := node.Config{
		Generic: generic, Overcommit: overcommit,
		DataDir: dataDir, Name: c.String("name"), Voter: job.VoterPolicy(c.String("voter")), Join: c.StringSlice("join"), Token: c.String("token"),
		Socket: c.String("socket"), Version: version, Logger: logger, Machine: machineMaker(c.String("cgroup-parent"), images, reserve), ImageCare: images.care,
		DrainOnStop: c.Duration("drain-on-stop"), Patience: c.Float64("patience"),
	}
	if cfg.Chaos, err = chaosConfig(c.String("chaos")); err != nil {
		return cfg, err
	}
	if cfg.DrainOnStop < 0 {
		return cfg, job.Errorf(job.Invalid, "--drain-on-stop %v: it takes a time such as 2m", cfg.DrainOnStop)
	}
	if cfg.Name == "" {
		if cfg.Name, err = os.Hostname(); err != nil {
			return cfg, job.Errorf(job.Invalid, "this machine has no host name (%w): give --name", err)
		}
	}
	if cfg.Voter != job.VoterAuto && cfg.Voter != job.VoterNever {
		return cfg, job.Errorf(job.Invalid, "--voter %s: it takes auto or never", cfg.Voter)
	}
	if cfg.Labels, err = keyValues("--label", c.StringSlice("label")); err != nil {
		return cfg, err
	}
	if p := c.String("pool"); p != "" {
		if cfg.Pool, err = netip.ParsePrefix(p); err != nil {
			return cfg, job.Errorf(job.Invalid, "--pool %s: it takes a prefix such as %v", p, node.DefaultPool)
		}
	}
	if cfg.Bind, err = netip.ParseAddrPort(c.String("bind")); err != nil {
		return cfg, job.Errorf(job.Invalid, "--bind %s: it takes an address and a port, such as 0.0.0.0:%d", c.String("bind"), node.DefaultPort)
	}
	cfg.Advertise, err = advertiseAddr(c.String("advertise"), cfg.Bind)
	return cfg, err
}

// advertiseAddr is what was given, else the bound address, else the address from which this machine reaches others.
func advertiseAddr(given string, bind netip.AddrPort) (netip.AddrPort, error) {
	if given != "" {
		a, err := netip.ParseAddrPort(given)
		if err != nil {
			return a, job.Errorf(job.Invalid, "--advertise %s: it takes an address and a port, such as 192.0.2.7:%d", given, node.DefaultPort)
		}
		return a, nil
	}
	if !bind.Addr().IsUnspecified() {
		return bind, nil
	}
	addr, err := outgoingAddr()
	if err != nil {
		return netip.AddrPort{}, job.Errorf(job.Invalid, "cannot tell at which address others reach this machine (%w): give --advertise", err)
	}
	return netip.AddrPortFrom(addr, bind.Port()), nil
}

// outgoingAddr prefers the source address of the default route, else takes the first global address. Nothing is sent.
func outgoingAddr() (netip.Addr, error) {
	if conn, err := net.Dial("udp", "192.0.2.1:9"); err == nil {
		defer conn.Close()
		if a, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil && !a.Addr().IsLoopback() {
			return a.Addr(), nil
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no interface has a global IPv4 address")
}

// keyValues reads KEY=VALUE words.
func keyValues(flag string, words []string) (map[string]string, error) {
	out := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return nil, job.Errorf(job.Invalid, "%s %q: it takes KEY=VALUE", flag, w)
		}
		out[k] = v
	}
	return out, nil
}
