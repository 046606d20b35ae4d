package stage

import (
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal/runtime"
)

// What libcontainer makes of the settings: the fields that the v1 and the v2 manager write.
func TestConfigurationOfTuning(t *testing.T) {
	swappiness := int64(7)
	job := Launch{ID: "c", Dir: t.TempDir(), Cgroup: "/p/c", Record: Record{Spec: runtime.Spec{
		ID: "c", Resources: runtime.Resources{NanoCPUs: 500_000_000, MemoryBytes: 64 << 20, MemoryReservationBytes: 32 << 20, PIDs: 9},
		Tuning: &runtime.Tuning{CPUSet: "0", CPUShares: 512, CPUPeriod: 50_000, SwapBytes: 128 << 20, Swappiness: &swappiness, OOMScore: 300},
	}}}
	config, late, err := buildConfig(job, "/", identity{}, "")
	if err != nil {
		t.Fatal(err)
	}
	r := config.config.Cgroups.Resources
	// On v2: cpu.weight, memory.low, memory.max, pids.max, cpuset.cpus.
	if r.CpuShares != 512 || r.CpuWeight != cgroups.ConvertCPUSharesToCgroupV2Value(512) || r.CpuWeight == 0 || r.CpusetCpus != "0" ||
		r.Memory != 64<<20 || r.MemoryReservation != 32<<20 || r.PidsLimit == nil || *r.PidsLimit != 9 {
		t.Errorf("resources %+v", r)
	}
	if late != (LateQuota{25_000, 50_000}) || r.CpuQuota != 0 {
		t.Errorf("quota %+v, and at once %d", late, r.CpuQuota)
	}
	if SwapAccounted() {
		// memory.swap.max is swap alone, memory.memsw.limit_in_bytes both together.
		if v2, err := cgroups.ConvertMemorySwapToCgroupV2Value(r.MemorySwap, r.Memory); r.MemorySwap != 128<<20 || v2 != 64<<20 || err != nil {
			t.Errorf("swap %d, on v2 %d, %v", r.MemorySwap, v2, err)
		}
	}
	if got := *config.config.OomScoreAdj; got != 300 {
		t.Errorf("oom score %d", got)
	}
}

// A container without settings is what it was before there were any.
func TestConfigurationWithoutSettingsIsAsItWas(t *testing.T) {
	job := Launch{ID: "c", Dir: t.TempDir(), Cgroup: "/p/c", HasNetwork: true, Record: Record{Spec: runtime.Spec{ID: "c"}}}
	plain, _, err := buildConfig(job, "/", identity{}, "")
	if err != nil {
		t.Fatal(err)
	}
	job.Record.Spec.Isolation, job.Record.Spec.Tuning, job.Record.Spec.Naming = &runtime.Isolation{}, &runtime.Tuning{}, &runtime.Naming{}
	empty, _, err := buildConfig(job, "/", identity{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(plain.config, empty.config) {
		t.Error("settings that say nothing change the configuration")
	}
	c := plain.config
	if !c.NoNewPrivileges || c.Seccomp == nil || len(c.MaskPaths) == 0 || len(c.ReadonlyPaths) == 0 || c.Namespaces.Contains("NEWUSER") || c.RootPropagation != 0 {
		t.Errorf("a container has less protection than it had: %+v", c)
	}
	for _, ns := range []string{"NEWNS", "NEWPID", "NEWNET", "NEWIPC", "NEWUTS"} {
		if !slices.ContainsFunc(c.Namespaces, func(n configs.Namespace) bool { return string(n.Type) == ns && n.Path == "" }) {
			t.Errorf("no %s of its own", ns)
		}
	}
}

func TestDeviceRules(t *testing.T) {
	for text, want := range map[string]specs.LinuxDeviceCgroup{
		"c 10:200 rwm": {Allow: true, Type: "c", Major: ptr(10), Minor: ptr(200), Access: "rwm"},
		"b *:* r":      {Allow: true, Type: "b", Major: ptr(-1), Minor: ptr(-1), Access: "r"},
		"a 7:* m":      {Allow: true, Type: "a", Major: ptr(7), Minor: ptr(-1), Access: "m"},
	} {
		if got, err := parseDeviceRule(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if _, err := parseDeviceRule("c 10"); err == nil {
		t.Error("half a rule is taken")
	}
}

func ptr(n int64) *int64 { return &n }

func TestRootPassesOnWhatItsMountsDo(t *testing.T) {
	for _, c := range []struct {
		with []string
		want string
	}{{nil, ""}, {[]string{""}, ""}, {[]string{"rslave"}, "rslave"}, {[]string{"private"}, ""}, {[]string{"slave", "rshared"}, "shared"}} {
		var s runtime.Spec
		for _, p := range c.with {
			s.Mounts = append(s.Mounts, runtime.Mount{Type: runtime.MountBind, Propagation: p})
		}
		if got := rootPropagation(&s); got != c.want {
			t.Errorf("%q: %q, want %q", c.with, got, c.want)
		}
	}
}
