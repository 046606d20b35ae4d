package state

import (
	"fmt"
	"net/netip"
	"slices"

	"shoal/consensus/job"
)

// derived is what Apply needs at hand and can compute anew from the tables: it is in no snapshot and no hash.
type derived struct {
	services map[job.Digest]*serviceInfo
	digests  map[string]*jobDigests // by job name
	use      map[job.NodeID]*nodeUse
	events   int // rows in TableEvents
	keys     int // rows in tableKeys
	homes    int // rows in TableHomes

	subnets map[netip.Prefix]bool
	// lowSubnet: all subnets below it are taken; zero: look from the pool's begin.
	lowSubnet netip.Addr
}

func newDerived() *derived {
	return &derived{
		services: map[job.Digest]*serviceInfo{},
		digests:  map[string]*jobDigests{},
		use:      map[job.NodeID]*nodeUse{},
		subnets:  map[netip.Prefix]bool{},
	}
}

// serviceInfo is what the checks of a placement ask of a service.
type serviceInfo struct {
	service *job.Service
	demand  job.Resources
	ports   []job.Port // with a Published number
}

func newServiceInfo(s *job.Service) *serviceInfo {
	return &serviceInfo{service: s, demand: s.Demand(), ports: PublishedPorts(s)}
}

// PublishedPorts lists the ports of a service that claim a number on their node.
func PublishedPorts(s *job.Service) []job.Port {
	var out []job.Port
	for _, p := range s.Ports {
		if p.Published != 0 {
			out = append(out, p)
		}
	}
	return out
}

// PortsClash tells whether two published ports cannot be on one node: same number and protocol, and an address in common.
func PortsClash(a, b job.Port) bool {
	if a.Published != b.Published || a.Protocol != b.Protocol {
		return false
	}
	return anyAddr(a.HostIP) || anyAddr(b.HostIP) || a.HostIP == b.HostIP
}

func anyAddr(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }

// jobDigests remembers the digests of a job's services, which are dear to compute.
type jobDigests struct {
	job *job.Job
	by  map[string]job.Digest
}

// digest is the digest of the job's service as it is in j, "" if j has none of that name.
func (d *derived) digest(j *job.Job, service string) job.Digest {
	jd := d.digests[j.Name]
	if jd == nil || jd.job != j {
		jd = &jobDigests{job: j, by: make(map[string]job.Digest, len(j.Spec.Services))}
		for i := range j.Spec.Services {
			jd.by[j.Spec.Services[i].Name] = j.Spec.Services[i].Digest()
		}
		d.digests[j.Name] = jd
	}
	return jd.by[service]
}

// nodeUse sums what the tasks on a node that have not ended ask for, whatever is desired of them.
type nodeUse struct {
	demand job.Resources
	ports  []job.Port
	tasks  map[string]int // by "job/service", none is 0
	// generic counts what is given away, by kind, and by kind and id ("gpu/0"); none is 0.
	generic map[string]int
}

// claim counts a task in (sign 1) or out (-1). One that waits for another's room counts for nothing.
func (d *derived) claim(k *job.Task, sign int) {
	if k.Wait == job.WaitRoom {
		return
	}
	u := d.use[k.Node]
	if u == nil {
		u = &nodeUse{tasks: map[string]int{}, generic: map[string]int{}}
		d.use[k.Node] = u
	}
	count(u.tasks, serviceKey(k), sign)
	for _, g := range k.Generic {
		count(u.generic, g.Kind, sign*g.Total())
		for _, id := range g.IDs {
			count(u.generic, g.Kind+"/"+id, sign)
		}
	}
	si := d.services[k.Digest]
	if si == nil {
		return
	}
	u.demand.NanoCPUs += int64(sign) * si.demand.NanoCPUs
	u.demand.MemoryBytes += int64(sign) * si.demand.MemoryBytes
	u.demand.PIDs += int64(sign) * si.demand.PIDs
	if sign > 0 {
		u.ports = append(u.ports, si.ports...)
		return
	}
	for _, p := range si.ports {
		for i, q := range u.ports {
			if p == q {
				u.ports = append(u.ports[:i], u.ports[i+1:]...)
				break
			}
		}
	}
}

func serviceKey(k *job.Task) string { return k.Job + "/" + k.Service }

func count(m map[string]int, key string, by int) {
	if m[key] += by; m[key] == 0 {
		delete(m, key)
	}
}

// refuses says why a task of si cannot be on the node beside what is there, "" if it can.
func (u *nodeUse) refuses(n *job.Node, si *serviceInfo, k *job.Task, most int) string {
	if u == nil {
		u = &nodeUse{}
	}
	have := n.Allocatable()
	switch {
	case lacks(have.NanoCPUs, u.demand.NanoCPUs, si.demand.NanoCPUs):
		return "node lacks CPU"
	case lacks(have.MemoryBytes, u.demand.MemoryBytes, si.demand.MemoryBytes):
		return "node lacks memory"
	case lacks(have.PIDs, u.demand.PIDs, si.demand.PIDs):
		return "node lacks pids"
	case most > 0 && u.tasks[serviceKey(k)] >= most:
		return fmt.Sprintf("node has %d tasks of the service already", most)
	}
	for _, p := range si.ports {
		for _, q := range u.ports {
			if PortsClash(p, q) {
				return "host port is taken on the node"
			}
		}
	}
	return u.refusesGeneric(n, si.service, k)
}

// refusesGeneric checks that a task got what its service asks for, of what is there and free.
func (u *nodeUse) refusesGeneric(n *job.Node, sv *job.Service, k *job.Task) string {
	if len(sv.Generic) != len(k.Generic) {
		return "task has not got the resources that its service asks for"
	}
	for i, g := range k.Generic {
		if g.Kind != sv.Generic[i].Kind || g.Total() != sv.Generic[i].Count {
			return "task has not got the resources that its service asks for"
		}
		if u.generic[g.Kind]+g.Total() > n.GenericTotal(g.Kind) {
			return "node lacks " + g.Kind
		}
		for j, id := range g.IDs {
			if u.generic[g.Kind+"/"+id] > 0 || slices.Contains(g.IDs[:j], id) || !n.HasGeneric(g.Kind, id) {
				return fmt.Sprintf("%s %s of the node is not free", g.Kind, id)
			}
		}
	}
	return ""
}

// lacks: a task that asks nothing fits always. Written so that it cannot overflow.
func lacks(capacity, used, want int64) bool { return want > 0 && want > capacity-used }
