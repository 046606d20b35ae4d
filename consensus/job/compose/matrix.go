package compose

import (
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
	b.WriteString("| Key | Support | Note |\n|---|---|---|\n")
	for _, k := range Matrix {
		note := k.Note
		if k.Next != "" {
			note = strings.TrimPrefix(note+"; ", "; ") + k.Next
		}
		path := strings.ReplaceAll(k.Path, ".[]", "[]")
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", path, k.Support, strings.ReplaceAll(note, "|", `\|`))
	}
	return b.String()
}

const (
	later     = "comes in a later version"
	isolation = "every service of a job shares one network; isolation " + later
	noSwap    = "swap is not limited by itself"
	cfsOnly   = "CPU is limited by `cpus` only"
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
	{Path: "services.*.attach", Support: Refused, Note: "nothing is attached; use `shoal logs -f`"},
	{Path: "services.*.blkio_config", Support: Refused, Note: later},
	{Path: "services.*.build", Support: Refused, Note: "shoal does not build", Next: "build the image and `shoal image load` it, then name it with `image:`", bare: true},
	{Path: "services.*.cap_add", Support: Honoured},
	{Path: "services.*.cap_drop", Support: Honoured},
	{Path: "services.*.cgroup", Support: Partly, Note: "`private`, as it is for every container", check: only("private")},
	{Path: "services.*.cgroup_parent", Support: Refused, Note: "shoal keeps its own tree of cgroups"},
	{Path: "services.*.command", Support: Honoured, Note: "an empty list is refused"},
	{Path: "services.*.configs", Support: Refused, Note: later, Next: "use a bind mount, or remove it"},
	{Path: "services.*.container_name", Support: Refused, Note: "tasks are named `<service>.<number>`"},
	{Path: "services.*.cpu_count", Support: Refused, Note: cfsOnly},
	{Path: "services.*.cpu_percent", Support: Refused, Note: cfsOnly},
	{Path: "services.*.cpu_period", Support: Refused, Note: cfsOnly},
	{Path: "services.*.cpu_quota", Support: Refused, Note: cfsOnly},
	{Path: "services.*.cpu_rt_period", Support: Refused, Note: cfsOnly},
	{Path: "services.*.cpu_rt_runtime", Support: Refused, Note: cfsOnly},
	{Path: "services.*.cpu_shares", Support: Refused, Note: cfsOnly},
	{Path: "services.*.cpus", Support: Honoured, Note: "the same as deploy.resources.limits.cpus"},
	{Path: "services.*.cpuset", Support: Refused, Note: later},
	{Path: "services.*.credential_spec", Support: Refused, Note: "for Windows only"},
	{Path: "services.*.depends_on", Support: Honoured},
	{Path: "services.*.depends_on.*", Support: Honoured},
	{Path: "services.*.depends_on.*.condition", Support: Honoured},
	{Path: "services.*.depends_on.*.required", Support: Honoured, Note: "false lets the dependency be absent; if it is there, it is waited for"},
	{Path: "services.*.depends_on.*.restart", Support: Refused, Note: "a change of one service does not restart another", unless: isFalse},
	{Path: "services.*.deploy", Support: Honoured},
	{Path: "services.*.deploy.endpoint_mode", Support: Partly, Note: "`dnsrr`", check: only("dnsrr")},
	{Path: "services.*.deploy.labels", Support: Refused, Note: "only containers have labels", Next: "use the service's `labels`"},
	{Path: "services.*.deploy.mode", Support: Honoured, Note: "`replicated`, `global`"},
	{Path: "services.*.deploy.placement", Support: Honoured},
	{Path: "services.*.deploy.placement.constraints", Support: Honoured, Note: "==, !=, in, not in, =~, !~, >=, <=, >, <, contains, not contains on `node.labels.*`, `node.attr.*`, `node.hostname`, `node.id`, `node.ip`, `node.platform.*`"},
	{Path: "services.*.deploy.placement.max_replicas_per_node", Support: Honoured},
	{Path: "services.*.deploy.placement.preferences", Support: Honoured, Note: "up to 4, the first is the strongest"},
	{Path: "services.*.deploy.placement.preferences.[].spread", Support: Honoured, Note: "any key that constraints know"},
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
	{Path: "services.*.deploy.resources.reservations.devices", Support: Honoured, Note: "so many of the node's resource that the first capability names, such as `gpu`; see `shoal agent --resource`"},
	{Path: "services.*.deploy.resources.reservations.devices.[].capabilities", Support: Honoured},
	{Path: "services.*.deploy.resources.reservations.devices.[].count", Support: Honoured, Note: "a number"},
	{Path: "services.*.deploy.resources.reservations.devices.[].driver", Support: Honoured, Note: "any; the capability counts"},
	{Path: "services.*.deploy.resources.reservations.devices.[].device_ids", Support: Refused, Note: "they name devices of one machine", Next: "give a `count`"},
	{Path: "services.*.deploy.resources.reservations.devices.[].options", Support: Refused, Note: later},
	{Path: "services.*.deploy.resources.reservations.generic_resources", Support: Honoured, Note: "of what nodes declare with `shoal agent --resource`"},
	{Path: "services.*.deploy.resources.reservations.generic_resources.[].discrete_resource_spec", Support: Honoured},
	{Path: "services.*.deploy.resources.reservations.generic_resources.[].discrete_resource_spec.kind", Support: Honoured},
	{Path: "services.*.deploy.resources.reservations.generic_resources.[].discrete_resource_spec.value", Support: Honoured},
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
	{Path: "services.*.deploy.update_config.parallelism", Support: Honoured, Note: "default 1; 0 is all at once"},
	{Path: "services.*.deploy.update_config.delay", Support: Honoured},
	{Path: "services.*.deploy.update_config.failure_action", Support: Honoured, Note: "`rollback` (default), `pause`, `continue`"},
	{Path: "services.*.deploy.update_config.monitor", Support: Honoured, Note: "default 5 s: a new task is good once it was ready for so long"},
	{Path: "services.*.deploy.update_config.max_failure_ratio", Support: Honoured, Note: "default 0"},
	{Path: "services.*.deploy.update_config.order", Support: Honoured, Note: "`start-first`, `stop-first`; default start-first, but stop-first with a fixed port, a writable named volume or no room for two"},
	{Path: "services.*.develop", Support: Refused, Note: "for development with compose watch only"},
	{Path: "services.*.device_cgroup_rules", Support: Refused, Note: later},
	{Path: "services.*.devices", Support: Refused, Note: later},
	{Path: "services.*.dns", Support: Refused, Note: "the node answers and forwards; settings come in a later version"},
	{Path: "services.*.dns_opt", Support: Refused, Note: later},
	{Path: "services.*.dns_search", Support: Refused, Note: later},
	{Path: "services.*.domainname", Support: Refused, Note: later},
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
	{Path: "services.*.extra_hosts", Support: Refused, Note: later},
	{Path: "services.*.gpus", Support: Refused, Note: later},
	{Path: "services.*.group_add", Support: Refused, Note: later},
	{Path: "services.*.healthcheck", Support: Honoured},
	{Path: "services.*.healthcheck.disable", Support: Honoured},
	{Path: "services.*.healthcheck.interval", Support: Honoured},
	{Path: "services.*.healthcheck.retries", Support: Honoured},
	{Path: "services.*.healthcheck.start_interval", Support: Honoured},
	{Path: "services.*.healthcheck.start_period", Support: Honoured},
	{Path: "services.*.healthcheck.test", Support: Honoured, Note: "must be given when anything else of the check is"},
	{Path: "services.*.healthcheck.timeout", Support: Honoured},
	{Path: "services.*.hostname", Support: Honoured},
	{Path: "services.*.image", Support: Honoured},
	{Path: "services.*.init", Support: Honoured},
	{Path: "services.*.ipc", Support: Partly, Note: "`private`, as it is for every container", check: only("private")},
	{Path: "services.*.isolation", Support: Refused, Note: "for Windows only"},
	{Path: "services.*.label_file", Support: Honoured, Note: "read where shoal run is called"},
	{Path: "services.*.labels", Support: Honoured},
	{Path: "services.*.labels.*", Support: Honoured},
	{Path: "services.*.links", Support: Refused, Note: "services are found by their names without it; aliases come in a later version", Next: "use depends_on, or remove it"},
	{Path: "services.*.logging", Support: Honoured},
	{Path: "services.*.logging.driver", Support: Partly, Note: "`json-file`, `local`", check: only("json-file", "local")},
	{Path: "services.*.logging.options", Support: Honoured},
	{Path: "services.*.logging.options.max-size", Support: Honoured},
	{Path: "services.*.logging.options.max-file", Support: Honoured},
	{Path: "services.*.logging.options.*", Support: Refused, Note: "logs have a size and a number of files only"},
	{Path: "services.*.mac_address", Support: Refused, Note: "the node chooses it"},
	{Path: "services.*.mem_limit", Support: Honoured, Note: "the same as deploy.resources.limits.memory"},
	{Path: "services.*.mem_reservation", Support: Honoured, Note: "the same as deploy.resources.reservations.memory"},
	{Path: "services.*.mem_swappiness", Support: Refused, Note: noSwap},
	{Path: "services.*.memswap_limit", Support: Refused, Note: noSwap},
	{Path: "services.*.models", Support: Refused, Note: "shoal runs containers only"},
	{Path: "services.*.network_mode", Support: Partly, Note: "`bridge`, as it is for every container; other modes come in a later version", check: only("bridge")},
	{Path: "services.*.networks", Support: Honoured},
	{Path: "services.*.networks.default", Support: Honoured, Note: "without settings of its own"},
	{Path: "services.*.networks.*", Support: Refused, Note: isolation, bare: true},
	{Path: "services.*.oom_kill_disable", Support: Refused, Note: "it would hang the container", unless: isFalse},
	{Path: "services.*.oom_score_adj", Support: Refused, Note: later},
	{Path: "services.*.pid", Support: Refused, Note: "every container has its own processes"},
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
	{Path: "services.*.post_start", Support: Refused, Note: later},
	{Path: "services.*.pre_start", Support: Refused, Note: later},
	{Path: "services.*.pre_stop", Support: Refused, Note: later},
	{Path: "services.*.privileged", Support: Refused, Note: "containers never get all of the machine", Next: "use cap_add for what it needs, or use --lenient", unless: isFalse},
	{Path: "services.*.profiles", Support: Honoured},
	{Path: "services.*.provider", Support: Refused, Note: "shoal runs containers only"},
	{Path: "services.*.pull_policy", Support: Partly, Note: "`missing`, `if_not_present`", check: only("missing", "if_not_present")},
	{Path: "services.*.pull_refresh_after", Support: Refused, Note: "an image is pulled when it is missing"},
	{Path: "services.*.read_only", Support: Honoured},
	{Path: "services.*.restart", Support: Honoured, Note: "without it a service is restarted always; runs once where another waits for its completion"},
	{Path: "services.*.runtime", Support: Refused, Note: "there is one runtime"},
	{Path: "services.*.scale", Support: Honoured},
	{Path: "services.*.secrets", Support: Refused, Note: later, Next: "use a bind mount, or remove it"},
	{Path: "services.*.security_opt", Support: Partly, Note: "`no-new-privileges:true`, as it is for every container", check: securityOpt},
	{Path: "services.*.shm_size", Support: Refused, Note: later, Next: "mount a tmpfs with a size at /dev/shm"},
	{Path: "services.*.stdin_open", Support: Honoured},
	{Path: "services.*.stop_grace_period", Support: Honoured, Note: "at most an hour"},
	{Path: "services.*.stop_signal", Support: Honoured},
	{Path: "services.*.storage_opt", Support: Refused, Note: later},
	{Path: "services.*.sysctls", Support: Refused, Note: later},
	{Path: "services.*.tmpfs", Support: Honoured, Note: "options `size` and `mode`"},
	{Path: "services.*.tty", Support: Honoured},
	{Path: "services.*.ulimits", Support: Refused, Note: later},
	{Path: "services.*.umask", Support: Refused, Note: later},
	{Path: "services.*.use_api_socket", Support: Refused, Note: "there is no engine to talk to", unless: isFalse},
	{Path: "services.*.user", Support: Honoured},
	{Path: "services.*.userns_mode", Support: Refused, Note: later},
	{Path: "services.*.uts", Support: Refused, Note: "every container has its own host name"},
	{Path: "services.*.volumes", Support: Honoured},
	{Path: "services.*.volumes.[].bind", Support: Honoured},
	{Path: "services.*.volumes.[].bind.create_host_path", Support: Honoured, Note: "true unless it is given"},
	{Path: "services.*.volumes.[].bind.propagation", Support: Partly, Note: "`rprivate`", check: only("rprivate")},
	{Path: "services.*.volumes.[].bind.recursive", Support: Partly, Note: "`enabled`", check: only("enabled")},
	{Path: "services.*.volumes.[].bind.selinux", Support: Refused, Note: "files are not relabelled"},
	{Path: "services.*.volumes.[].consistency", Support: Refused, Note: "means nothing on Linux"},
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
	{Path: "services.*.volumes.[].volume.subpath", Support: Refused, Note: later},
	{Path: "services.*.volumes_from", Support: Refused, Note: "tasks may be on different nodes", Next: "give both services the same named volume"},
	{Path: "services.*.working_dir", Support: Honoured},
	{Path: "services.*.x-failover", Support: Honoured, Note: "`fast`, `fenced`, `manual`, or a mapping with `mode` and `lease`; the default is `fenced` for one replica that writes a named volume, else `fast`"},
	{Path: "services.*.x-failover.lease", Support: Honoured, Note: "how long a fenced container runs without the leader's word; 10s"},
	{Path: "services.*.x-failover.mode", Support: Honoured},
	{Path: "services.*.x-lease", Support: Honoured, Note: "short for `lease` in `x-failover`"},
	{Path: "services.*.x-placement", Support: Honoured, Note: "where tasks had better be, see docs/placement.md"},
	{Path: "services.*.x-placement.strategy", Support: Honoured, Note: "`spread` or `binpack`; the default is the cluster's"},
	{Path: "services.*.x-placement.prefer", Support: Honoured, Note: "constraints that need not hold"},
	{Path: "services.*.x-placement.prefer.[].constraint", Support: Honoured},
	{Path: "services.*.x-placement.prefer.[].weight", Support: Honoured, Note: "-100 to 100; default 50"},
	{Path: "services.*.x-placement.with", Support: Honoured, Note: "services, or `job/service`, to be on one node with"},
	{Path: "services.*.x-placement.with.[].service", Support: Honoured},
	{Path: "services.*.x-placement.with.[].by", Support: Honoured, Note: "a node key such as node.labels.zone; default the node"},
	{Path: "services.*.x-placement.with.[].weight", Support: Honoured, Note: "1 to 100 makes it a wish; without it is a must"},
	{Path: "services.*.x-placement.apart", Support: Honoured, Note: "services to be on other nodes than"},
	{Path: "services.*.x-placement.apart.[].service", Support: Honoured},
	{Path: "services.*.x-placement.apart.[].by", Support: Honoured},
	{Path: "services.*.x-placement.apart.[].weight", Support: Honoured},
	{Path: "services.*.x-priority", Support: Honoured, Note: "0 to 100, default 50; one that is higher by 10 may take another's room"},
	{Path: "services.*.x-strategy", Support: Honoured, Note: "short for `strategy` in `x-placement`"},
}

// securityOpt lets pass what every container gets anyway.
func securityOpt(v any) string {
	list, _ := v.([]any)
	for _, e := range list {
		switch fmt.Sprint(e) {
		case "no-new-privileges", "no-new-privileges:true", "no-new-privileges=true":
		default:
			return fmt.Sprintf("%.80q is not, only no-new-privileges:true", fmt.Sprint(e))
		}
	}
	return ""
}
