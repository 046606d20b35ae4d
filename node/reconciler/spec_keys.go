package reconciler

import (
	"shoal/consensus/job"
	"shoal/runtime"
)

// settings fills in what few services set. joined finds the container of another service's task in the same slot; its id
// is "" while there is none.
func settings(spec *runtime.Spec, s *job.Service, joined func(service string) runtime.ID) {
	mode := func(m string) string {
		if service := job.Joined(m); service != "" && joined != nil {
			return runtime.Joining(joined(service))
		}
		return m
	}
	spec.Network = mode(s.NetworkMode)
	if i := s.Isolation; i != nil {
		spec.Isolation = isolation(i, mode)
	}
	if t := s.Tuning; t != nil {
		spec.Tuning = &runtime.Tuning{
			CgroupParent: t.CgroupParent, CPUSet: t.CPUSet, CPUShares: t.CPUShares, CPUPeriod: t.CPUPeriod, SwapBytes: t.SwapBytes,
			Swappiness: t.Swappiness, ShmBytes: t.ShmBytes, OOMScore: t.OOMScore, BlockIO: blockIO(t.BlockIO),
		}
	}
	if n := s.Naming; n != nil {
		spec.Naming = &runtime.Naming{DNS: n.DNS, DNSSearch: n.DNSSearch, DNSOptions: n.DNSOptions, Domain: n.Domain, MAC: n.MAC}
		for _, h := range n.Hosts {
			spec.Naming.Hosts = append(spec.Naming.Hosts, runtime.Host(h))
		}
	}
}

func isolation(i *job.Isolation, mode func(string) string) *runtime.Isolation {
	out := &runtime.Isolation{
		Privileged: i.Privileged, NewPrivileges: i.NewPrivileges, Seccomp: i.Seccomp, AppArmor: i.AppArmor,
		PID: mode(i.PID), IPC: mode(i.IPC), UTS: i.UTS, Cgroup: i.Cgroup, UserNS: i.UserNS,
		Groups: i.Groups, DeviceRules: i.DeviceRules, Sysctls: i.Sysctls, Umask: i.Umask,
	}
	for _, d := range i.Devices {
		out.Devices = append(out.Devices, runtime.Device(d))
	}
	for _, u := range i.Ulimits {
		out.Ulimits = append(out.Ulimits, runtime.Ulimit(u))
	}
	return out
}

func blockIO(b *job.BlockIO) *runtime.BlockIO {
	if b == nil {
		return nil
	}
	rates := func(from []job.DeviceRate) []runtime.DeviceRate {
		var to []runtime.DeviceRate
		for _, r := range from {
			to = append(to, runtime.DeviceRate(r))
		}
		return to
	}
	return &runtime.BlockIO{
		Weight: b.Weight, Weights: rates(b.Weights), ReadBps: rates(b.ReadBps), WriteBps: rates(b.WriteBps),
		ReadIOps: rates(b.ReadIOps), WriteIOps: rates(b.WriteIOps),
	}
}
