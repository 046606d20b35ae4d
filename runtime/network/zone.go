package network

import (
	"net/netip"
	"slices"
	"strings"
)

// zone is Records made ready for asking. It is never changed after it was built.
type zone struct {
	scopes map[netip.Addr]string
	// names maps job, then lower-case name, to addresses without doubles; an empty list is a name without healthy tasks.
	names map[string]map[string][]netip.Addr
	// reverse maps an address to "name.job", a task's name if there is one.
	reverse map[netip.Addr]string
}

// tasksPrefix before a service asks for all its tasks' addresses, also once services have a virtual one.
const tasksPrefix = "tasks."

func newZone(r Records) *zone {
	z := &zone{scopes: make(map[netip.Addr]string, len(r.Scopes)), names: map[string]map[string][]netip.Addr{}, reverse: map[netip.Addr]string{}}
	for addr, job := range r.Scopes {
		z.scopes[addr.Unmap()] = strings.ToLower(job)
	}
	for _, rec := range r.Services {
		z.add(strings.ToLower(rec.Job), strings.ToLower(rec.Name), rec.Addrs)
	}
	return z
}

func (z *zone) add(job, name string, addrs []netip.Addr) {
	if z.names[job] == nil {
		z.names[job] = map[string][]netip.Addr{}
	}
	have := z.names[job][name]
	if have == nil {
		have = []netip.Addr{}
	}
	for _, a := range addrs {
		if a = a.Unmap(); !a.Is4() || slices.Contains(have, a) {
			continue
		}
		have = append(have, a)
		// Task names are the longest of an address's names, and one name must win in whatever order they come.
		full := name + "." + job
		if old := z.reverse[a]; len(full) > len(old) || len(full) == len(old) && full < old {
			z.reverse[a] = full
		}
	}
	z.names[job][name] = have
}

// lookup finds name, lower case and without the final dot, as a container of job scope means it. Its own job comes
// first: a service there hides a foreign one, and a domain of the world, of the same name.
func (z *zone) lookup(scope, name string) (addrs []netip.Addr, known bool) {
	if addrs, known = z.in(scope, name); known {
		return addrs, true
	}
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		return z.in(name[dot+1:], name[:dot])
	}
	return nil, false
}

func (z *zone) in(job, name string) ([]netip.Addr, bool) {
	names := z.names[job]
	if addrs, ok := names[name]; ok {
		return addrs, true
	}
	if service, ok := strings.CutPrefix(name, tasksPrefix); ok {
		addrs, ok := names[service]
		return addrs, ok
	}
	return nil, false
}

// reverseAddr reads "4.3.2.1.in-addr.arpa".
func reverseAddr(name string) (netip.Addr, bool) {
	labels, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(labels, ".")
	slices.Reverse(parts)
	addr, err := netip.ParseAddr(strings.Join(parts, "."))
	return addr, err == nil
}
