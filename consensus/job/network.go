package job

import (
	"slices"
	"strings"
)

// Network modes of a service besides "service:NAME". The zero value is a network of its own on the node's bridge.
const (
	NetworkBridge = ""
	NetworkNone   = "none" // a loopback interface only
	NetworkHost   = "host" // the node's own network
)

// joinPrefix begins a mode that means the namespace of another service's task in the same slot, on the same node.
const joinPrefix = "service:"

// JoinsNetwork is the service of the job whose tasks' network the tasks of this one use, slot by slot; "" if it has one
// of its own.
func (s *Service) JoinsNetwork() string { return joined(s.NetworkMode) }

func joined(mode string) string {
	name, ok := strings.CutPrefix(mode, joinPrefix)
	if !ok {
		return ""
	}
	return name
}

// Together lists the services that a task of this one must share its node with, slot by slot, because it joins a
// namespace of theirs; sorted, nil for most services.
func (s *Service) Together() []string {
	var out []string
	for _, mode := range s.namespaceModes() {
		if name := joined(mode); name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (s *Service) namespaceModes() []string {
	if i := s.Isolation; i != nil {
		return []string{s.NetworkMode, i.PID, i.IPC}
	}
	return []string{s.NetworkMode}
}

func (s *Service) normalizeNetwork() {
	if s.NetworkMode == "bridge" || s.NetworkMode == "default" {
		s.NetworkMode = NetworkBridge
	}
}

func (s *Service) validateNetwork(p *problems, at string, spec *Spec) {
	at += ".network_mode"
	switch mode := s.NetworkMode; {
	case mode == NetworkBridge:
		return
	case mode == NetworkNone, mode == NetworkHost:
	case joined(mode) != "":
		s.validateJoin(p, at, joined(mode), spec)
	default:
		p.add(at, "%q is not known; use bridge, none, host or service:NAME", shorten(mode))
	}
	if len(s.Ports) > 0 {
		p.add(at, "%q publishes no ports: remove `ports`%s", shorten(s.NetworkMode), portsGoTo(s))
	}
}

func portsGoTo(s *Service) string {
	if on := s.JoinsNetwork(); on != "" {
		return ", or move them to service " + on
	}
	return ""
}

// validateJoin checks that each task finds its partner: the other service is there, has a namespace of its own, and as
// many tasks.
func (s *Service) validateJoin(p *problems, at, name string, spec *Spec) {
	on := spec.Service(name)
	switch {
	case on == nil:
		p.add(at, "service %q is not in the job; add it or use another mode", shorten(name))
	case on.Name == s.Name:
		p.add(at, "the service cannot join itself; remove it")
	case len(on.Together()) > 0:
		p.add(at, "service %s itself joins a namespace of %s; join that one", name, strings.Join(on.Together(), ", "))
	case on.Mode.PerNode() != s.Mode.PerNode():
		p.add(at, "one of %s and %s has a task on every node and the other has not; give both the same mode", s.Name, name)
	case !s.Mode.PerNode() && s.Replicas > on.Replicas:
		p.add(at, "%d replicas join those of %s, which has %d; each joins one: scale both alike", s.Replicas, name, on.Replicas)
	}
}
