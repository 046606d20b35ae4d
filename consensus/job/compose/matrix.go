package compose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Support is what shoal does with a key.
type Support string

// Degrees of support.
const (
	Honoured Support = "honoured"
	Partly   Support = "partly"  // honoured for the values that Note names
	Refused  Support = "refused" // an error, or with --lenient a warning
)

// Key is one line of the support matrix. The matrix is the truth: Load refuses what it does not have, and the manual's
// table is made from it.
type Key struct {
	// Path is the key's, with * for a name that the user chooses and [] for an element of a list. Keys below a refused
	// one are refused with it; keys below an honoured one have their own line.
	Path    string
	Support Support
	// Note tells, for a refused key, why (or what is refused when Partly), else what is worth knowing.
	Note string
	// Next is what to do when it is refused; "": remove it or use --lenient.
	Next string
	// Since is the version from which on it is honoured; "": the first one. Means nothing for a refused key.
	Since string

	bare   bool               // Refused: the key asks for something even without a value
	unless func(v any) bool   // Refused: values that ask for nothing, such as `privileged: false`
	check  func(v any) string // Partly: why this value is refused, "" if it is not
}

// harmless tells whether a refused key asks for nothing: it is empty, or says what is so anyway.
func (k *Key) harmless(v any) bool {
	if k.bare {
		return false
	}
	switch e := v.(type) {
	case nil:
		return true
	case string:
		if e == "" {
			return true
		}
	case []any:
		if len(e) == 0 {
			return true
		}
	case map[string]any:
		if len(e) == 0 {
			return true
		}
	}
	return k.unless != nil && k.unless(v)
}

func (k *Key) refuse(v any) string {
	if v == nil {
		return ""
	}
	return k.check(v)
}

func isFalse(v any) bool { return v == false || v == "false" }

func isDefault(v any) bool { return v == "default" }

// Versions that began to honour keys.
const (
	one = "0.1"
	two = "0.2"
)

// since is what the manual says of when the key came.
func (k *Key) since() string {
	if k.Support == Refused {
		return ""
	}
	return cmp.Or(k.Since, one)
}

// only makes a check that lets the given values pass.
func only(values ...string) func(any) string {
	return func(v any) string {
		if s := fmt.Sprint(v); !slices.Contains(values, s) {
			return fmt.Sprintf("%.80q is not, only %s", s, strings.Join(values, ", "))
		}
		return ""
	}
}

// MatrixMarkdown writes the matrix as a Markdown table for the manual, in the matrix' order.
func MatrixMarkdown() string {
	var b strings.Builder
	b.WriteString("| Key | Support | Since | Note |\n|---|---|---|---|\n")
	for _, k := range Matrix {
		note := k.Note
		if k.Next != "" {
			note = strings.TrimPrefix(note+"; ", "; ") + k.Next
		}
		path := strings.ReplaceAll(k.Path, ".[]", "[]")
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", path, k.Support, k.since(), strings.ReplaceAll(note, "|", `\|`))
	}
	return b.String()
}

const (
	later     = "comes in a later version"
	isolation = "every service of a job shares one network; isolation " + later
	windows   = "for Windows only"
	realtime  = "real-time scheduling of cgroups is left out of distributions' kernels (CONFIG_RT_GROUP_SCHED)"
)

