package main

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
)

// resourceFlags say what of a machine is for tasks.
func resourceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "resource", Usage: "`NAME=COUNT` or NAME=ID,ID… that tasks can ask for as generic_resources or devices, such as gpu=2; may be given more than once"},
		&cli.StringFlag{Name: "reserve-cpus", Usage: "`CPUS` that tasks do not get (default 0)"},
		&cli.StringFlag{Name: "reserve-memory", Usage: "`SIZE` of memory that tasks do not get (default the larger of 256 MiB and 5 %)"},
		&cli.StringFlag{Name: "overcommit", Usage: "give more away than there is: `cpu=FACTOR,memory=FACTOR`, such as cpu=2; see also shoal node overcommit"},
	}
}

// machineShare reads what the flags say; a negative reserve is the default.
func machineShare(c *cli.Context) (generic []job.Generic, over *job.Overcommit, reserve job.Resources, err error) {
	reserve.MemoryBytes = -1
	if generic, err = job.ParseGeneric(c.StringSlice("resource")); err != nil {
		return nil, nil, reserve, job.Errorf(job.Invalid, "--resource: %w", err)
	}
	if v := c.String("reserve-cpus"); v != "" {
		if reserve.NanoCPUs, err = job.ParseCPUs(v); err != nil {
			return nil, nil, reserve, job.Errorf(job.Invalid, "--reserve-cpus: %w", err)
		}
	}
	if v := c.String("reserve-memory"); v != "" {
		if reserve.MemoryBytes, err = job.ParseBytes(v); err != nil {
			return nil, nil, reserve, job.Errorf(job.Invalid, "--reserve-memory: %w", err)
		}
	}
	if v := c.String("overcommit"); v != "" {
		if over, err = parseOvercommit("--overcommit", strings.Split(v, ",")); err != nil {
			return nil, nil, reserve, err
		}
	}
	return generic, over, reserve, nil
}

// parseOvercommit reads cpu=FACTOR and memory=FACTOR.
func parseOvercommit(what string, words []string) (*job.Overcommit, error) {
	o := &job.Overcommit{}
	kvs, err := keyValues(what, words)
	if err != nil {
		return nil, err
	}
	for k, v := range kvs {
		p, err := job.ParsePercent(v)
		if err != nil {
			return nil, job.Errorf(job.Invalid, "%s: %w", what, err)
		}
		switch k {
		case "cpu", "cpus":
			o.CPUPercent = p
		case "memory":
			o.MemoryPercent = p
		default:
			return nil, job.Errorf(job.Invalid, "%s: %q is not known; write cpu=FACTOR or memory=FACTOR", what, k)
		}
	}
	return o, nil
}

// machineAttributes are what constraints can ask of this machine as node.attr.NAME, beside arch and kernel.
func machineAttributes(dataDir string, cpus int, memory int64) map[string]string {
	out := map[string]string{
		"os": "linux", "os.name": osName(), "cpu.count": strconv.Itoa(cpus), "memory": strconv.FormatInt(memory, 10),
		"cgroup.version": cgroupVersion(), "arch": goruntime.GOARCH,
	}
	if m := cpuModel(); m != "" {
		out["cpu.model"] = m
	}
	var features []string
	for _, f := range machineFeatures(dataDir) {
		if f.OK && !strings.Contains(f.Name, " on /") {
			features = append(features, strings.ReplaceAll(f.Name, " ", "-"))
		}
	}
	if list := strings.Join(features, ","); len(list) < job.MaxAttributeBytes-16 {
		out["features"] = list
	}
	for _, name := range []string{"apparmor", "wireguard", "seccomp"} {
		out[name] = strconv.FormatBool(slices.Contains(features, name))
	}
	out["kvm"] = strconv.FormatBool(exists("/dev/kvm"))
	if gpus, _ := filepath.Glob("/proc/driver/nvidia/gpus/*"); len(gpus) > 0 {
		out["gpu.nvidia"] = strconv.Itoa(len(gpus))
	}
	return out
}

func cgroupVersion() string {
	if exists("/sys/fs/cgroup/cgroup.controllers") {
		return "2"
	}
	return "1"
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
