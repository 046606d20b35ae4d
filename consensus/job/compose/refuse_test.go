package compose

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/consensus/job"
	"shoal/e2e/frugal"
)

// service makes a file of one service with the given lines below it.
func service(lines string) string {
	return "services:\n  web:\n    image: web\n    " + strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n    ") + "\n"
}

func TestWhatIsNotHonouredIsRefusedWithItsPlaceAndTheNextStep(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"storage_opt", service("storage_opt: {size: 1g}"), "-:4: services.web.storage_opt: not honoured by this version (layers share the node's disk, where a container has no quota); make the root read-only"},
		{"build", "services: {web: {build: .}}", "services.web.build: not honoured by this version (shoal does not build); build the image and `shoal image load` it"},
		{"network", service("networks: [front]") + "networks: {front: }", "services.web.networks.front: not honoured"},
		{"alias on the default network", service("networks: {default: {aliases: [x]}}"), "services.web.networks.default.aliases: not honoured by this version (it is not known); remove it or use --lenient"},
		{"default network with settings", service("") + "networks: {default: {driver: overlay}}", "networks.default.driver: not honoured"},
		{"configs", service("") + "configs: {c: {file: ./c}}", "-:5: configs: not honoured"},
		{"secrets", service("secrets: [s]") + "secrets: {s: {file: ./s}}", "services.web.secrets: not honoured"},
		{"sub key", service("deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: [a]}]}}}"), "services.web.deploy.resources.reservations.devices[].device_ids: not honoured"},
		{"update order", service("deploy: {update_config: {order: sideways}}"), "deploy.update_config.order value must be one of"},
		{"failure ratio", service("deploy: {update_config: {max_failure_ratio: 1.5}}"), "services.web.update_config.max_failure_ratio: 1.5 is not within 0 and 1"},
		{"rollback of a rollback", service("deploy: {rollback_config: {failure_action: rollback}}"), "services.web.rollback_config.failure_action: a rollback is never rolled back"},
		{"failure action", service("deploy: {update_config: {failure_action: explode}}"), `services.web.update_config.failure_action: "explode" is not known`},
		{"placement preference", service("deploy: {placement: {preferences: [{spread: node.zone}]}}"), `services.web.placement.preferences[0]: "node.zone" cannot be asked of a node`},
		{"bad weight", service("x-placement: {prefer: [{constraint: node.labels.a == b, weight: 101}]}"), "services.web.x-placement.prefer[0].weight: 101 is not within"},
		{"bad preference", service("x-placement: {prefer: [node.labels.a = b]}"), `services.web.x-placement.prefer[0]: constraint "node.labels.a = b", column 15: no operator`},
		{"unknown peer", service("x-placement: {apart: [db]}"), `services.web.x-placement.apart: service "db" is not in the job`},
		{"with itself", service("x-placement: {with: web}"), "services.web.x-placement.with: the service cannot ask to be with itself"},
		{"placement key", service("x-placement: {near: db}"), "services.web.x-placement.near: not honoured"},
		{"strategy", service("x-strategy: tight"), `services.web.x-placement.strategy: "tight" is not known; use spread or binpack`},
		{"priority", service("x-priority: 101"), "services.web.x-priority: 101 is not within 0 and 100"},
		{"priority word", service("x-priority: high"), "services.web.x-priority: high is not a number from 0 to 100"},
		{"volume driver", service("volumes: ['v:/v']") + "volumes: {v: {driver: nfs}}", `volumes.v.driver: not honoured by this version ("nfs" is not, only local)`},
		{"volume options", service("volumes: ['v:/v']") + "volumes: {v: {driver_opts: {type: nfs}}}", "volumes.v.driver_opts: not honoured"},
		{"unknown option of a short volume", service("volumes: ['/a:/b:ro,cached']"), `option "cached" is not honoured`},
		{"image volume", service("volumes: [{type: image, source: v, target: /v}]"), `services.web.volumes[0]: type "image" is not honoured`},
		{"tmpfs option", service("tmpfs: ['/t:huge=5']"), `option "huge=5" of a tmpfs is not known`},
		{"log driver", service("logging: {driver: syslog}"), `services.web.logging.driver: not honoured by this version ("syslog" is not, only json-file, local, none)`},
		{"log option", service("logging: {options: {tag: x}}"), "services.web.logging.options.tag: not honoured"},
		{"links", service("links: [b]") + "  b: {image: b}", "services.web.links: not honoured"},
		{"devices", service("deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: all}]}}}"), "services.web.deploy.resources.reservations.devices[0]: a count of `all` cannot be placed"},
		{"failover mode", service("x-failover: sometimes"), `services.web.x-failover: "sometimes" is not known; use fast, fenced or manual`},
		{"lease of a fast service", service("x-failover: {mode: fast, lease: 10s}"), "services.web.x-failover.lease: only fenced has a lease, and this is fast"},
		{"short lease", service("x-lease: 1s"), "services.web.x-failover.lease: 1s is not within 3s and 10m0s"},
		{"no lease", service("x-lease: soon"), "services.web.x-lease: soon is not a duration"},
		{"fenced and start-first", service("x-failover: fenced\ndeploy: {update_config: {order: start-first}}"), "fenced never has two tasks in one slot"},
		{"fenced and global", service("x-failover: fenced\ndeploy: {mode: global}"), "a task of a global service is never moved"},
		{"failover key", service("x-failover: {mood: fenced}"), "services.web.x-failover.mood"},
		{"jobs", service("") + "jobs: {j: {image: j, triggers: {schedule: ['@daily']}}}", "jobs: not honoured"},

		{"unknown key", service("imagee: x"), "services.web.imagee is not a key of the Compose specification"},
		{"platform", service("platform: linux/riscv64"), `services.web.platform: "linux/riscv64" is not the platform of this cluster, linux/amd64`},
		{"constraint", service("deploy: {placement: {constraints: [node.role == manager]}}"), `services.web.deploy.placement.constraints[0]: constraint "node.role == manager", column 1: "node.role" cannot be asked of a node`},
		{"mode", service("deploy: {mode: sometimes}"), `services.web.deploy.mode: "sometimes" is not known`},
		{"global with replicas", service("deploy: {mode: global, replicas: 2}"), "a global service has one task on every node"},
		{"restart", service("restart: sometimes"), `services.web.restart: "sometimes" is not known`},
		{"restart tries", service("restart: on-failure:many"), `"many" is not a number of tries`},
		{"restart delay", service("deploy: {restart_policy: {delay: 5m}}"), "services.web.deploy.restart_policy.delay: 5m0s is more than 30s"},
		{"empty command", service("command: []"), "services.web.command: an empty list is not honoured"},
		{"protocol", service("ports: [{target: 80, protocol: sctp}]"), `services.web.ports[0]: port "80/sctp": protocol "sctp" is not known`},
		{"published range", service("ports: [{target: 80, published: 8000-8001}]"), "differ in length"},
		{"little memory", service("mem_limit: 4m"), "services.web.limits.memory: 4 MiB is not within 6 MiB"},
		{"image", "services: {web: {image: Web}}", `services.web.image: "Web": invalid reference format`},
		{"service name", "services: {Web.1: {image: web}}", `"Web.1" is not a name`},
		{"job name", "name: My Shop\n" + service(""), "must begin with a letter or digit"},
		{"undefined volume", service("volumes: ['vol:/v']"), "refers to undefined volume vol"},
		{"undefined dependency", service("depends_on: [b]"), `depends on undefined service "b"`},
		{"cycle", "services: {a: {image: a, depends_on: [b]}, b: {image: b, depends_on: [a]}}", "dependency cycle"},
		{"required variable", service("user: ${U:?who}"), "required variable U is missing a value: who"},
		{"only disabled services", service("profiles: [x]"), "all of them are in profiles that are not enabled; use --profile"},
		{"no services", "name: x", "there is none; a job needs at least one"},
		{"missing env_file", service("env_file: absent.env"), "absent.env"},
		{"include of nothing", "include: [absent.yaml]\n" + service(""), "absent.yaml"},
		{"not a mapping", "- a", "top-level object must be a mapping"},
		{"not YAML", "services: {web: [", "failed to parse"},
		{"a key twice", "services: {a: {image: a, image: b}}", "already defined"},
		{"empty", "   \n", "it is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.text, func(o *Options) {
				if tt.name == "job name" {
					o.ProjectName = ""
				}
			})
			if !errors.Is(err, job.Invalid) {
				t.Fatalf("got %v, want an error of kind %q", err, job.Invalid)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

func TestEverythingThatIsWrongIsToldAtOnce(t *testing.T) {
	_, _, err := load(t, `services:
  web:
    image: web
    storage_opt: {size: 1g}
    restart: sometimes
    ports: [{target: 80, name: http}]
  db:
    image: db
    gpus: all
    deploy: {placement: {constraints: [x]}}
  gone:
    image: gone
    profiles: [p]
    privileged: true
`)
	if err == nil {
		t.Fatal("nothing was refused")
	}
	for _, want := range []string{"-:4: services.web.storage_opt", "-:5: services.web.restart", "-:6: services.web.ports[].name",
		"-:9: services.db.gpus", "-:10: services.db.deploy.placement.constraints[0]"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "gone") {
		t.Errorf("a service that is not enabled is in the way:\n%v", err)
	}
}

func TestLinesAreThoseOfTheFileThatHasTheKey(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	base := write("compose.yaml", "x-a: &a\n  storage_opt: {size: 1g}\nservices:\n  web:\n    <<: [*a]\n    image: web\n")
	over := write("over.yaml", "services:\n  web:\n    gpus: all\n")
	_, _, err := Load(t.Context(), Options{Files: []string{base, over}, ProjectName: "p"})
	for _, want := range []string{base + ":2: services.web.storage_opt: ", over + ":3: services.web.gpus: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

func TestFilesThatCannotBeReadSayWhy(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		files []string
		kind  job.Kind
		want  string
	}{
		{nil, job.Invalid, "name one with -f"},
		{[]string{"-"}, job.Invalid, "standard input: there is none"},
		{[]string{filepath.Join(dir, "none.yaml")}, job.NotFound, "no such file"},
		{[]string{dir}, job.Invalid, "it is a directory"},
		{make([]string, MaxFiles+1), job.Invalid, "33 Compose files are more than 32"},
	} {
		_, _, err := Load(t.Context(), Options{Files: tt.files})
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v (kind %s), want %q", tt.files, err, job.KindOf(err), tt.want)
		}
	}
}

func TestInputIsBounded(t *testing.T) {
	if _, _, err := load(t, "#"+strings.Repeat("x", 10<<20)); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("a file of 10 MiB: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big.env"), make([]byte, MaxFileBytes+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := load(t, service("env_file: big.env"), func(o *Options) { o.WorkingDir = dir }); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("a large env_file: %v", err)
	}
	if _, _, err := load(t, service("env_file: /dev/zero")); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("an endless env_file: %v", err)
	}
}

