package job

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// goodSpec uses every field, so that a test that breaks one of them sees only its own problem.
func goodSpec() *Spec {
	s := &Spec{
		Name: "shop",
		Services: []Service{
			{Name: "db", Replicas: 1, Image: "postgres:17", Mounts: []Mount{{Type: MountVolume, Source: "shop_db", Target: "/var/lib/postgresql"}},
				Health: &Health{Test: []string{"CMD", "pg_isready"}, Interval: 5 * time.Second, Retries: 3}},
			{Name: "migrate", Replicas: 1, Image: "shop/migrate", Restart: Restart{Policy: RestartNever},
				DependsOn: []Dependency{{Service: "db", Condition: DependHealthy}}},
			{Name: "web", Mode: Replicated, Replicas: 3, Image: "shop/web@sha256:abc", Entrypoint: []string{"/web"}, Command: []string{"-v"},
				Env: []string{"A1=2", "A=1"}, Labels: map[string]string{"team": "shop"}, WorkingDir: "/srv", User: "1000:1000",
				Hostname: "web.example", StopSignal: "quit", StopGrace: time.Minute,
				Ports:  []Port{{Published: 80, Target: 8080, Protocol: "tcp"}, {Published: 80, Target: 8080, Protocol: "udp"}},
				Mounts: []Mount{{Type: MountBind, Source: "/srv/html", Target: "/html", ReadOnly: true}, {Type: MountTmpfs, Target: "/tmp", SizeBytes: 1 << 20, FileMode: 0o1777}},
				CapAdd: []string{"cap_net_admin"}, CapDrop: []string{"ALL"},
				Limits: Resources{NanoCPUs: 500_000_000, MemoryBytes: 64 << 20, PIDs: 100}, Reservations: Resources{NanoCPUs: 100_000_000, MemoryBytes: 1 << 20},
				Constraints: []Constraint{{"node.labels.zone", "==", "a"}, {"node.hostname", "!=", "n1"}},
				DependsOn:   []Dependency{{Service: "db", Condition: DependStarted}, {Service: "migrate", Condition: DependCompleted}},
				Log:         LogLimits{MaxBytes: 1 << 20, MaxFiles: 3}},
		},
		Volumes: []Volume{{Name: "shop_db"}},
	}
	s.Normalize()
	return s
}

