package reconciler

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"shoal/consensus/job"
	"shoal/runtime"
)

// Labels on each container, by which a node knows its own again.
const (
	labelTask    = "shoal.task"
	labelJob     = "shoal.job"
	labelService = "shoal.service"
	labelSlot    = "shoal.slot"
	labelDigest  = "shoal.digest"
	labelNode    = "shoal.node"
	labelHealth  = "shoal.health" // the image's HEALTHCHECK as JSON: the image may be gone when we ask again
)

// Spec says what a task's container is. env comes after the service's and wins over it; health is the image's own check.
// The container's id is the task's. joined finds the containers whose namespaces it joins.
func Spec(a Assignment, node job.NodeID, env []string, health *runtime.HealthConfig, joined func(service string) runtime.ID) runtime.Spec {
	s, t := &a.Service, &a.Task
	labels := maps.Clone(s.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelTask] = string(t.ID)
	labels[labelJob] = t.Job
	labels[labelService] = t.Service
	labels[labelSlot] = strconv.Itoa(t.Slot)
	labels[labelDigest] = string(t.Digest)
	labels[labelNode] = string(node)
	if health != nil {
		b, err := json.Marshal(job.Health{
			Test: health.Test, Interval: health.Interval, Timeout: health.Timeout,
			StartPeriod: health.StartPeriod, StartInterval: health.StartInterval, Retries: health.Retries,
		})
		if err == nil { // strings and numbers always encode
			labels[labelHealth] = string(b)
		}
	}
	spec := runtime.Spec{
		ID: runtime.ID(t.ID), Name: t.Name(), Labels: labels,
		Image: s.Image, Entrypoint: s.Entrypoint, Command: s.Command,
		Env:        slices.Concat(s.Env, env, genericEnv(t.Generic)),
		WorkingDir: s.WorkingDir, User: s.User, Hostname: hostname(t, s),
		TTY: s.TTY, Stdin: s.Stdin, Attach: s.Attach, Init: s.Init, ReadOnly: s.ReadOnly,
		StopSignal: s.StopSignal, StopGrace: s.StopGrace,
		Mounts: mounts(s.Mounts), CapAdd: s.CapAdd, CapDrop: s.CapDrop,
		Resources: runtime.Resources{
			NanoCPUs: s.Limits.NanoCPUs, MemoryBytes: s.Limits.MemoryBytes, PIDs: s.Limits.PIDs,
			MemoryReservationBytes: s.Reservations.MemoryBytes,
		},
		Ports: ports(s.Ports),
		Lease: t.Lease,
		Log:   runtime.LogLimits{MaxBytes: s.Log.MaxBytes, MaxFiles: s.Log.MaxFiles, None: s.Log.None},
	}
	settings(&spec, s, joined)
	noteJoins(&spec, s)
	return spec
}

// hostname is the task's name without a dot: what follows a dot would be the domain in which glibc and Go look up short
// names first, so that in client.2 the name "web" would mean web.2 alone.
func hostname(t *job.Task, s *job.Service) string {
	if s.Hostname != "" {
		return s.Hostname
	}
	if s.NetworkMode == job.NetworkHost { // as with docker: who has the node's network has its name
		if name, err := os.Hostname(); err == nil {
			return name
		}
	}
	return strings.ReplaceAll(t.Name(), ".", "-")
}

func mounts(from []job.Mount) []runtime.Mount {
	var to []runtime.Mount
	for _, m := range from {
		to = append(to, runtime.Mount{
			Type: runtime.MountType(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			CreateHostPath: m.CreateHostPath, SizeBytes: m.SizeBytes, Mode: m.FileMode, NoCopy: m.NoCopy, External: m.External,
			Propagation: m.Propagation, NoRecurse: m.NoRecurse, Subpath: m.Subpath, Options: m.Options,
		})
	}
	return to
}

func ports(from []job.Port) []runtime.Port {
	var to []runtime.Port
	for _, p := range from {
		to = append(to, runtime.Port{HostIP: p.HostIP, HostPort: p.Published, ContainerPort: p.Target, Protocol: p.Protocol})
	}
	return to
}

// boundPorts is the way back, for a status.
func boundPorts(from []runtime.Port) []job.Port {
	var to []job.Port
	for _, p := range from {
		to = append(to, job.Port{HostIP: p.HostIP, Published: p.HostPort, Target: p.ContainerPort, Protocol: p.Protocol})
	}
	return to
}
