package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func subnetLeases(s string) *leases {
	l := newLeases()
	l.subnet = netip.MustParsePrefix(s)
	return l
}

func TestEveryAddressOfASubnetIsGivenOnce(t *testing.T) {
	l := subnetLeases("10.176.1.0/28")
	seen := map[netip.Addr]bool{}
	for i := range 13 { // 16 less network, gateway and broadcast
		ls, fresh, err := l.reserve(fmt.Sprint(i))
		if err != nil || !fresh || seen[ls.Addr] {
			t.Fatalf("lease %d: %+v, fresh %v, %v", i, ls, fresh, err)
		}
		seen[ls.Addr] = true
	}
	for _, never := range []string{"10.176.1.0", "10.176.1.1", "10.176.1.15"} {
		if seen[netip.MustParseAddr(never)] {
			t.Errorf("%s was given to a container", never)
		}
	}
	if _, _, err := l.reserve("one more"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("full subnet: got %v, want %v", err, ErrNoAddress)
	}
	l.release("5")
	if _, _, err := l.reserve("one more"); err != nil {
		t.Errorf("after a release: %v", err)
	}
}

func TestAnAddressRests(t *testing.T) {
	l := subnetLeases("10.176.1.0/24")
	first, _, _ := l.reserve("a")
	addr := first.Addr
	l.release("a")
	for i := range 252 {
		ls, _, err := l.reserve("b")
		if err != nil || ls.Addr == addr {
			t.Fatalf("reservation %d: %v, %v", i, ls, err)
		}
		l.release("b")
	}
	if ls, _, _ := l.reserve("b"); ls.Addr != addr {
		t.Errorf("after a round: %v, want %v", ls.Addr, addr)
	}
}

func TestLeasesStayConsistent(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	l := subnetLeases("10.176.1.0/27")
	model := map[string]netip.Addr{}
	for step := range 5000 {
		id := fmt.Sprint(r.IntN(40))
		if r.IntN(2) == 0 {
			if _, had := model[id]; l.release(id) != had {
				t.Fatalf("seed %d step %d: release %s", seed, step, id)
			}
			delete(model, id)
			continue
		}
		ls, _, err := l.reserve(id)
		old, had := model[id]
		switch {
		case err != nil && (had || len(model) < 29):
			t.Fatalf("seed %d step %d: %v with %d leases", seed, step, err, len(model))
		case err == nil && had && ls.Addr != old:
			t.Fatalf("seed %d step %d: %s moved from %s to %s", seed, step, id, old, ls.Addr)
		case err == nil:
			model[id] = ls.Addr
		}
		if err := l.check(); err != nil {
			t.Fatalf("seed %d step %d: %v", seed, step, err)
		}
	}
}

func TestLeasesOnDisk(t *testing.T) {
	dir := t.TempDir()
	l := subnetLeases("10.176.1.0/24")
	ls, _, _ := l.reserve("web")
	p, _ := Port{HostPort: 8080, ContainerPort: 80}.normal()
	ls.Ports = []Port{p}
	data, err := l.encode("boot-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := save(dir, data); err != nil {
		t.Fatal(err)
	}
	got, err := load(dir, "boot-1")
	if err != nil || got.byID["web"].Addr != ls.Addr || got.byID["web"].Ports[0] != p || got.last != l.last {
		t.Errorf("loaded %+v, %v", got.byID["web"], err)
	}
	if got, err := load(dir, "boot-2"); err != nil || len(got.byID) != 0 {
		t.Errorf("leases outlived a boot: %v, %v", got.byID, err)
	}
	for _, bad := range []string{"", "{", `{"version":9}`, `{"version":1,"boot":"b","leases":{"x":null,"y":{"addr":"::1"}}}`} {
		if err := os.WriteFile(filepath.Join(dir, leaseFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _ := load(dir, "b"); got == nil || len(got.byID) != 0 {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

// check returns an error when the invariant is broken.
func (l *leases) check() error {
	if len(l.byID) != len(l.byAddr) {
		return fmt.Errorf("%d leases but %d addresses", len(l.byID), len(l.byAddr))
	}
	for id, ls := range l.byID {
		if l.byAddr[ls.Addr] != id {
			return fmt.Errorf("address %s of %s belongs to %q", ls.Addr, id, l.byAddr[ls.Addr])
		}
	}
	return nil
}
