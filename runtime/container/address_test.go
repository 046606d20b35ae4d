package container_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"shoal/runtime"
)

// addressInside is the address that a running container has.
func (r *rig) addressInside(id runtime.ID) string {
	r.Helper()
	out, code := r.exec(id, "ip", "-4", "-o", "addr", "show", "eth0")
	f := strings.Fields(out)
	if code != 0 || len(f) < 4 {
		r.Fatalf("ip addr in %s: %q, %d", id, out, code)
	}
	addr, _, _ := strings.Cut(f[3], "/")
	return addr
}

// told checks that everybody is told the address that a running container has.
func (r *rig) told(id runtime.ID) {
	r.Helper()
	real := r.addressInside(id)
	if in := r.inspect(id); in.Address.String() != real {
		r.Errorf("%s: told as %s, inside %s", id, in.Address, real)
	}
	if hosts, _ := r.exec(id, "cat", "/etc/hosts"); !strings.Contains(hosts, real+"\t"+string(id)) {
		r.Errorf("%s: its address %s is not in its /etc/hosts:\n%s", id, real, hosts)
	}
}

// powerCut does to the network what a boot does: what runs ends, links go, and leases are another boot's.
func (r *rig) powerCut() {
	r.Helper()
	infos, err := r.rt.List(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	for _, in := range infos {
		if in.State == runtime.Running {
			if err := r.rt.Stop(r.Context(), in.ID, 0); err != nil {
				r.Fatal(err)
			}
		}
	}
	r.close()
	r.eventually("without links", func() bool {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "veth" {
				return false
			}
		}
		return err == nil
	})
	r.editLeases(func(doc map[string]any) { doc["boot"] = "another" })
}

func (r *rig) leaseFile() string { return filepath.Join(r.dir, "network", "leases.json") }

func (r *rig) editLeases(edit func(map[string]any)) {
	r.Helper()
	b, err := os.ReadFile(r.leaseFile())
	if err != nil {
		r.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		r.Fatal(err)
	}
	edit(doc)
	if b, err = json.Marshal(doc); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(r.leaseFile(), b, 0o600); err != nil {
		r.Fatal(err)
	}
}

// Whoever was told of a container's address before a boot finds that container there afterwards, in whatever order the
// containers are started.
func TestAddressOutlivesABoot(t *testing.T) {
	r := newRig(t)
	before := map[runtime.ID]string{}
	for _, id := range []runtime.ID{"aa", "bb"} {
		before[id] = r.shell(id, "sleep 600").Address.String()
	}
	r.powerCut()
	r.open()
	if in := r.shell("new", "sleep 600"); in.Address.String() == before["aa"] || in.Address.String() == before["bb"] {
		t.Errorf("%s was given to a new container", in.Address)
	}
	for _, id := range []runtime.ID{"bb", "aa"} {
		if _, err := r.rt.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.told(id)
		if real := r.addressInside(id); real != before[id] {
			t.Errorf("%s was at %s, and is at %s", id, before[id], real)
		}
	}
}

func TestAddressOutlivesALostLeaseFile(t *testing.T) {
	r := newRig(t)
	was := r.shell("rests", "true").Address
	r.stopped("rests")
	r.powerCut()
	if err := os.WriteFile(r.leaseFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	if in := r.shell("new", "sleep 600"); in.Address == was {
		t.Errorf("%s is that of a stopped container", in.Address)
	}
	if in := r.inspect("rests"); in.Address != was {
		t.Errorf("address %s became %s", was, in.Address)
	}
}

// Where an address is lost for good, all that is told is the new one: from the start on, and by the next agent too.
func TestNewAddressIsTheOneToldOf(t *testing.T) {
	r := newRig(t)
	old := r.shell("moved", "sleep 600").Address
	r.powerCut()
	r.subnet = "10.231.7.0/24"
	r.open()
	in, err := r.rt.Start(t.Context(), "moved")
	if err != nil {
		t.Fatal(err)
	}
	if in.Address == old || !strings.HasPrefix(in.Address.String(), "10.231.7.") {
		t.Errorf("it is told to be at %s", in.Address)
	}
	r.told("moved")
	r.run(runtime.Spec{ID: "side", Network: runtime.Joining("moved"), Command: []string{"sleep", "600"}})
	if side := r.inspect("side"); side.Address != in.Address {
		t.Errorf("who joined it is told to be at %s, not %s", side.Address, in.Address)
	}
	r.close()
	r.open()
	r.told("moved")
}

// An agent that did not look let records and leases differ: what a container has is in its lease.
func TestAdoptedAddressIsThatOfTheLease(t *testing.T) {
	r := newRig(t)
	r.shell("mixed", "sleep 600")
	real := r.addressInside("mixed")
	r.close()
	record := filepath.Join(r.dir, "containers", "mixed", "container.json")
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(real)) {
		t.Fatalf("no %s in %s", real, b)
	}
	if err := os.WriteFile(record, bytes.Replace(b, []byte(real), []byte("10.231.0.99"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	if in := r.inspect("mixed"); in.Address.String() != real {
		t.Errorf("told as %s, inside %s", in.Address, real)
	}
}