// Matrix lists the keys of the Compose specification. Order: top level, then a service's keys by alphabet.
var Matrix = []Key{
	{Path: "version", Support: Honoured, Note: "means nothing, by the specification"},
	{Path: "name", Support: Honoured, Note: "the job's name"},
	{Path: "include", Support: Honoured, Note: "local files"},
	{Path: "services", Support: Honoured},
	{Path: "services.*", Support: Honoured, Note: "named with a-z, 0-9, _ and -"},
	{Path: "volumes", Support: Honoured},
	{Path: "volumes.*", Support: Honoured, Note: "a directory on the node that runs the task; named `<job>_<key>`"},
	{Path: "volumes.*.name", Support: Honoured},
	{Path: "volumes.*.external", Support: Honoured, Note: "must exist on the node"},
	{Path: "volumes.*.external.name", Support: Honoured},
	{Path: "volumes.*.driver", Support: Partly, Note: "`local`", check: only("local")},
	{Path: "volumes.*.driver_opts", Support: Refused, Note: "volumes are plain directories", Next: "use a bind mount of what is mounted on the node"},
	{Path: "volumes.*.labels", Support: Refused, Note: "volumes have no labels"},
	{Path: "networks", Support: Honoured},
	{Path: "networks.default", Support: Honoured, Note: "without settings of its own"},
	{Path: "networks.*", Support: Refused, Note: isolation, bare: true},
	{Path: "configs", Support: Refused, Note: later, Next: "use a bind mount, or remove it"},
	{Path: "secrets", Support: Refused, Note: later, Next: "use a bind mount, or remove it"},
	{Path: "models", Support: Refused, Note: "shoal runs containers only"},
	{Path: "jobs", Support: Refused, Note: later, Next: "make it a service with `restart: on-failure`"},

	{Path: "services.*.annotations", Support: Refused, Note: "the runtime has none"},
	{Path: "services.*.attach", Support: Refused, Note: "nothing is attached; use `shoal logs -f`", unless: isFalse},
	{Path: "services.*.blkio_config", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.weight", Support: Honoured, Since: two, Note: "10 to 1000; needs the bfq scheduler or cgroup v2"},
	{Path: "services.*.blkio_config.weight_device", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.weight_device.[].path", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.weight_device.[].weight", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_read_bps", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_read_bps.[].path", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_read_bps.[].rate", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_read_iops", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_read_iops.[].path", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_read_iops.[].rate", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_write_bps", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_write_bps.[].path", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_write_bps.[].rate", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_write_iops", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_write_iops.[].path", Support: Honoured, Since: two},
	{Path: "services.*.blkio_config.device_write_iops.[].rate", Support: Honoured, Since: two},
	{Path: "services.*.build", Support: Refused, Note: "shoal does not build", Next: "build the image and `shoal image load` it, then name it with `image:`", bare: true},
	{Path: "services.*.cap_add", Support: Honoured},
	{Path: "services.*.cap_drop", Support: Honoured},
	{Path: "services.*.cgroup", Support: Honoured, Note: "`private` (cgroup v1 has no private view and shows none), `host`", Since: two},
	{Path: "services.*.cgroup_parent", Support: Honoured, Since: two, Note: "from the root of the cgroups; made if it is missing, never removed"},
	{Path: "services.*.command", Support: Honoured, Note: "an empty list is refused"},
	{Path: "services.*.configs", Support: Refused, Note: later, Next: "use a bind mount, or remove it"},
	{Path: "services.*.container_name", Support: Refused, Note: "tasks are named `<service>.<number>`"},
	{Path: "services.*.cpu_count", Support: Refused, Note: windows, Next: "use `cpus`"},
	{Path: "services.*.cpu_percent", Support: Refused, Note: windows, Next: "use `cpus`"},
	{Path: "services.*.cpu_period", Support: Honoured, Since: two, Note: "microseconds, 1,000 to 1,000,000"},
	{Path: "services.*.cpu_quota", Support: Honoured, Since: two, Note: "microseconds in each period; counted as `cpus` when tasks are placed"},
	{Path: "services.*.cpu_rt_period", Support: Refused, Note: realtime, Next: "use `cpu_shares`, or `cap_add: [SYS_NICE]`"},
	{Path: "services.*.cpu_rt_runtime", Support: Refused, Note: realtime, Next: "use `cpu_shares`, or `cap_add: [SYS_NICE]`"},
	{Path: "services.*.cpu_shares", Support: Honoured, Since: two},
	{Path: "services.*.cpus", Support: Honoured, Note: "the same as deploy.resources.limits.cpus"},
	{Path: "services.*.cpuset", Support: Honoured, Since: two, Note: "processors that the node has"},
	{Path: "services.*.credential_spec", Support: Refused, Note: windows},
	{Path: "services.*.depends_on", Support: Honoured},
	{Path: "services.*.depends_on.*", Support: Honoured},
	{Path: "services.*.depends_on.*.condition", Support: Honoured},
	{Path: "services.*.depends_on.*.required", Support: Honoured, Note: "false lets the dependency be absent; if it is there, it is waited for"},
	{Path: "services.*.depends_on.*.restart", Support: Honoured, Since: two, Note: "when a change or a restart of the job replaces the dependency's tasks, this service's are replaced after them"},
	{Path: "services.*.deploy", Support: Honoured},
	{Path: "services.*.deploy.endpoint_mode", Support: Partly, Note: "`dnsrr`", check: only("dnsrr")},
	{Path: "services.*.deploy.labels", Support: Refused, Note: "only containers have labels", Next: "use the service's `labels`"},
	{Path: "services.*.deploy.mode", Support: Honoured, Note: "`replicated`, `global`, `replicated-job`, `global-job`"},
	{Path: "services.*.deploy.placement", Support: Honoured},
	{Path: "services.*.deploy.placement.constraints", Support: Honoured, Note: "==, !=, in, not in, =~, !~, >=, <=, >, <, contains, not contains on `node.labels.*`, `node.attr.*`, `node.hostname`, `node.id`, `node.ip`, `node.platform.*`"},
	{Path: "services.*.deploy.placement.max_replicas_per_node", Support: Honoured, Since: two},
	{Path: "services.*.deploy.placement.preferences", Support: Honoured, Since: two, Note: "up to 4, the first is the strongest"},
	{Path: "services.*.deploy.placement.preferences.[].spread", Support: Honoured, Since: two, Note: "any key that constraints know"},
	{Path: "services.*.deploy.replicas", Support: Honoured},
	{Path: "services.*.deploy.resources", Support: Honoured},
	{Path: "services.*.deploy.resources.limits", Support: Honoured},
	{Path: "services.*.deploy.resources.limits.cpus", Support: Honoured},
	{Path: "services.*.deploy.resources.limits.memory", Support: Honoured, Note: "at least 6 MiB"},
	{Path: "services.*.deploy.resources.limits.pids", Support: Honoured},
	{Path: "services.*.deploy.resources.reservations", Support: Honoured},
	{Path: "services.*.deploy.resources.reservations.cpus", Support: Honoured, Note: "counted when tasks are placed"},
	{Path: "services.*.deploy.resources.reservations.memory", Support: Honoured, Note: "counted when tasks are placed"},
	{Path: "services.*.deploy.resources.reservations.pids", Support: Honoured, Note: "counted when tasks are placed"},
	{Path: "services.*.deploy.resources.reservations.devices", Support: Honoured, Since: two, Note: "so many of the node's resource that the first capability names, such as `gpu`; see `shoal agent --resource`"},
	{Path: "services.*.deploy.resources.reservations.devices.[].capabilities", Support: Honoured, Since: two},
	{Path: "services.*.deploy.resources.reservations.devices.[].count", Support: Honoured, Since: two, Note: "a number"},
	{Path: "services.*.deploy.resources.reservations.devices.[].driver", Support: Honoured, Since: two, Note: "any; the capability counts"},
	{Path: "services.*.deploy.resources.reservations.devices.[].device_ids", Support: Refused, Note: "they name devices of one machine", Next: "give a `count`"},
	{Path: "services.*.deploy.resources.reservations.devices.[].options", Support: Refused, Note: later},
	{Path: "services.*.deploy.resources.reservations.generic_resources", Support: Honoured, Since: two, Note: "of what nodes declare with `shoal agent --resource`"},
	{Path: "services.*.deploy.resources.reservations.generic_resources.[].discrete_resource_spec", Support: Honoured, Since: two},
	{Path: "services.*.deploy.resources.reservations.generic_resources.[].discrete_resource_spec.kind", Support: Honoured, Since: two},
	{Path: "services.*.deploy.resources.reservations.generic_resources.[].discrete_resource_spec.value", Support: Honoured, Since: two},
	{Path: "services.*.deploy.restart_policy", Support: Honoured, Note: "stronger than `restart`"},
	{Path: "services.*.deploy.restart_policy.condition", Support: Honoured, Note: "`none`, `on-failure`, `any`"},
	{Path: "services.*.deploy.restart_policy.delay", Support: Honoured, Note: "at most 30 s; doubled with each restart"},
	{Path: "services.*.deploy.restart_policy.max_attempts", Support: Honoured, Note: "on one node; then a new task is placed"},
	{Path: "services.*.deploy.restart_policy.window", Support: Honoured},
	{Path: "services.*.deploy.rollback_config", Support: Honoured, Note: "how the way back is made"},
	{Path: "services.*.deploy.rollback_config.parallelism", Support: Honoured, Note: "default 1; 0 is all at once"},
	{Path: "services.*.deploy.rollback_config.delay", Support: Honoured},
	{Path: "services.*.deploy.rollback_config.failure_action", Support: Honoured, Note: "`pause` (default), `continue`"},
	{Path: "services.*.deploy.rollback_config.monitor", Support: Honoured, Note: "default 5 s: a new task is good once it was ready for so long"},
	{Path: "services.*.deploy.rollback_config.max_failure_ratio", Support: Honoured, Note: "default 0"},
	{Path: "services.*.deploy.rollback_config.order", Support: Honoured, Note: "`start-first`, `stop-first`; default start-first, but stop-first with a fixed port, a writable named volume or no room for two"},
	{Path: "services.*.deploy.update_config", Support: Honoured, Note: "slot by slot, each waiting for the one before to be healthy"},
	{Path: "services.*.deploy.update_config.x-auto-promote", Support: Honoured, Since: two, Note: "true: canaries that were ready for the monitor time promote the update by themselves"},
	{Path: "services.*.deploy.update_config.x-canary", Support: Honoured, Since: two, Note: "so many slots are updated first; the others wait for `shoal promote`"},
	{Path: "services.*.deploy.update_config.parallelism", Support: Honoured, Note: "default 1; 0 is all at once"},
	{Path: "services.*.deploy.update_config.delay", Support: Honoured},
	{Path: "services.*.deploy.update_config.failure_action", Support: Honoured, Note: "`rollback` (default), `pause`, `continue`"},
	{Path: "services.*.deploy.update_config.monitor", Support: Honoured, Note: "default 5 s: a new task is good once it was ready for so long"},
	{Path: "services.*.deploy.update_config.max_failure_ratio", Support: Honoured, Note: "default 0"},
	{Path: "services.*.deploy.update_config.order", Support: Honoured, Note: "`start-first`, `stop-first`; default start-first, but stop-first with a fixed port, a writable named volume or no room for two"},
	{Path: "services.*.develop", Support: Refused, Note: "for development with compose watch only"},
	{Path: "services.*.device_cgroup_rules", Support: Honoured, Since: two},
	{Path: "services.*.devices", Support: Honoured, Since: two, Note: "files of the node; CDI names are refused"},
	{Path: "services.*.devices.[].source", Support: Honoured, Since: two},
	{Path: "services.*.devices.[].target", Support: Honoured, Since: two},
	{Path: "services.*.devices.[].permissions", Support: Honoured, Since: two},
	{Path: "services.*.dns", Support: Honoured, Since: two, Note: "asked for what the cluster does not know"},
	{Path: "services.*.dns_opt", Support: Honoured, Since: two},
	{Path: "services.*.dns_search", Support: Honoured, Since: two, Note: "`.` alone: none"},
	{Path: "services.*.domainname", Support: Honoured, Since: two},
	{Path: "services.*.entrypoint", Support: Honoured, Note: "an empty list is refused"},
	{Path: "services.*.env_file", Support: Honoured, Note: "read where shoal run is called"},
	{Path: "services.*.env_file.[].path", Support: Honoured},
	{Path: "services.*.env_file.[].required", Support: Honoured},
	{Path: "services.*.env_file.[].format", Support: Honoured},
	{Path: "services.*.environment", Support: Honoured},
	{Path: "services.*.environment.*", Support: Honoured},
	{Path: "services.*.expose", Support: Honoured, Note: "needs nothing: services of a job reach each other on every port"},
	{Path: "services.*.extends", Support: Honoured},
	{Path: "services.*.extends.file", Support: Honoured},
	{Path: "services.*.extends.service", Support: Honoured},
	{Path: "services.*.external_links", Support: Refused, Note: "services of other jobs are not linked"},
	{Path: "services.*.extra_hosts", Support: Honoured, Since: two, Note: "with `host-gateway`"},
	{Path: "services.*.extra_hosts.*", Support: Honoured, Since: two},
	{Path: "services.*.gpus", Support: Refused, Note: later},
	{Path: "services.*.group_add", Support: Honoured, Since: two, Note: "numbers, or names of the image"},
	{Path: "services.*.healthcheck", Support: Honoured},
	{Path: "services.*.healthcheck.disable", Support: Honoured},
	{Path: "services.*.healthcheck.interval", Support: Honoured},
	{Path: "services.*.healthcheck.retries", Support: Honoured},
	{Path: "services.*.healthcheck.start_interval", Support: Honoured},
	{Path: "services.*.healthcheck.start_period", Support: Honoured},
	{Path: "services.*.healthcheck.test", Support: Honoured, Note: "without it the image's own is made, at the times that are given"},
	{Path: "services.*.healthcheck.timeout", Support: Honoured},
	{Path: "services.*.hostname", Support: Honoured},
	{Path: "services.*.image", Support: Honoured},
	{Path: "services.*.init", Support: Honoured},
	{Path: "services.*.ipc", Support: Honoured, Since: two, Note: "`private`, `shareable`, `none`, `host`, `service:NAME`"},
	{Path: "services.*.isolation", Support: Refused, Note: windows, unless: isDefault},
	{Path: "services.*.label_file", Support: Honoured, Note: "read where shoal run is called"},
	{Path: "services.*.labels", Support: Honoured},
	{Path: "services.*.labels.*", Support: Honoured},
	{Path: "services.*.links", Support: Refused, Note: "services are found by their names without it; aliases come in a later version", Next: "use depends_on, or remove it"},
	{Path: "services.*.logging", Support: Honoured},
	{Path: "services.*.logging.driver", Support: Partly, Note: "`json-file`, `local`; since 0.2 `none`", check: only("json-file", "local", "none")},
	{Path: "services.*.logging.options", Support: Honoured},
	{Path: "services.*.logging.options.max-size", Support: Honoured},
	{Path: "services.*.logging.options.max-file", Support: Honoured},
	{Path: "services.*.logging.options.*", Support: Refused, Note: "logs have a size and a number of files only"},
	{Path: "services.*.mac_address", Support: Honoured, Since: two, Note: "for a service of one replica"},
	{Path: "services.*.mem_limit", Support: Honoured, Note: "the same as deploy.resources.limits.memory"},
	{Path: "services.*.mem_reservation", Support: Honoured, Note: "the same as deploy.resources.reservations.memory"},
	{Path: "services.*.mem_swappiness", Support: Honoured, Since: two, Note: "cgroup v1 only; a warning on v2"},
	{Path: "services.*.memswap_limit", Support: Honoured, Since: two, Note: "memory and swap together, -1 without limit; without it a container with a memory limit does not swap"},
	{Path: "services.*.models", Support: Refused, Note: "shoal runs containers only"},
	{Path: "services.*.network_mode", Support: Honoured, Since: two, Note: "`bridge`, `none`, `host`, `service:NAME` (beside that service's task, slot by slot)"},
	{Path: "services.*.networks", Support: Honoured},
	{Path: "services.*.networks.default", Support: Honoured, Note: "without settings of its own"},
	{Path: "services.*.networks.*", Support: Refused, Note: isolation, bare: true},
	{Path: "services.*.oom_kill_disable", Support: Refused, Note: "a container at its limit would hang for ever, and its node with it; cgroup v2 has no such switch", Next: "raise `mem_limit`, or lower `oom_score_adj`", unless: isFalse},
	{Path: "services.*.oom_score_adj", Support: Honoured, Since: two},
	{Path: "services.*.pid", Support: Honoured, Since: two, Note: "`private`, `host`, `service:NAME`"},
	{Path: "services.*.pids_limit", Support: Honoured, Note: "the same as deploy.resources.limits.pids"},
	{Path: "services.*.platform", Support: Honoured, Note: "must be the platform of the cluster"},
	{Path: "services.*.ports", Support: Honoured, Note: "on the node that runs the task"},
	{Path: "services.*.ports.[].app_protocol", Support: Refused, Note: "nothing would use it"},
	{Path: "services.*.ports.[].host_ip", Support: Honoured},
	{Path: "services.*.ports.[].mode", Support: Honoured, Note: "`ingress` and `host` are the same: the node that runs the task"},
	{Path: "services.*.ports.[].name", Support: Refused, Note: "nothing would use it"},
	{Path: "services.*.ports.[].protocol", Support: Honoured, Note: "`tcp`, `udp`"},
	{Path: "services.*.ports.[].published", Support: Honoured},
	{Path: "services.*.ports.[].target", Support: Honoured},
	{Path: "services.*.post_start", Support: Honoured, Since: two, Note: "before the task counts as started; one that fails ends the task"},
	{Path: "services.*.post_start.[].command", Support: Honoured, Since: two},
	{Path: "services.*.post_start.[].environment", Support: Honoured, Since: two},
	{Path: "services.*.post_start.[].environment.*", Support: Honoured, Since: two},
	{Path: "services.*.post_start.[].privileged", Support: Refused, Note: "a hook has the container's rights", unless: isFalse},
	{Path: "services.*.post_start.[].user", Support: Honoured, Since: two},
	{Path: "services.*.post_start.[].working_dir", Support: Honoured, Since: two},
	{Path: "services.*.pre_start", Support: Refused, Note: later},
	{Path: "services.*.pre_stop", Support: Honoured, Since: two, Note: "before the stop signal, within `stop_grace_period`"},
	{Path: "services.*.pre_stop.[].command", Support: Honoured, Since: two},
	{Path: "services.*.pre_stop.[].environment", Support: Honoured, Since: two},
	{Path: "services.*.pre_stop.[].environment.*", Support: Honoured, Since: two},
	{Path: "services.*.pre_stop.[].privileged", Support: Refused, Note: "a hook has the container's rights", unless: isFalse},
	{Path: "services.*.pre_stop.[].user", Support: Honoured, Since: two},
	{Path: "services.*.pre_stop.[].working_dir", Support: Honoured, Since: two},
	{Path: "services.*.privileged", Support: Honoured, Since: two},
	{Path: "services.*.profiles", Support: Honoured},
	{Path: "services.*.provider", Support: Refused, Note: "shoal runs containers only"},
	{Path: "services.*.pull_policy", Support: Partly, Note: "`missing`, `if_not_present`", check: only("missing", "if_not_present")},
	{Path: "services.*.pull_refresh_after", Support: Refused, Note: "an image is pulled when it is missing"},
	{Path: "services.*.read_only", Support: Honoured},
	{Path: "services.*.restart", Support: Honoured, Note: "without it a service is restarted always; runs once where another waits for its completion"},
	{Path: "services.*.runtime", Support: Refused, Note: "there is one runtime"},
	{Path: "services.*.scale", Support: Honoured},
	{Path: "services.*.secrets", Support: Refused, Note: later, Next: "use a bind mount, or remove it"},
	{Path: "services.*.security_opt", Support: Partly, Note: "`no-new-privileges` (true unless it is false or the container is privileged), `label:disable`; since 0.2 `seccomp` (a profile's file or `unconfined`), `apparmor` (a profile that is loaded on the node, or `unconfined`)", check: securityOpt},
	{Path: "services.*.shm_size", Support: Honoured, Since: two},
	{Path: "services.*.stdin_open", Support: Honoured},
	{Path: "services.*.stop_grace_period", Support: Honoured, Note: "at most an hour"},
	{Path: "services.*.stop_signal", Support: Honoured},
	{Path: "services.*.storage_opt", Support: Refused, Note: "layers share the node's disk, where a container has no quota", Next: "make the root read-only and use a tmpfs with a size, or remove it"},
	{Path: "services.*.sysctls", Support: Honoured, Since: two, Note: "those of namespaces: `net.*`, `fs.mqueue.*`, `kernel.msg*`, `kernel.sem`, `kernel.shm*`"},
	{Path: "services.*.sysctls.*", Support: Honoured, Since: two},
	{Path: "services.*.tmpfs", Support: Honoured, Note: "options `size` and `mode`; since 0.2 `uid`, `gid`, `nr_inodes`, `exec` and other flags of mount"},
	{Path: "services.*.tty", Support: Honoured},
	{Path: "services.*.ulimits", Support: Honoured, Since: two, Note: "-1 is no limit"},
	{Path: "services.*.ulimits.*", Support: Honoured, Since: two},
	{Path: "services.*.ulimits.*.hard", Support: Honoured, Since: two},
	{Path: "services.*.ulimits.*.soft", Support: Honoured, Since: two},
	{Path: "services.*.umask", Support: Honoured, Since: two},
	{Path: "services.*.use_api_socket", Support: Refused, Note: "there is no engine to talk to", unless: isFalse},
	{Path: "services.*.user", Support: Honoured},
	{Path: "services.*.userns_mode", Support: Honoured, Note: "`host`; `auto` as with x-userns", Since: two},
	{Path: "services.*.uts", Support: Honoured, Since: two, Note: "`private`, `host`"},
	{Path: "services.*.volumes", Support: Honoured},
	{Path: "services.*.volumes.[].bind", Support: Honoured},
	{Path: "services.*.volumes.[].bind.create_host_path", Support: Honoured, Note: "true unless it is given"},
	{Path: "services.*.volumes.[].bind.propagation", Support: Honoured, Since: two, Note: "`rprivate` (default), `private`, `rslave`, `slave`, `rshared`, `shared`"},
	{Path: "services.*.volumes.[].bind.recursive", Support: Partly, Note: "`enabled`, `disabled`", Since: two, check: only("enabled", "disabled")},
	{Path: "services.*.volumes.[].bind.selinux", Support: Honoured, Note: "containers get no SELinux labels, so there is nothing to relabel", Since: two},
	{Path: "services.*.volumes.[].consistency", Support: Honoured, Note: "means nothing on Linux", Since: two},
	{Path: "services.*.volumes.[].image", Support: Refused, Note: later},
	{Path: "services.*.volumes.[].read_only", Support: Honoured},
	{Path: "services.*.volumes.[].source", Support: Honoured, Note: "a relative path is relative to the project directory, and must be on the node"},
	{Path: "services.*.volumes.[].target", Support: Honoured},
	{Path: "services.*.volumes.[].tmpfs", Support: Honoured},
	{Path: "services.*.volumes.[].tmpfs.mode", Support: Honoured},
	{Path: "services.*.volumes.[].tmpfs.size", Support: Honoured},
	{Path: "services.*.volumes.[].type", Support: Honoured, Note: "`bind`, `volume`, `tmpfs`"},
	{Path: "services.*.volumes.[].volume", Support: Honoured},
	{Path: "services.*.volumes.[].volume.labels", Support: Refused, Note: "volumes have no labels"},
	{Path: "services.*.volumes.[].volume.nocopy", Support: Honoured},
	{Path: "services.*.volumes.[].volume.subpath", Support: Honoured, Since: two, Note: "a directory or file that is there"},
	{Path: "services.*.volumes_from", Support: Refused, Note: "tasks may be on different nodes", Next: "give both services the same named volume"},
	{Path: "services.*.working_dir", Support: Honoured},
	{Path: "services.*.x-autoscale", Support: Honoured, Since: two, Note: "how many tasks by what they do, see docs/autoscale.md"},
	{Path: "services.*.x-autoscale.cpu", Support: Honoured, Since: two, Note: "target in percent of what a task reserves"},
	{Path: "services.*.x-autoscale.down", Support: Honoured, Since: two},
	{Path: "services.*.x-autoscale.down.cooldown", Support: Honoured, Since: two, Note: "5m"},
	{Path: "services.*.x-autoscale.down.step", Support: Honoured, Since: two, Note: "tasks at a time; all"},
	{Path: "services.*.x-autoscale.max", Support: Honoured, Since: two},
	{Path: "services.*.x-autoscale.memory", Support: Honoured, Since: two, Note: "target in percent of what a task reserves"},
	{Path: "services.*.x-autoscale.metrics", Support: Honoured, Since: two, Note: "in the Prometheus text format"},
	{Path: "services.*.x-autoscale.metrics.[].labels", Support: Honoured, Since: two, Note: "that a series must have"},
	{Path: "services.*.x-autoscale.metrics.[].labels.*", Support: Honoured, Since: two},
	{Path: "services.*.x-autoscale.metrics.[].name", Support: Honoured, Since: two},
	{Path: "services.*.x-autoscale.metrics.[].path", Support: Honoured, Since: two, Note: "`/metrics`"},
	{Path: "services.*.x-autoscale.metrics.[].port", Support: Honoured, Since: two},
	{Path: "services.*.x-autoscale.metrics.[].target", Support: Honoured, Since: two},
	{Path: "services.*.x-autoscale.metrics.[].type", Support: Honoured, Since: two, Note: "`average` or `sum`"},
	{Path: "services.*.x-autoscale.min", Support: Honoured, Since: two, Note: "1"},
	{Path: "services.*.x-autoscale.tolerance", Support: Honoured, Since: two, Note: "percent; 10"},
	{Path: "services.*.x-autoscale.up", Support: Honoured, Since: two},
	{Path: "services.*.x-autoscale.up.cooldown", Support: Honoured, Since: two, Note: "30s"},
	{Path: "services.*.x-autoscale.up.step", Support: Honoured, Since: two, Note: "tasks at a time; as many as there are, at least 4"},
	{Path: "services.*.x-autoscale.window", Support: Honoured, Since: two, Note: "over what time CPU is averaged; 15s"},
	{Path: "services.*.x-batch", Support: Honoured, Since: two, Note: "how runs of a batch go; without `deploy.mode` it means `replicated-job`"},
	{Path: "services.*.x-batch.backoff", Support: Honoured, Since: two, Note: "before the first retry, then doubled; 1s"},
	{Path: "services.*.x-batch.completions", Support: Honoured, Since: two, Note: "how often the program must end well; `deploy.replicas`, or 1"},
	{Path: "services.*.x-batch.deadline", Support: Honoured, Since: two, Note: "how long a run may take"},
	{Path: "services.*.x-batch.exit_codes", Support: Honoured, Since: two},
	{Path: "services.*.x-batch.exit_codes.fail", Support: Honoured, Since: two, Note: "codes and ranges (`64-78`) that fail the run at once"},
	{Path: "services.*.x-batch.exit_codes.retry", Support: Honoured, Since: two, Note: "codes and ranges to try again; when given, all others fail the run"},
	{Path: "services.*.x-batch.exit_codes.success", Support: Honoured, Since: two, Note: "codes and ranges beside 0 that count as success"},
	{Path: "services.*.x-batch.history", Support: Honoured, Since: two, Note: "ended runs to keep"},
	{Path: "services.*.x-batch.history.failed", Support: Honoured, Since: two, Note: "3"},
	{Path: "services.*.x-batch.history.successful", Support: Honoured, Since: two, Note: "3"},
	{Path: "services.*.x-batch.max_backoff", Support: Honoured, Since: two, Note: "1m"},
	{Path: "services.*.x-batch.max_failures", Support: Honoured, Since: two, Note: "failures in all that a run may have; no limit but `retries`"},
	{Path: "services.*.x-batch.parallelism", Support: Honoured, Since: two, Note: "tasks at a time; all"},
	{Path: "services.*.x-batch.retries", Support: Honoured, Since: two, Note: "of each completion; what `restart` says, or 3"},
	{Path: "services.*.x-batch.ttl", Support: Honoured, Since: two, Note: "how long after a run its containers and logs are kept"},
	{Path: "services.*.x-canary", Support: Honoured, Since: two, Note: "short for `deploy.update_config.x-canary`"},
	{Path: "services.*.x-drain", Support: Honoured, Since: two, Note: "how long connections may go on after a task has left names and routing and before it is asked to stop; default 1 s, at most an hour"},
	{Path: "services.*.x-failover", Support: Honoured, Since: two, Note: "`fast`, `fenced`, `manual`, or a mapping with `mode` and `lease`; the default is `fenced` for one replica that writes a named volume, else `fast`"},
	{Path: "services.*.x-failover.lease", Support: Honoured, Since: two, Note: "how long a fenced container runs without the leader's word; 10s"},
	{Path: "services.*.x-failover.mode", Support: Honoured, Since: two},
	{Path: "services.*.x-health", Support: Honoured, Since: two, Note: "checks from outside; in place of healthcheck"},
	{Path: "services.*.x-health.grpc", Support: Honoured, Since: two, Note: "grpc.health.v1.Health/Check; a mapping, or the port alone"},
	{Path: "services.*.x-health.grpc.port", Support: Honoured, Since: two},
	{Path: "services.*.x-health.grpc.service", Support: Honoured, Since: two},
	{Path: "services.*.x-health.grpc.tls", Support: Honoured, Since: two},
	{Path: "services.*.x-health.http", Support: Honoured, Since: two, Note: "a mapping, or the port alone"},
	{Path: "services.*.x-health.http.body", Support: Honoured, Since: two, Note: "must be in the answer's first 64 KiB"},
	{Path: "services.*.x-health.http.headers", Support: Honoured, Since: two},
	{Path: "services.*.x-health.http.headers.*", Support: Honoured, Since: two},
	{Path: "services.*.x-health.http.host", Support: Honoured, Since: two},
	{Path: "services.*.x-health.http.method", Support: Honoured, Since: two},
	{Path: "services.*.x-health.http.path", Support: Honoured, Since: two},
	{Path: "services.*.x-health.http.port", Support: Honoured, Since: two},
	{Path: "services.*.x-health.http.scheme", Support: Honoured, Since: two, Note: "`http`, `https`; certificates are not verified"},
	{Path: "services.*.x-health.http.status", Support: Honoured, Since: two, Note: "as 200 or 200-299; default 200-399"},
	{Path: "services.*.x-health.interval", Support: Honoured, Since: two},
	{Path: "services.*.x-health.retries", Support: Honoured, Since: two},
	{Path: "services.*.x-health.start_interval", Support: Honoured, Since: two},
	{Path: "services.*.x-health.start_period", Support: Honoured, Since: two},
	{Path: "services.*.x-health.tcp", Support: Honoured, Since: two, Note: "connects; a mapping, or the port alone"},
	{Path: "services.*.x-health.tcp.port", Support: Honoured, Since: two},
	{Path: "services.*.x-health.timeout", Support: Honoured, Since: two},
	{Path: "services.*.x-lease", Support: Honoured, Since: two, Note: "short for `lease` in `x-failover`"},
	{Path: "services.*.x-placement", Support: Honoured, Since: two, Note: "where tasks had better be, see docs/placement.md"},
	{Path: "services.*.x-placement.apart", Support: Honoured, Since: two, Note: "services to be on other nodes than"},
	{Path: "services.*.x-placement.apart.[].by", Support: Honoured, Since: two},
	{Path: "services.*.x-placement.apart.[].service", Support: Honoured, Since: two},
	{Path: "services.*.x-placement.apart.[].weight", Support: Honoured, Since: two},
	{Path: "services.*.x-placement.prefer", Support: Honoured, Since: two, Note: "constraints that need not hold"},
	{Path: "services.*.x-placement.prefer.[].constraint", Support: Honoured, Since: two},
	{Path: "services.*.x-placement.prefer.[].weight", Support: Honoured, Since: two, Note: "-100 to 100; default 50"},
	{Path: "services.*.x-placement.strategy", Support: Honoured, Since: two, Note: "`spread` or `binpack`; the default is the cluster's"},
	{Path: "services.*.x-placement.with", Support: Honoured, Since: two, Note: "services, or `job/service`, to be on one node with"},
	{Path: "services.*.x-placement.with.[].by", Support: Honoured, Since: two, Note: "a node key such as node.labels.zone; default the node"},
	{Path: "services.*.x-placement.with.[].service", Support: Honoured, Since: two},
	{Path: "services.*.x-placement.with.[].weight", Support: Honoured, Since: two, Note: "1 to 100 makes it a wish; without it is a must"},
	{Path: "services.*.x-priority", Support: Honoured, Since: two, Note: "0 to 100, default 50; one that is higher by 10 may take another's room"},
	{Path: "services.*.x-rebalance", Support: Honoured, Since: two, Note: "`true` or `false`: whether tasks may be moved to nodes that join or return; the default is `true` where `x-failover` is `fast`"},
	{Path: "services.*.x-schedule", Support: Honoured, Since: two, Note: "a cron expression, or a mapping; makes the service a batch that runs by it"},
	{Path: "services.*.x-schedule.cron", Support: Honoured, Since: two, Note: "five fields, `@daily` and the like, or `@every 10m`"},
	{Path: "services.*.x-schedule.history", Support: Honoured, Since: two, Note: "as in `x-batch`"},
	{Path: "services.*.x-schedule.history.failed", Support: Honoured, Since: two},
	{Path: "services.*.x-schedule.history.successful", Support: Honoured, Since: two},
	{Path: "services.*.x-schedule.missed", Support: Honoured, Since: two, Note: "`run` (once, late) or `skip`"},
	{Path: "services.*.x-schedule.overlap", Support: Honoured, Since: two, Note: "`forbid`, `allow` or `replace`"},
	{Path: "services.*.x-schedule.paused", Support: Honoured, Since: two},
	{Path: "services.*.x-schedule.start_deadline", Support: Honoured, Since: two, Note: "how late a run may begin"},
	{Path: "services.*.x-schedule.time_zone", Support: Honoured, Since: two, Note: "such as `Europe/Berlin`; UTC"},
	{Path: "services.*.x-strategy", Support: Honoured, Since: two, Note: "short for `strategy` in `x-placement`"},
	{Path: "services.*.x-userns", Support: Partly, Note: "`auto`: users of its own for each container; `host`", Since: two, check: only("auto", "host")},
}

// securityOpt lets pass what the conversion knows.
func securityOpt(v any) string {
	list, _ := v.([]any)
	for _, e := range list {
		switch key, _, _ := strings.Cut(strings.ReplaceAll(fmt.Sprint(e), "=", ":"), ":"); {
		case key == "no-new-privileges", key == "seccomp", key == "apparmor", fmt.Sprint(e) == "label:disable", fmt.Sprint(e) == "label=disable":
		default:
			return fmt.Sprintf("%.80q is not, only no-new-privileges, seccomp, apparmor and label:disable", fmt.Sprint(e))
		}
	}
	return ""
}
