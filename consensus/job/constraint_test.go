package job

import (
	"net/netip"
	"testing"
)

func TestConstraintsHold(t *testing.T) {
	n := &Node{
		ID: "0f", Name: "db1", Addr: netip.MustParseAddrPort("192.0.2.7:6174"), Arch: "amd64", Kernel: "6.10.0-13-amd64",
		Labels:     map[string]string{"rack": "b", "disks": "ssd, nvme"},
		Attributes: map[string]string{"cpu.count": "8", "memory": "17179869184", "shoal.version": "1.2.0-rc1"},
	}
	for text, want := range map[string]bool{
		"node.labels.rack == b": true, "node.labels.rack != b": false, "node.labels.none != b": true, "node.labels.none ==": true,
		"node.labels.rack in (a, b)": true, "node.labels.rack in (a)": false, "node.labels.rack not in (a, c)": true, "node.labels.none in (a)": false,
		"node.hostname =~ ^db[0-9]$": true, "node.name !~ db": false, "node.labels.none =~ .": false,
		"node.attr.kernel >= 6.9": true, "node.attr.kernel >= 6.10": true, "node.attr.kernel > 6.10": false, "node.attr.kernel < 7": true,
		"node.attr.cpu.count >= 10": false, "node.attr.none >= 0": false, "node.attr.memory >= 16GiB": true, "node.attr.memory > 16g": false,
		"node.attr.shoal.version < 1.2.0": true, "node.attr.shoal.version >= 1.1": true,
		"node.labels.disks contains nvme,ssd": true, "node.labels.disks contains hdd": false, "node.labels.disks not contains hdd": true,
		"node.ip == 192.0.2.0/24": true, "node.ip != 192.0.2.7": false, "node.platform.arch == x86_64": true, "node.attr.arch == x86_64": true,
		"node.platform.arch in (arm64, x86_64)": true, "node.attr.arch in (x86_64)": true, "node.attr.arch not in (x86_64)": false, "node.attr.arch in (aarch64)": false,
		"node.attr.arch contains x86_64": true,
		"node.platform.os == linux":      true,
	} {
		c, err := ParseConstraint(text)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Compile()
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Holds(n); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