func TestValidateAcceptsASpecThatUsesEverything(t *testing.T) {
	if err := goodSpec().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesTheServiceTheKeyAndTheNextStep(t *testing.T) {
	many := func(n int, f func(i int) string) (out []string) {
		for i := range n {
			out = append(out, f(i))
		}
		return out
	}
	tests := []struct {
		name  string
		spoil func(s *Spec, web *Service)
		want  string
	}{
		{"job name", func(s *Spec, _ *Service) { s.Name = "Shop" }, `name: "Shop" is not a name`},
		{"no services", func(s *Spec, _ *Service) { s.Services = nil }, "a job needs at least one"},
		{"too many services", func(s *Spec, _ *Service) { s.Services = make([]Service, MaxServices+1) }, "201 are more than 200; split the job"},
		{"two of a name", func(s *Spec, w *Service) { w.Name = "migrate" }, "services.migrate: the name is taken twice"},
		{"order", func(s *Spec, _ *Service) { slices.Reverse(s.Services) }, "not sorted by name"},
		{"service name", func(s *Spec, w *Service) { w.Name = "web.1" }, `services.web.1: "web.1" is not a name`},
		{"mode", func(_ *Spec, w *Service) { w.Mode = "batch" }, `services.web.mode: "batch" is not known; use "replicated", "global", "replicated-job" or "global-job"`},
		{"replicas", func(_ *Spec, w *Service) { w.Replicas = MaxReplicas + 1 }, "services.web.replicas: 100001 is not within 0 and 100000"},
		{"no image", func(_ *Spec, w *Service) { w.Image = "" }, "services.web.image: is missing"},
		{"image", func(_ *Spec, w *Service) { w.Image = "a b" }, "has a space in it"},
		{"image with escapes", func(_ *Spec, w *Service) { w.Image = "a\x1b[2Jb" }, "control characters"},
		{"too many arguments", func(_ *Spec, w *Service) { w.Command = make([]string, MaxArgs+1) }, "services.web.command: 1001 arguments are more than 1000"},
		{"NUL in an argument", func(_ *Spec, w *Service) { w.Entrypoint = []string{"a\x00"} }, "services.web.entrypoint: an argument holds a NUL byte"},
		{"large command", func(_ *Spec, w *Service) { w.Command = []string{strings.Repeat("x", MaxArgBytes)} }, "bytes are more than"},
		{"working dir", func(_ *Spec, w *Service) { w.WorkingDir = "srv" }, `services.web.working_dir: "srv" is not absolute`},
		{"hostname", func(_ *Spec, w *Service) { w.Hostname = "-web" }, `services.web.hostname: "-web" is not a host name`},
		{"signal", func(_ *Spec, w *Service) { w.StopSignal = "SIGFOO" }, `services.web.stop_signal: "SIGFOO" is not a signal`},
		{"grace", func(_ *Spec, w *Service) { w.StopGrace = 2 * time.Hour }, "services.web.stop_grace_period: 2h0m0s is not within 0s and 1h0m0s"},
		{"env without =", func(_ *Spec, w *Service) { w.Env = []string{"A"} }, `services.web.environment[0]: "A" is not KEY=VALUE`},
		{"env twice", func(_ *Spec, w *Service) { w.Env = []string{"A=1", "A=2"} }, "services.web.environment.A: is set twice"},
		{"env order", func(_ *Spec, w *Service) { w.Env = []string{"B=1", "A=2"} }, "the variables are not sorted"},
		{"env size", func(_ *Spec, w *Service) { w.Env = []string{"A=" + strings.Repeat("x", MaxEnvBytes)} }, "services.web.environment: 65539 bytes are more than 65536"},
		{"too many variables", func(_ *Spec, w *Service) {
			w.Env = many(MaxEnv+1, func(i int) string { return fmt.Sprintf("K%05d=", i) })
		}, "1001 variables are more than 1000"},
		{"label", func(_ *Spec, w *Service) { w.Labels = map[string]string{"a": strings.Repeat("x", MaxLabelBytes)} }, "services.web.labels.a: 4097 bytes"},
		{"port", func(_ *Spec, w *Service) { w.Ports = []Port{{Protocol: "tcp"}} }, "services.web.ports[0]: the container's port is missing"},
		{"protocol", func(_ *Spec, w *Service) { w.Ports = []Port{{Target: 1, Protocol: "sctp"}} }, `protocol "sctp" is not known; use tcp or udp`},
		{"port twice", func(_ *Spec, w *Service) {
			w.Ports = []Port{{Published: 80, Target: 1, Protocol: "tcp"}, {HostIP: netip.MustParseAddr("127.0.0.1"), Published: 80, Target: 2, Protocol: "tcp"}}
		}, "services.web.ports[1]: port 80/tcp is published twice"},
		{"mount type", func(_ *Spec, w *Service) { w.Mounts[0].Type = "nfs" }, `services.web.volumes./html: type "nfs" is not known`},
		{"mount target", func(_ *Spec, w *Service) { w.Mounts[0].Target = "/" }, `target "/" must be an absolute path other than /`},
		{"bind source", func(_ *Spec, w *Service) { w.Mounts[0].Source = "./html" }, `source "./html" must be an absolute path`},
		{"mount twice", func(_ *Spec, w *Service) { w.Mounts[1].Target = "/html/" }, "something else is mounted there too"},
		{"undeclared volume", func(s *Spec, _ *Service) { s.Volumes = nil }, `services.db.volumes./var/lib/postgresql: volume "shop_db" is not among the job's volumes`},
		{"volume name", func(s *Spec, _ *Service) { s.Volumes[0].Name = "../x" }, "volumes.../x: not a volume's name"},
		{"tmpfs size on a bind", func(_ *Spec, w *Service) { w.Mounts[0].SizeBytes = 1 }, "for tmpfs only"},
		{"capability", func(_ *Spec, w *Service) { w.CapAdd = []string{"FLY"} }, `services.web.cap_add: "FLY" is not a capability`},
		{"health test", func(_ *Spec, w *Service) { w.Health = &Health{Test: []string{"curl"}} }, `services.web.healthcheck.test: begins with "curl"`},
		{"health without a program", func(_ *Spec, w *Service) { w.Health = &Health{Test: []string{"CMD"}} }, "CMD wants a program"},
		{"health interval", func(_ *Spec, w *Service) { w.Health = &Health{Test: []string{"CMD", "x"}, Interval: 1} }, "healthcheck.interval: 1ns is not within 1ms"},
		{"restart", func(_ *Spec, w *Service) { w.Restart.Policy = "always" }, `services.web.restart: "always" is not known`},
		{"restart delay", func(_ *Spec, w *Service) { w.Restart.Delay = time.Minute }, "services.web.restart.delay: 1m0s is not within 0s and 30s"},
		{"little memory", func(_ *Spec, w *Service) { w.Limits.MemoryBytes = 4 << 20 }, "services.web.limits.memory: 4 MiB is not within 6 MiB and"},
		{"little CPU", func(_ *Spec, w *Service) { w.Limits.NanoCPUs = 1 }, "services.web.limits.cpus: 0.000000001 is not within 0.01 and"},
		{"negative pids", func(_ *Spec, w *Service) { w.Limits.PIDs = -1 }, "services.web.limits.pids: -1"},
		{"reservation above limit", func(_ *Spec, w *Service) { w.Reservations.MemoryBytes = 1 << 30 }, "services.web.reservations.memory: 1 GiB is more than the limit of 64 MiB"},
		{"constraint", func(_ *Spec, w *Service) { w.Constraints[0].Key = "node.role" }, `"node.role" cannot be asked of a node`},
		{"log", func(_ *Spec, w *Service) { w.Log.MaxBytes = 1 }, "services.web.logging.max-size: 1 B is not within 4 KiB"},
		{"unknown dependency", func(_ *Spec, w *Service) { w.DependsOn = []Dependency{{Service: "cache", Condition: DependStarted}} }, `services.web.depends_on: service "cache" is not in the job`},
		{"depends on itself", func(_ *Spec, w *Service) { w.DependsOn = []Dependency{{Service: "web", Condition: DependStarted}} }, "waits for itself"},
		{"condition", func(_ *Spec, w *Service) { w.DependsOn[0].Condition = "ready" }, `condition "ready" is not known`},
		{"completion of what never ends", func(_ *Spec, w *Service) { w.DependsOn[0].Condition = DependCompleted }, "db is restarted for ever and never completes"},
		{"health of what has none", func(s *Spec, _ *Service) { s.Service("db").Health = &Health{Test: []string{"NONE"}} }, "never becomes healthy"},
		{"cycle", func(s *Spec, w *Service) {
			s.Service("db").DependsOn = []Dependency{{Service: "web", Condition: DependStarted}}
		}, "services wait for each other: db -> web -> db"},
		{"with each other", func(s *Spec, w *Service) {
			w.DependsOn = nil
			w.Placement = &Placement{Peers: []Peer{{Service: "db"}}}
			s.Service("db").Placement = &Placement{Peers: []Peer{{Service: s.Name + "/web", By: "node.labels.zone"}}}
		}, "services.db.x-placement.with: services wait for each other to be placed: db -> web -> db; one that"},
		{"with what depends on it", func(s *Spec, w *Service) {
			s.Service("db").Placement = &Placement{Peers: []Peer{{Service: "web"}}}
		}, "services wait for each other to be placed: db -> web -> db"},
		{"source", func(s *Spec, _ *Service) { s.Source = strings.Repeat("x", MaxSourceBytes+1) }, "source: 262145 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := goodSpec()
			tt.spoil(s, s.Service("web"))
			err := s.Validate()
			if !errors.Is(err, Invalid) {
				t.Fatalf("Validate() = %v, want an error of kind %q", err, Invalid)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate() says\n%v\nand not %q", err, tt.want)
			}
		})
	}
}

