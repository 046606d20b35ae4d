package network

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"

	"shoal/e2e/frugal"
)

// FuzzQuestion: whatever a container sends to port 53 gets an answer that it can read, with its own id, or none.
func FuzzQuestion(f *testing.F) {
	for _, name := range []string{"web.", "web.shop.", "localhost.", "2.0.22.10.in-addr.arpa.", ".", "example.com."} {
		for _, typ := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeANY, dns.TypeAAAA} {
			q := new(dns.Msg).SetQuestion(name, typ)
			q.SetEdns0(4096, true)
			b, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	pool, at := netip.MustParsePrefix("10.22.0.0/24"), netip.MustParseAddr("10.22.0.2")
	d := newResolver(home{}, Config{Logger: slog.New(slog.DiscardHandler)})
	d.pool = pool
	z := newZone(Records{
		Scopes:   map[netip.Addr]string{at: "shop"},
		Services: []Record{{Job: "shop", Name: "web", Addrs: []netip.Addr{at}}},
	})
	d.zone.Store(z)
	d.forward.places = nil // no question leaves the machine
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		var q dns.Msg
		if q.Unpack(b) != nil {
			return // the server answers with a format error by itself
		}
		for _, overTCP := range []bool{false, true} {
			m := d.answer(context.Background(), &q, at, overTCP)
			if m == nil {
				continue
			}
			if m.Truncate(udpSize(&q)); m.Id != q.Id || !m.Response {
				t.Errorf("%v is no answer to %v", m, &q)
			}
			if out, err := m.Pack(); err == nil {
				if err := new(dns.Msg).Unpack(out); err != nil {
					t.Errorf("the answer to %v cannot be read: %v", &q, err)
				}
			}
		}
	})
}

// FuzzLeases: a file of leases that somebody damaged gives at most an error, and what was read is consistent.
func FuzzLeases(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","last":"10.0.0.9","leases":{"a":{"addr":"10.0.0.2"},"b":{"addr":"10.0.0.2"},"c":null}}`))
	f.Add([]byte(`{`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		if err := os.WriteFile(filepath.Join(dir, leaseFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, _ := load(dir, "b")
		if l == nil || len(l.byID) != len(l.byAddr) {
			t.Fatalf("%+v", l)
		}
		for addr, id := range l.byAddr {
			if l.byID[id] == nil || l.byID[id].Addr != addr {
				t.Errorf("%v is of %q, which has %+v", addr, id, l.byID[id])
			}
		}
		text, err := l.encode("b")
		if err != nil {
			t.Fatal(err)
		}
		if err := save(dir, text); err != nil {
			t.Fatal(err)
		}
		again, err := load(dir, "b")
		if err != nil || len(again.byID) != len(l.byID) {
			t.Errorf("written as %s, which reads as %+v, %v", text, again, err)
		}
	})
}

// FuzzProcAddr: no line of the kernel's tables makes their reader panic.
func FuzzProcAddr(f *testing.F) {
	f.Add("0100007F:1F90")
	f.Add("00000000000000000000000001000000:0050")
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		if a, ok := parseProcAddr(s); ok && !a.IsValid() {
			t.Errorf("%q is %v", s, a)
		}
	})
}
