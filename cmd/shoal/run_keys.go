package main

import (
	"github.com/urfave/cli/v2"

	"shoal/consensus/job/compose"
)

// keyFlags are docker run's that few containers need.
func keyFlags() []cli.Flag {
	list := func(name, usage string) cli.Flag { return &cli.StringSliceFlag{Name: name, Usage: usage} }
	text := func(name, usage string) cli.Flag { return &cli.StringFlag{Name: name, Usage: usage} }
	return []cli.Flag{
		text("network", "`MODE`: bridge, none or host"),
		&cli.BoolFlag{Name: "privileged", Usage: "give it all capabilities and devices of the node"},
		list("security-opt", "`OPTION`: no-new-privileges=false, seccomp=FILE, seccomp=unconfined, apparmor=PROFILE"),
		list("device", "give it a device of the node, `PATH[:TARGET][:rwm]`"),
		list("device-cgroup-rule", "allow devices by a `RULE`, such as \"c 10:200 rwm\""),
		list("group-add", "`GROUP` that the user is in too, by number or the image's name"),
		list("sysctl", "set `NAME=VALUE` of its namespaces"),
		list("ulimit", "limit `NAME=SOFT[:HARD]`, such as nofile=1024:2048"),
		text("pid", "`MODE` of its processes: private or host"),
		text("ipc", "`MODE` of its shared memory: private, shareable, none or host"),
		text("uts", "`MODE` of its host name: private or host"),
		text("userns", "`MODE` of its users: host, or auto for a range of its own"),
		text("cgroupns", "`MODE` of its view of cgroups: private or host"),
		text("cgroup-parent", "`PATH` of the cgroup below which it is"),
		text("cpuset-cpus", "`LIST` of processors it may use, such as 0-2,4"),
		&cli.Int64Flag{Name: "cpu-shares", Usage: "`WEIGHT` among containers; 1024 is usual"},
		&cli.Int64Flag{Name: "cpu-period", Usage: "`MICROSECONDS` in which its CPU is counted"},
		&cli.Int64Flag{Name: "cpu-quota", Usage: "`MICROSECONDS` of CPU in each period"},
		text("memory-reservation", "keep `BYTES` of memory free for each task; the same as --reserve-memory"),
		text("memory-swap", "limit memory and swap together to `BYTES`; -1: no limit"),
		text("memory-swappiness", "`PERCENT`, 0 to 100, of its inclination to swap"),
		text("shm-size", "`BYTES` of /dev/shm (default 64m)"),
		&cli.IntFlag{Name: "oom-score-adj", Usage: "`SCORE`, -1000 to 1000: how soon it is killed when the node lacks memory"},
		&cli.UintFlag{Name: "blkio-weight", Usage: "`WEIGHT`, 10 to 1000, of its block IO"},
		list("blkio-weight-device", "`DEVICE:WEIGHT` of its block IO on one device"),
		list("device-read-bps", "read at most `DEVICE:BYTES` a second"),
		list("device-write-bps", "write at most `DEVICE:BYTES` a second"),
		list("device-read-iops", "read at most `DEVICE:NUMBER` times a second"),
		list("device-write-iops", "write at most `DEVICE:NUMBER` times a second"),
		list("dns", "`ADDRESS` of the DNS server for names outside the cluster"),
		list("dns-search", "`DOMAIN` in which short names are looked up; . for none"),
		list("dns-option", "`OPTION` of resolv.conf"),
		list("add-host", "`NAME:ADDRESS` for /etc/hosts; host-gateway is the node"),
		text("domainname", "`DOMAIN` of the container's host"),
		text("mac-address", "`ADDRESS` of its interface"),
		text("log-driver", "`DRIVER`: json-file, local or none"),
		list("log-opt", "max-size=`SIZE` or max-file=NUMBER"),
		text("health-http", "healthy when it answers http at `PORT[/PATH]` with 200 to 399"),
		text("health-tcp", "healthy when it accepts a connection at `PORT`"),
		text("health-grpc", "healthy when grpc.health.v1 at `PORT[/SERVICE]` says that it serves"),
		&cli.DurationFlag{Name: "health-start-interval", Usage: "`TIME` between checks in the start period"},
	}
}

// keysOf reads keyFlags.
func keysOf(c *cli.Context) compose.KeyFlags {
	return compose.KeyFlags{
		Network: c.String("network"), Privileged: c.Bool("privileged"), SecurityOpt: c.StringSlice("security-opt"),
		PID: c.String("pid"), IPC: c.String("ipc"), UTS: c.String("uts"), UserNS: c.String("userns"), CgroupNS: c.String("cgroupns"),
		Devices: c.StringSlice("device"), DeviceRules: c.StringSlice("device-cgroup-rule"), GroupAdd: c.StringSlice("group-add"),
		Sysctls: c.StringSlice("sysctl"), Ulimits: c.StringSlice("ulimit"),
		CgroupParent: c.String("cgroup-parent"), CPUSet: c.String("cpuset-cpus"), CPUShares: c.Int64("cpu-shares"),
		CPUPeriod: c.Int64("cpu-period"), CPUQuota: c.Int64("cpu-quota"), MemorySwap: c.String("memory-swap"),
		Swappiness: c.String("memory-swappiness"), ShmSize: c.String("shm-size"), OOMScore: c.Int("oom-score-adj"),
		BlockWeight: c.Uint("blkio-weight"), BlockWeights: c.StringSlice("blkio-weight-device"), ReadBps: c.StringSlice("device-read-bps"),
		WriteBps: c.StringSlice("device-write-bps"), ReadIOps: c.StringSlice("device-read-iops"), WriteIOps: c.StringSlice("device-write-iops"),
		DNS: c.StringSlice("dns"), DNSSearch: c.StringSlice("dns-search"), DNSOptions: c.StringSlice("dns-option"),
		Hosts: c.StringSlice("add-host"), Domain: c.String("domainname"), MAC: c.String("mac-address"),
		LogDriver: c.String("log-driver"), LogOptions: c.StringSlice("log-opt"),
		HealthHTTP: c.String("health-http"), HealthTCP: c.String("health-tcp"), HealthRPC: c.String("health-grpc"),
		HealthStartInterval: c.Duration("health-start-interval"),
	}
}
