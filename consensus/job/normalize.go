package job

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
)

// Normalize brings the spec into the one form that Validate accepts and Digest compares: services, volumes, variables,
// ports, mounts and dependencies sorted, a variable that is set twice reduced to its last value, equal ways to say a
// thing made one. It changes no meaning and is idempotent.
func (s *Spec) Normalize() {
	slices.SortStableFunc(s.Services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(s.Volumes, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	s.Volumes = slices.Compact(s.Volumes)
	for i := range s.Services {
		s.Services[i].normalize()
		s.Services[i].normalizePlacement(s.Name)
	}
}

func (s *Service) normalize() {
	switch s.Mode {
	case "":
		s.Mode = Replicated
	case Global:
		s.Replicas = 0
	}
	s.normalizeBatch()
	s.normalizeNetwork()
	s.normalizeKeys()
	s.Env = normalEnv(s.Env)
	s.CapAdd = normalCaps(s.CapAdd)
	s.CapDrop = normalCaps(s.CapDrop)
	if sig := strings.ToUpper(s.StopSignal); ValidSignal(sig) && sig[0] >= 'A' && !strings.HasPrefix(sig, "SIG") {
		s.StopSignal = "SIG" + sig
	} else if ValidSignal(sig) {
		s.StopSignal = sig
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		p.Protocol = cmp.Or(strings.ToLower(p.Protocol), "tcp")
		p.HostIP = p.HostIP.Unmap()
	}
	slices.SortStableFunc(s.Ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), strings.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.Published, b.Published), a.HostIP.Compare(b.HostIP))
	})
	s.Ports = slices.Compact(s.Ports)
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if m.Target != "" {
			m.Target = path.Clean(m.Target)
		}
		if m.Type == MountBind && m.Source != "" {
			m.Source = path.Clean(m.Source)
		}
		m.normalizeOptions()
	}
	// Parents come before their children in this order, so it is also a good order to mount in.
	slices.SortStableFunc(s.Mounts, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) })
	slices.SortStableFunc(s.Constraints, func(a, b Constraint) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Op, b.Op), strings.Compare(a.Value, b.Value))
	})
	s.Constraints = slices.Compact(s.Constraints)
	for i := range s.DependsOn {
		s.DependsOn[i].Condition = cmp.Or(s.DependsOn[i].Condition, DependStarted)
	}
	slices.SortStableFunc(s.DependsOn, func(a, b Dependency) int { return strings.Compare(a.Service, b.Service) })
	s.DependsOn = slices.Compact(s.DependsOn)
}

// normalEnv sorts by key and keeps the last of equal keys.
func normalEnv(env []string) []string {
	sorted := slices.Clone(env)
	slices.SortStableFunc(sorted, compareEnv)
	out := sorted[:0]
	for i, e := range sorted {
		if i+1 < len(sorted) && compareEnv(e, sorted[i+1]) == 0 {
			continue
		}
		out = append(out, e)
	}
	return out
}

// compareEnv orders variables by key alone: with the "=" in it, A=1 would come after A1=1.
func compareEnv(a, b string) int {
	ka, _, _ := strings.Cut(a, "=")
	kb, _, _ := strings.Cut(b, "=")
	return strings.Compare(ka, kb)
}

func normalCaps(caps []string) []string {
	out := make([]string, 0, len(caps))
	for _, c := range caps {
		if ValidCapability(c) {
			c = canonicalCapability(c)
		}
		out = append(out, c)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
