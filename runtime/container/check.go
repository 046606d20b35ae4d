package container

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/image"
)

const (
	defaultPath      = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" // Docker's
	defaultStopGrace = 10 * time.Second
	maxHostname      = 64 // bytes; utsname's limit
)

var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)

// checkSpec refuses what cannot run anywhere, before anything is made.
func checkSpec(s runtime.Spec) error {
	if !validID.MatchString(string(s.ID)) {
		return invalidf("container id %q: want 1 to 63 of a-z 0-9 _ . -, the first a letter or digit", s.ID)
	}
	if s.Image == "" {
		return invalidf("container %s: no image given", s.ID)
	}
	if m := s.Resources.MemoryBytes; m != 0 && m < runtime.MinMemoryBytes {
		return invalidf("container %s: memory limit %d is below %d bytes, the least with which a container starts", s.ID, m, runtime.MinMemoryBytes)
	}
	if r := s.Resources; r.MemoryBytes < 0 || r.NanoCPUs < 0 || r.PIDs < 0 || r.MemoryReservationBytes < 0 {
		return invalidf("container %s: a resource limit is negative", s.ID)
	}
	if n := s.Resources.NanoCPUs; n != 0 && n < minNanoCPUs {
		return invalidf("container %s: cpu limit %.4f is below %.3f, the kernel's least", s.ID, float64(n)/1e9, float64(minNanoCPUs)/1e9)
	}
	if len(s.Hostname) > maxHostname {
		return invalidf("container %s: hostname %q is longer than %d bytes", s.ID, s.Hostname, maxHostname)
	}
	if s.StopSignal != "" {
		if _, err := parseSignal(s.StopSignal); err != nil {
			return fmt.Errorf("container %s: stop signal: %w", s.ID, err)
		}
	}
	for _, e := range s.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" || strings.IndexByte(e, 0) >= 0 {
			return invalidf("container %s: environment %q is not KEY=VALUE", s.ID, e)
		}
	}
	if _, err := capabilities(s.CapAdd, s.CapDrop); err != nil {
		return fmt.Errorf("container %s: %w", s.ID, err)
	}
	for _, p := range s.Ports {
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			return invalidf("container %s: port %d: protocol %q is neither tcp nor udp", s.ID, p.ContainerPort, p.Protocol)
		}
		if p.ContainerPort == 0 {
			return invalidf("container %s: a published port has no container port", s.ID)
		}
	}
	return checkMounts(s)
}

func checkMounts(s runtime.Spec) error {
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		target := path.Clean(m.Target)
		switch {
		case !path.IsAbs(m.Target) || target == "/" || strings.IndexByte(m.Target+m.Source, 0) >= 0:
			return invalidf("container %s: mount target %q is not an absolute path below /", s.ID, m.Target)
		case seen[target]:
			return invalidf("container %s: two mounts at %s", s.ID, target)
		case m.Type != runtime.MountBind && m.Type != runtime.MountVolume && m.Type != runtime.MountTmpfs:
			return invalidf("container %s: mount at %s: type %q is none of bind, volume, tmpfs", s.ID, target, m.Type)
		case m.SizeBytes < 0:
			return invalidf("container %s: mount at %s: negative size", s.ID, target)
		}
		seen[target] = true
	}
	return nil
}

// command is the argv of the container's first process, as Docker combines the spec's and the image's.
func command(s runtime.Spec, img image.RunConfig) ([]string, error) {
	entry, cmd := s.Entrypoint, s.Command
	if entry == nil {
		entry = img.Entrypoint
		if cmd == nil {
			cmd = img.Cmd
		}
	}
	argv := slices.Concat(entry, cmd)
	if len(argv) == 0 || argv[0] == "" {
		return nil, invalidf("container %s: no command: image %s has none, and the spec gives none", s.ID, s.Image)
	}
	return argv, nil
}

// environ merges lists of KEY=VALUE; later ones win, the order of first appearance stays.
func environ(lists ...[]string) []string {
	var out []string
	at := map[string]int{}
	for _, list := range lists {
		for _, e := range list {
			k, _, _ := strings.Cut(e, "=")
			if i, ok := at[k]; ok {
				out[i] = e
				continue
			}
			at[k] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// defaultCapabilities are Docker's (moby, daemon/pkg/oci/caps/defaults.go).
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// capabilities applies drop, then add, to the default set. "ALL" in drop empties it; "ALL" in add takes every one but those
// that drop names.
func capabilities(add, drop []string) ([]string, error) {
	known := map[string]bool{}
	for _, c := range capability.ListKnown() {
		known["CAP_"+strings.ToUpper(c.String())] = true
	}
	normal := func(names []string) (list []string, all bool, err error) {
		for _, n := range names {
			n = strings.ToUpper(n)
			if n == "ALL" {
				all = true
				continue
			}
			if !strings.HasPrefix(n, "CAP_") {
				n = "CAP_" + n
			}
			if !known[n] {
				return nil, false, invalidf("unknown capability %q", n)
			}
			list = append(list, n)
		}
		return list, all, nil
	}
	adds, addAll, err := normal(add)
	if err != nil {
		return nil, err
	}
	drops, dropAll, err := normal(drop)
	if err != nil {
		return nil, err
	}
	base := defaultCapabilities
	if dropAll {
		base = nil
	}
	if addAll {
		// What this process itself lacks cannot be given.
		base = nil
		have, err := capability.NewPid2(0)
		if err == nil {
			err = have.Load()
		}
		if err != nil {
			return nil, fmt.Errorf("read own capabilities: %w", err)
		}
		for _, c := range capability.ListKnown() {
			if have.Get(capability.BOUNDING, c) {
				base = append(base, "CAP_"+strings.ToUpper(c.String()))
			}
		}
	}
	var out []string
	for _, c := range base {
		if !slices.Contains(drops, c) {
			out = append(out, c)
		}
	}
	for _, c := range adds {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out, nil
}

// parseSignal reads "SIGHUP", "HUP", "hup" or "1".
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, invalidf("signal %d is not between 1 and 64", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if rt, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok { // systemd's images stop with SIGRTMIN+3
		if n, err := strconv.Atoi(rt); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(34 + n), nil
		}
	}
	return 0, invalidf("unknown signal %q", s)
}

func stopSignal(rec record) unix.Signal {
	for _, s := range []string{rec.Spec.StopSignal, rec.Config.StopSignal} {
		if sig, err := parseSignal(s); s != "" && err == nil {
			return sig
		}
	}
	return unix.SIGTERM
}

func stopGrace(rec record) time.Duration {
	if rec.Spec.StopGrace > 0 {
		return rec.Spec.StopGrace
	}
	return defaultStopGrace
}
