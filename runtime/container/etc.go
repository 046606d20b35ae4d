package container

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// noNaming is what a container without settings of its own has.
var noNaming runtime.Naming

func namingOf(s *runtime.Spec) *runtime.Naming {
	if s.Naming == nil {
		return &noNaming
	}
	return s.Naming
}

// writeEtc makes the three files that a container finds in /etc. They are rewritten at each start: the gateway and the
// address may have changed.
func (r *Runtime) writeEtc(c *container) error {
	s := &c.rec.Spec
	files := map[string]string{stage.FileHosts: r.hosts(c), stage.FileHostname: stage.Hostname(*s) + "\n", stage.FileResolv: r.resolvConf(s)}
	for file, text := range files {
		// Not by rename: a file that is mounted into a running container must stay the same file.
		if err := os.WriteFile(filepath.Join(c.dir, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const localHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n" +
	"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"

func (r *Runtime) hosts(c *container) string {
	s, n := &c.rec.Spec, namingOf(&c.rec.Spec)
	text := localHosts
	if s.Network == runtime.NetworkHost {
		if host, err := os.ReadFile("/etc/hosts"); err == nil {
			text = strings.TrimRight(string(host), "\n") + "\n"
		}
	}
	addr := netip.AddrFrom4([4]byte{127, 0, 1, 1})
	if c.rec.Address.IsValid() {
		addr = c.rec.Address
	} else if joined := r.joinedAddress(s); joined.IsValid() {
		addr = joined
	}
	name := stage.Hostname(*s)
	if n.Domain != "" {
		name = strings.TrimSuffix(name, "."+n.Domain) + "." + n.Domain + " " + name
	}
	if i := s.Isolation; i == nil || i.UTS != runtime.ModeHost {
		text += addr.String() + "\t" + name + "\n"
	}
	for _, h := range n.Hosts {
		at := h.Address
		if at == runtime.HostGateway {
			at = r.gateway().String()
		}
		text += at + "\t" + h.Name + "\n"
	}
	return text
}

// gateway is this machine as its containers see it.
func (r *Runtime) gateway() netip.Addr {
	if r.cfg.Network != nil && r.cfg.Network.Gateway().IsValid() {
		return r.cfg.Network.Gateway()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// resolvConf is the node's own server for what is on its network: that one asks the servers of the spec for what it does
// not know. Who is not on the network asks as the machine does.
func (r *Runtime) resolvConf(s *runtime.Spec) string {
	n := namingOf(s)
	servers := r.cfg.Nameservers
	if len(servers) == 0 && r.cfg.Network != nil && r.cfg.Network.Gateway().IsValid() {
		servers = []netip.Addr{r.cfg.Network.Gateway()}
	}
	search, options := r.cfg.Search, r.cfg.ResolvOptions
	if s.Network == runtime.NetworkHost || s.Network == runtime.NetworkNone {
		servers, search, options = nil, nil, nil
	}
	own := len(n.DNS)+len(n.DNSSearch)+len(n.DNSOptions) > 0
	if len(servers) == 0 && !own {
		host, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			return ""
		}
		return string(host)
	}
	var b strings.Builder
	if len(servers) == 0 {
		for _, d := range n.DNS {
			fmt.Fprintf(&b, "nameserver %s\n", d)
		}
		if len(n.DNS) == 0 {
			b.WriteString(hostNameservers())
		}
	}
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(n.DNSSearch) > 0 {
		search = n.DNSSearch
	}
	if len(search) > 0 && !slices.Equal(search, []string{"."}) {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if options = append(slices.Clone(options), n.DNSOptions...); len(options) > 0 { // of equal ones the last counts
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String()
}

// hostNameservers are the lines of the machine's resolv.conf that name servers.
func hostNameservers() string {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return ""
	}
	var b strings.Builder
	for line := range strings.Lines(string(host)) {
		if strings.HasPrefix(line, "nameserver") {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	return b.String()
}
