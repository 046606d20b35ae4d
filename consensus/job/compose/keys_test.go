package compose

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/consensus/job"
)

func TestSettingsThatCannotBeAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"isolation", service("isolation: hyperv"), "services.web.isolation: not honoured by this version (for Windows only)"},
		{"credential_spec", service("credential_spec: {file: x.json}"), "services.web.credential_spec: not honoured by this version (for Windows only)"},
		{"cpu_count", service("cpu_count: 2"), "services.web.cpu_count: not honoured by this version (for Windows only); use `cpus`"},
		{"cpu_percent", service("cpu_percent: 20"), "services.web.cpu_percent: not honoured by this version (for Windows only)"},
		{"realtime", service("cpu_rt_runtime: 20000"), "services.web.cpu_rt_runtime: not honoured by this version (real-time"},
		{"oom_kill_disable", service("oom_kill_disable: true"), "services.web.oom_kill_disable: not honoured by this version (a container at its limit would hang for ever"},

		{"privileged hook", service("pre_stop: [{command: a, privileged: true}]"), "services.web.pre_stop[].privileged: not honoured"},
		{"hook without a command", service("pre_stop: [{user: a}]"), "missing property 'command'"},
		{"security_opt", service("security_opt: [systempaths=unconfined]"), `services.web.security_opt: not honoured by this version ("systempaths=unconfined" is not`},
		{"label", service("security_opt: ['label:user:USER']"), `"label:user:USER" is not`},
		{"no-new-privileges", service("security_opt: ['no-new-privileges:maybe']"), `no-new-privileges:"maybe" is neither true nor false`},
		{"apparmor", service("security_opt: ['apparmor:']"), "apparmor names no profile"},
		{"missing seccomp", service("security_opt: ['seccomp:absent.json']"), "absent.json: no such file"},
		{"CDI", service("devices: ['vendor.com/gpu=all']"), "CDI devices are not honoured"},
		{"device", service("devices: ['/dev/x:/dev/y:q']"), `access "q" is not made of r, w and m`},
		{"relative device", service("devices: ['dev/x']"), "a device is an absolute path"},
		{"rule", service("device_cgroup_rules: ['c 1:2']"), `services.web.device_cgroup_rules: "c 1:2" is not a rule`},
		{"sysctl of the node", service("sysctls: [vm.swappiness=1]"), "services.web.sysctls.vm.swappiness: is the node's, not a container's"},
		{"sysctl of the host's network", service("network_mode: host\nsysctls: [net.core.somaxconn=1]"), "not the container's own with network_mode host"},
		{"sysctl of the host's ipc", service("ipc: host\nsysctls: [kernel.shmmax=1]"), "not the container's own with ipc host"},
		{"ulimit", service("ulimits: {files: 1}"), `ulimit "files" is not known; use one of core,`},
		{"ulimit order", service("ulimits: {nofile: {soft: 20, hard: 10}}"), "the soft limit 20 is above the hard limit 10"},
		{"pid", service("pid: 'container:x'"), `services.web.pid: "container:x" is not known; use private, host`},
		{"pid of nobody", service("pid: 'service:x'"), `depends on undefined service "x"`},
		{"uts", service("uts: host\nhostname: x"), "services.web.uts: with the node's own names"},
		{"userns", service("userns_mode: keep-id"), `services.web.userns_mode: "keep-id" is not known; use host or auto`},
		{"userns and privileged", service("x-userns: auto\nprivileged: true"), "a privileged container has the node's users"},
		{"userns and host", service("x-userns: auto\nnetwork_mode: host"), "no namespace of another's"},
		{"cgroup_parent", service("cgroup_parent: ../../x"), `services.web.cgroup_parent: "../../x" is not the path`},
		{"cpuset", service("cpuset: a-b"), `services.web.cpuset: "a-b" is not a list of processors`},
		{"cpu_shares", service("cpu_shares: 1"), "services.web.cpu_shares: 1 is not within 2 and"},
		{"cpu_period", service("cpu_period: 5"), "services.web.cpu_period: 5 µs is not within"},
		{"two quotas", service("cpu_quota: 5000\ncpus: 1"), "services.web.cpu_quota: `cpus` limits the same"},
		{"swap without memory", service("memswap_limit: 64m"), "services.web.memswap_limit: there is no limit on memory"},
		{"swap below memory", service("mem_limit: 64m\nmemswap_limit: 32m"), "it is at least the limit on memory, 64 MiB"},
		{"swappiness", service("mem_swappiness: 101"), "services.web.mem_swappiness: 101 is not within"},
		{"shm of the host", service("ipc: host\nshm_size: 1m"), "no /dev/shm of its own"},
		{"oom_score_adj", service("oom_score_adj: 2000"), "services.web.oom_score_adj"},
		{"weight", service("blkio_config: {weight: 5}"), "services.web.blkio_config.weight: 5 is not within"},
		{"rate", service("blkio_config: {device_read_bps: [{path: sda, rate: 1m}]}"), "services.web.blkio_config.device_read_bps: \"sda\" is not the absolute path"},
		{"dns", service("dns: resolver"), `services.web.dns: "resolver" is not an address`},
		{"extra_hosts", service("extra_hosts: ['a=b']"), `services.web.extra_hosts: a: "b" is neither an address nor host-gateway`},
		{"mac", service("mac_address: 03:42:ac:11:00:02"), "the first byte must be even"},
		{"mac of many", service("mac_address: 02:42:ac:11:00:02\nscale: 2"), "is for one container"},
		{"umask", service("umask: 01777"), "is not within 0 and 0777"},
		{"subpath", service("volumes: [{type: volume, source: v, target: /v, volume: {subpath: ../x}}]") + "volumes: {v: }", "does not stay in the volume"},
		{"propagation", service("volumes: [{type: bind, source: /a, target: /b, bind: {propagation: up}}]"), `propagation "up" is not known`},
		{"log none with sizes", service("logging: {driver: none, options: {max-size: 1m}}"), "with none nothing is kept"},
		{"ports of the host's network", service("network_mode: host\nports: [80]"), `services.web.network_mode: "host" publishes no ports`},

		{"x-health and healthcheck", service("healthcheck: {test: a}\nx-health: {tcp: 1}"), "`healthcheck` is there too"},
		{"two probes", service("x-health: {tcp: 1, http: 2}"), "a service has one check"},
		{"no probe", service("x-health: {interval: 1s}"), "says nothing of what to ask"},
		{"probe key", service("x-health: {http: {port: 1, query: x}}"), "services.web.x-health.http.query: not honoured by this version (it is not known)"},
		{"probe port", service("x-health: {tcp: 0}"), "services.web.x-health.tcp.port: is not a port"},
		{"probe time", service("x-health: {tcp: 1, interval: soon}"), `services.web.x-health.interval: "soon" is not a time`},
		{"probe status", service("x-health: {http: {port: 1, status: ok}}"), `services.web.x-health.http.status: "ok" is not a status`},
		{"probe path", service("x-health: {http: {port: 1, path: x}}"), `"x" does not begin with a slash`},
		{"probe without a network", service("x-health: {tcp: 1}\nnetwork_mode: none"), "with network_mode none nobody reaches it from outside"},
		{"not a mapping", service("x-health: yes"), "is not a mapping"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.text)
			if !errors.Is(err, job.Invalid) && !errors.Is(err, job.NotFound) {
				t.Fatalf("got %v, want a refusal", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

func TestSeccompProfilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tt := range []struct{ name, text, want string }{
		{"ok.json", `{ "defaultAction" : "SCMP_ACT_ALLOW" }`, ""},
		{"text.json", "allow", "is not JSON"},
		{"empty.json", "{}", "has no defaultAction"},
		{"big.json", `{"defaultAction":"` + strings.Repeat("x", job.MaxSeccompBytes) + `"}`, "is larger than 64 KiB"},
		{"huge.json", strings.Repeat(" ", 5*job.MaxSeccompBytes), "is larger than 64 KiB"},
	} {
		got, err := seccompProfile(write(tt.name, tt.text), dir)
		if tt.want == "" && (err != nil || got != `{"defaultAction":"SCMP_ACT_ALLOW"}`) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestKeyFlagsSayWhatTheFileSays(t *testing.T) {
	file, _, err := load(t, service(`
privileged: true
security_opt: [seccomp:unconfined]
devices: [/dev/fuse]
device_cgroup_rules: ["c 10:200 rwm"]
group_add: ["44"]
sysctls: {net.core.somaxconn: "1"}
ulimits: {nofile: {soft: 1, hard: 2}}
pid: host
uts: host
cgroup_parent: /x
cpuset: "0"
cpu_shares: 5
cpu_quota: 5000
cpu_period: 10000
mem_limit: 64m
mem_reservation: 32m
memswap_limit: -1
mem_swappiness: 3
shm_size: 1m
oom_score_adj: 7
blkio_config: {weight: 20, device_read_bps: [{path: /dev/sda, rate: 1m}]}
dns: 9.9.9.9
extra_hosts: ["a:host-gateway"]
mac_address: 02:42:ac:11:00:02
logging: {driver: none}
x-health: {http: {port: 80, path: /h}, start_interval: 1s}
`))
	if err != nil {
		t.Fatal(err)
	}
	flags, err := FromFlags(Flags{Name: "web", Image: "web", Replicas: 1, Memory: "64m", ReserveMemory: "32m", Keys: KeyFlags{
		Privileged: true, SecurityOpt: []string{"seccomp=unconfined"}, Devices: []string{"/dev/fuse"}, DeviceRules: []string{"c 10:200 rwm"},
		GroupAdd: []string{"44"}, Sysctls: []string{"net.core.somaxconn=1"}, Ulimits: []string{"nofile=1:2"}, PID: "host", UTS: "host",
		CgroupParent: "/x", CPUSet: "0", CPUShares: 5, CPUQuota: 5000, CPUPeriod: 10000, MemorySwap: "-1", Swappiness: "3", ShmSize: "1m",
		OOMScore: 7, BlockWeight: 20, ReadBps: []string{"/dev/sda:1m"}, DNS: []string{"9.9.9.9"}, Hosts: []string{"a:host-gateway"},
		MAC: "02:42:ac:11:00:02", LogDriver: "none", HealthHTTP: "80/h", HealthStartInterval: 1e9,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if file.Services[0].Digest() != flags.Services[0].Digest() {
		t.Errorf("they differ:\n%s", job.Diff(file, flags))
	}
}
