package network

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
)

func TestProbe(t *testing.T) {
	host := newSpace(t)
	features := func() map[string]Feature {
		byName := map[string]Feature{}
		host.do(func() error {
			for _, f := range Probe() {
				byName[f.Name] = f
				if f.OK != (f.Err == nil) || f.Lost == "" {
					t.Errorf("feature %+v", f)
				}
			}
			return nil
		})
		return byName
	}
	before := features()
	// The other tests need these; where they are missing, Probe must be the one to say so.
	for _, name := range []string{"bridge", "veth", "nftables nat", "ip_forward", "firewall"} {
		if f := before[name]; !f.OK {
			t.Errorf("%s: %v", name, f.Err)
		}
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(host.ns)))
	host.must(err)
	drop := nftables.ChainPolicyDrop
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "strict"})
	conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	host.must(conn.Flush())
	host.do(func() error {
		if err := tryFirewall(); err == nil || !strings.Contains(err.Error(), "table strict") {
			t.Errorf("a firewall that drops: %v", err)
		}
		return nil
	})
}

// One container with a published port comes and goes among so many others.
func BenchmarkAttach(b *testing.B) {
	for _, others := range []int{0, 200} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			host, n := node(b, 1)
			c := newSpace(b)
			for i := range others {
				id := fmt.Sprint("other", i)
				ls, _, err := n.leases.reserve(id)
				host.must(err)
				p, _ := Port{HostPort: uint16(20000 + i), ContainerPort: 80}.normal()
				ls.Ports = []Port{p}
			}
			for b.Loop() {
				_, err := n.Attach(b.Context(), Attachment{ID: "c", NetNS: c.path(), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
				host.must(err)
				b.StopTimer()
				host.must(n.Detach(b.Context(), "c"))
				b.StartTimer()
			}
		})
	}
}

func BenchmarkDetach(b *testing.B) {
	host, n := node(b, 1)
	c := newSpace(b)
	for b.Loop() {
		b.StopTimer()
		_, err := n.Attach(b.Context(), Attachment{ID: "c", NetNS: c.path(), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
		host.must(err)
		b.StartTimer()
		host.must(n.Detach(b.Context(), "c"))
	}
}

func BenchmarkRules(b *testing.B) {
	for _, ports := range []int{0, 100, 2000} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			host, n := node(b, 1)
			ls, _, err := n.leases.reserve("c")
			host.must(err)
			for i := range ports {
				p, _ := Port{HostPort: uint16(20000 + i), ContainerPort: 80}.normal()
				ls.Ports = append(ls.Ports, p)
			}
			for b.Loop() {
				host.must(n.applySets())
			}
		})
	}
}

// How long a new container waits for its first answer, behind Attach.
func BenchmarkFirstAnswer(b *testing.B) {
	host, n := node(b, 1)
	host.serveTCP("host", ":80")
	var took []time.Duration
	i := 0
	for b.Loop() {
		c, _ := attach(b, n, fmt.Sprint("c", i))
		i++
		start := time.Now()
		if got := c.ask("tcp", "10.176.1.1:80", patience); len(got) < 4 || got[:4] != "host" {
			b.Fatal(got)
		}
		took = append(took, time.Since(start))
		host.must(n.Detach(b.Context(), fmt.Sprint("c", i-1)))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "µs-max")
}
