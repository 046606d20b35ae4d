package state

import (
	"net/netip"

	"shoal/consensus/job"
)

// derived is what Apply needs at hand and can compute anew from the tables: it is in no snapshot and no hash.
type derived struct {
	services map[job.Digest]*serviceInfo
	digests  map[string]*jobDigests // by job name
	use      map[job.NodeID]*nodeUse
	events   int // rows in TableEvents
	keys     int // rows in tableKeys

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
}

func (d *derived) claim(node job.NodeID, dig job.Digest) {
	si := d.services[dig]
	if si == nil {
		return
	}
	u := d.use[node]
	if u == nil {
		u = &nodeUse{}
		d.use[node] = u
	}
	u.demand.NanoCPUs += si.demand.NanoCPUs
	u.demand.MemoryBytes += si.demand.MemoryBytes
	u.demand.PIDs += si.demand.PIDs
	u.ports = append(u.ports, si.ports...)
}

func (d *derived) release(node job.NodeID, dig job.Digest) {
	si, u := d.services[dig], d.use[node]
	if si == nil || u == nil {
		return
	}
	u.demand.NanoCPUs -= si.demand.NanoCPUs
	u.demand.MemoryBytes -= si.demand.MemoryBytes
	u.demand.PIDs -= si.demand.PIDs
	for _, p := range si.ports {
		for i, q := range u.ports {
			if p == q {
				u.ports = append(u.ports[:i], u.ports[i+1:]...)
				break
			}
		}
	}
}

// refuses says why a task of si cannot be on the node beside what is there, "" if it can.
func (u *nodeUse) refuses(n *job.Node, si *serviceInfo) string {
	if u == nil {
		u = &nodeUse{}
	}
	switch {
	case lacks(n.Capacity.NanoCPUs, u.demand.NanoCPUs, si.demand.NanoCPUs):
		return "node lacks CPU"
	case lacks(n.Capacity.MemoryBytes, u.demand.MemoryBytes, si.demand.MemoryBytes):
		return "node lacks memory"
	case lacks(n.Capacity.PIDs, u.demand.PIDs, si.demand.PIDs):
		return "node lacks pids"
	}
	for _, p := range si.ports {
		for _, q := range u.ports {
			if PortsClash(p, q) {
				return "host port is taken on the node"
			}
		}
	}
	return ""
}

// lacks: a task that asks nothing fits always. Written so that it cannot overflow.
func lacks(capacity, used, want int64) bool { return want > 0 && want > capacity-used }
