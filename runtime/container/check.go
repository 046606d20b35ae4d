package container

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

const (
	defaultStopGrace = 10 * time.Second
	maxHostname      = 64 // bytes; utsname's limit
)

var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)

// checkSpec refuses what cannot run anywhere, before anything is made.
func checkSpec(s runtime.Spec) error {
	if !validID.MatchString(string(s.ID)) {
		return stage.Invalidf("container id %q: want 1 to 63 of a-z 0-9 _ . -, the first a letter or digit", s.ID)
	}
	if s.Image == "" {
		return stage.Invalidf("container %s: no image given", s.ID)
	}
	if m := s.Resources.MemoryBytes; m != 0 && m < runtime.MinMemoryBytes {
		return stage.Invalidf("container %s: memory limit %d is below %d bytes, the least with which a container starts", s.ID, m, runtime.MinMemoryBytes)
	}
	if r := s.Resources; r.MemoryBytes < 0 || r.NanoCPUs < 0 || r.PIDs < 0 || r.MemoryReservationBytes < 0 {
		return stage.Invalidf("container %s: a resource limit is negative", s.ID)
	}
	if n := s.Resources.NanoCPUs; n != 0 && n < minNanoCPUs {
		return stage.Invalidf("container %s: cpu limit %.4f is below %.3f, the kernel's least", s.ID, float64(n)/1e9, float64(minNanoCPUs)/1e9)
	}
	if len(s.Hostname) > maxHostname {
		return stage.Invalidf("container %s: hostname %q is longer than %d bytes", s.ID, s.Hostname, maxHostname)
	}
	if s.StopSignal != "" {
		if _, err := stage.ParseSignal(s.StopSignal); err != nil {
			return fmt.Errorf("container %s: stop signal: %w", s.ID, err)
		}
	}
	for _, e := range s.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" || strings.IndexByte(e, 0) >= 0 {
			return stage.Invalidf("container %s: environment %q is not KEY=VALUE", s.ID, e)
		}
	}
	if err := checkSettings(s); err != nil {
		return err
	}
	if _, err := stage.Capabilities(s.CapAdd, s.CapDrop); err != nil {
		return fmt.Errorf("container %s: %w", s.ID, err)
	}
	for _, p := range s.Ports {
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			return stage.Invalidf("container %s: port %d: protocol %q is neither tcp nor udp", s.ID, p.ContainerPort, p.Protocol)
		}
		if p.ContainerPort == 0 {
			return stage.Invalidf("container %s: a published port has no container port", s.ID)
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
			return stage.Invalidf("container %s: mount target %q is not an absolute path below /", s.ID, m.Target)
		case seen[target]:
			return stage.Invalidf("container %s: two mounts at %s", s.ID, target)
		case m.Type != runtime.MountBind && m.Type != runtime.MountVolume && m.Type != runtime.MountTmpfs:
			return stage.Invalidf("container %s: mount at %s: type %q is none of bind, volume, tmpfs", s.ID, target, m.Type)
		case m.SizeBytes < 0:
			return stage.Invalidf("container %s: mount at %s: negative size", s.ID, target)
		}
		seen[target] = true
	}
	return nil
}

func stopSignal(rec stage.Record) unix.Signal {
	for _, s := range []string{rec.Spec.StopSignal, rec.Config.StopSignal} {
		if sig, err := stage.ParseSignal(s); s != "" && err == nil {
			return sig
		}
	}
	return unix.SIGTERM
}

func stopGrace(rec stage.Record) time.Duration {
	if rec.Spec.StopGrace > 0 {
		return rec.Spec.StopGrace
	}
	return defaultStopGrace
}