func TestHostileInputIsRefusedAndEnds(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("x-0: &a0 [lol]\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&bomb, "x-%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	var merges strings.Builder
	merges.WriteString("x-0: &a0 {k: v}\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&merges, "x-%d: &a%d {p: *a%d, q: *a%d, <<: *a%d}\n", i, i, i-1, i-1, i-1)
	}
	many := &strings.Builder{}
	many.WriteString("services:\n")
	for i := range job.MaxServices + 1 {
		fmt.Fprintf(many, "  s%d: {image: i}\n", i)
	}
	for name, text := range map[string]string{
		"aliases of aliases":  bomb.String() + service("labels: *a29"),
		"aliases, unused":     bomb.String() + service("privileged: true"),
		"merges of merges":    merges.String() + service("labels: *a29"),
		"alias of itself":     "x-a: &a\n  b: *a\n" + service("labels: *a"),
		"deep lists":          service("labels: " + strings.Repeat("[", 400_000)),
		"deep closed lists":   service("labels: " + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)),
		"deep mappings":       service("x-y: " + strings.Repeat("{a: ", 20_000) + "1" + strings.Repeat("}", 20_000) + "\nprivileged: true"),
		"a range of ports":    service("ports: ['1-65535:1-65535']"),
		"many variables":      service("user: '" + strings.Repeat("${A:-", 170_000) + "'"),
		"variables in a row":  service("user: '" + strings.Repeat("${A}", 200_000) + "'"),
		"many values":         service("labels:" + strings.Repeat("\n  - x", MaxNodes)),
		"many services":       many.String(),
		"extends itself":      service("extends: {service: web}"),
		"NUL":                 service("user: \"a\\0b\""),
		"not UTF-8":           service("user: \xff\xfe"),
		"huge number":         service("mem_limit: 99999999999999999999g"),
		"negative":            service("cpus: -1"),
		"wrong type":          service("ports: {a: b}"),
		"numbers for strings": service("healthcheck: {test: [CMD, 1]}"),
		"null services":       "services: {a: }",
		"ulimits as a float":  service("ulimits: {nofile: {soft: 1.5, hard: 2}}"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := load(t, text); !errors.Is(err, job.Invalid) {
				t.Errorf("got %v, want an error of kind %q", err, job.Invalid)
			} else if len(err.Error()) > 64<<10 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestNestedDefaultsEnd(t *testing.T) {
	text := service("user: '" + strings.Repeat("${A:-", 300) + "x" + strings.Repeat("}", 300) + "'")
	if s, _, err := load(t, text); err != nil || s.Services[0].User != "x" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestVariablesDoNotMultiplyWithoutBound(t *testing.T) {
	_, _, err := load(t, service("user: $A$A"), func(o *Options) { o.Env = []string{"A=" + strings.Repeat("x", maxInterpolated)} })
	if err == nil || !strings.Contains(err.Error(), "put in more than") {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, g := range golden {
		text, err := os.ReadFile(filepath.Join("testdata", g.name+".yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, s := range []string{"", "services:", "services: {a: }", "services: {a: {image: a, ports: [x]}}", "x: &a [*a]", "<<: 1", "- -",
		service("healthcheck: {test: [CMD, 1]}"), service("deploy: {resources: {limits: {cpus: NaN}}}"), service("volumes: ['a:b:c:d']"), "services: {a: {extends: a}}"} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		defer frugal.Watch(t)()
		if strings.Contains(text, "file") || strings.Contains(text, "include") || strings.Contains(text, "extends") {
			return // it would read files of the machine that tests
		}
		s, _, err := Load(t.Context(), Options{Files: []string{"-"}, Stdin: strings.NewReader(text), WorkingDir: dir, ProjectName: "p"})
		if err != nil {
			if !errors.Is(err, job.Invalid) {
				t.Errorf("%v is of kind %q", err, job.KindOf(err))
			}
			return
		}
		if err := s.Validate(); err != nil {
			t.Errorf("loaded, yet %v", err)
		}
	})
}