func TestValidateTellsAllProblemsButNotEndlessly(t *testing.T) {
	s := goodSpec()
	w := s.Service("web")
	w.Image, w.WorkingDir, w.Limits.PIDs = "", "x", -1
	if n := strings.Count(s.Validate().Error(), "\n"); n != 3 {
		t.Errorf("three problems make %d lines:\n%v", n, s.Validate())
	}
	for range 300 {
		w.Ports = append(w.Ports, Port{})
	}
	if msg := s.Validate().Error(); strings.Count(msg, "\n") != MaxProblems+1 || !strings.Contains(msg, "more problems") {
		t.Errorf("hundreds of problems make %d lines", strings.Count(msg, "\n"))
	}
}

func TestNormalizeMakesEqualAsksEqual(t *testing.T) {
	a := Service{Name: "w", Image: "i", Env: []string{"B=2", "A=0", "A=1"}, CapAdd: []string{"cap_kill", "CHOWN"}, StopSignal: "term",
		Ports:  []Port{{Target: 2}, {Target: 1, HostIP: netip.MustParseAddr("::ffff:1.2.3.4")}},
		Mounts: []Mount{{Type: MountTmpfs, Target: "/b/"}, {Type: MountBind, Source: "/x/../y", Target: "/a"}}}
	b := Service{Name: "w", Image: "i", Mode: Replicated, Replicas: 5, Env: []string{"A=1", "B=2"}, CapAdd: []string{"CHOWN", "KILL", "CAP_CHOWN"}, StopSignal: "SIGTERM",
		Ports:  []Port{{Target: 1, HostIP: netip.MustParseAddr("1.2.3.4"), Protocol: "TCP"}, {Target: 2, Protocol: "tcp"}},
		Mounts: []Mount{{Type: MountBind, Source: "/y", Target: "/a"}, {Type: MountTmpfs, Target: "/b"}}}
	sa, sb := &Spec{Name: "j", Services: []Service{a}}, &Spec{Name: "j", Services: []Service{b}}
	sa.Normalize()
	sb.Normalize()
	if sa.Services[0].Digest() != sb.Services[0].Digest() {
		t.Errorf("digests differ:\n%+v\n%+v", sa.Services[0], sb.Services[0])
	}
	if err := sa.Validate(); err != nil {
		t.Error(err)
	}
	again := sa.Services[0].Digest()
	sa.Normalize()
	if sa.Services[0].Digest() != again {
		t.Error("Normalize is not idempotent")
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, want := range map[string]bool{"a": true, "0": true, "web-1_x": true, long: true, "": false, long + "a": false,
		"-a": false, "_a": false, "A": false, "a.b": false, "ä": false, "a\n": false} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%q) = %v", name, !want)
		}
	}
	for sig, want := range map[string]bool{"TERM": true, "sigusr1": true, "9": true, "64": true, "RTMIN": true, "SIGRTMIN+3": true,
		"RTMAX-1": true, "0": false, "65": false, "SIGRTMIN-3": false, "RTMIN+": false, "RTMINx": false, "": false, "SIG": false} {
		if ValidSignal(sig) != want {
			t.Errorf("ValidSignal(%q) = %v", sig, !want)
		}
	}
}

// A wish waits for nobody, and what runs by its schedule holds back nobody.
func TestServicesThatOnlySeemToWaitForEachOther(t *testing.T) {
	s := goodSpec()
	s.Service("db").Placement = &Placement{Peers: []Peer{{Service: "web", Weight: 50}, {Service: "web", Apart: true, By: "node.labels.rack", Weight: 10}}}
	if err := s.Validate(); err != nil {
		t.Errorf("a wish: %v", err)
	}
	s = goodSpec()
	db := s.Service("db")
	db.Placement = &Placement{Peers: []Peer{{Service: "web"}}}
	db.Mode, db.Schedule = ReplicatedJob, &Schedule{Cron: "@daily"}
	s.Normalize()
	if c := s.cycle(s.waits); c != nil {
		t.Errorf("a schedule: %v", c)
	}
}
