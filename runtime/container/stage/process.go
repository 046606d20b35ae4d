package stage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/capability"

	"shoal/runtime"
)

const (
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" // Docker's
	maxHostname = 64                                                                  // bytes; utsname's limit
)

// Command is the argv of the container's first process, as Docker combines the spec's and the image's.
func Command(s runtime.Spec, img ImageConfig) ([]string, error) {
	entry, cmd := s.Entrypoint, s.Command
	if entry == nil {
		entry = img.Entrypoint
		if cmd == nil {
			cmd = img.Cmd
		}
	}
	argv := slices.Concat(entry, cmd)
	if len(argv) == 0 || argv[0] == "" {
		return nil, Invalidf("container %s: no command: image %s has none, and the spec gives none", s.ID, s.Image)
	}
	return argv, nil
}

// Environ merges lists of KEY=VALUE; later ones win, the order of first appearance stays.
func Environ(lists ...[]string) []string {
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

// Capabilities applies drop, then add, to the default set. "ALL" in drop empties it; "ALL" in add takes every one but those
// that drop names.
func Capabilities(add, drop []string) ([]string, error) {
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
				return nil, false, Invalidf("unknown capability %q", n)
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

// Hostname is the container's: the spec's, else its name or id.
func Hostname(s runtime.Spec) string {
	name := s.Hostname
	if name == "" {
		name = s.Name
	}
	if name == "" {
		name = string(s.ID)
	}
	return name[:min(len(name), maxHostname)]
}

// processEnv is the environment of the container's first process.
func processEnv(rec Record, who identity) []string {
	base := []string{defaultPath, "HOSTNAME=" + Hostname(rec.Spec)}
	if rec.Spec.TTY {
		base = append(base, "TERM=xterm")
	}
	env := Environ(base, rec.Config.Env, rec.Spec.Env)
	return withHome(env, who)
}

func withHome(env []string, who identity) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "HOME=") {
			return env
		}
	}
	return append(env, "HOME="+who.Home)
}
