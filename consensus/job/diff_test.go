package job

import (
	"strings"
	"testing"
	"time"
)

func TestDiffTellsWhatSubmittingWouldDo(t *testing.T) {
	old := goodSpec()
	tests := []struct {
		name     string
		change   func(s *Spec)
		want     string
		replaces bool
	}{
		{"nothing", func(*Spec) {}, "", false},
		{"source", func(s *Spec) { s.Source = "services:" }, "", false},
		{"scale", func(s *Spec) { s.Service("web").Replicas = 5 }, "~ web: 3 -> 5 replicas\n", false},
		{"image", func(s *Spec) { s.Service("web").Image = "shop/web:2" },
			"~ web: every task is replaced\n    ~ image: shop/web@sha256:abc -> shop/web:2\n", true},
		{"image and scale", func(s *Spec) { s.Service("web").Image = "shop/web:2"; s.Service("web").Replicas = 1 },
			"~ web: every task is replaced, 3 -> 1 replica\n    ~ image: shop/web@sha256:abc -> shop/web:2\n", true},
		{"a variable in front", func(s *Spec) { s.Service("web").Env = []string{"A0=\x1b", "A=1", "A1=2"} },
			"~ web: every task is replaced\n    + env.A0: \"\\x1b\"\n", true},
		{"units", func(s *Spec) {
			w := s.Service("web")
			w.Limits, w.StopGrace = Resources{NanoCPUs: 1_500_000_000, MemoryBytes: 1 << 30}, 90*time.Second
		}, "~ web: changed in place, running tasks stay\n    ~ limits.memoryBytes: 64 MiB -> 1 GiB\n    ~ limits.nanoCPUs: 0.5 -> 1.5\n" +
			"    - limits.pids: 100\n    ~ stopGrace: 1m0s -> 1m30s\n", false},
		{"lists", func(s *Spec) {
			w := s.Service("web")
			w.Command = []string{"-q", "x y"}
			w.Ports = []Port{{Published: 81, Target: 8080, Protocol: "tcp"}, {Published: 80, Target: 8080, Protocol: "udp"}}
			w.Mounts[0].ReadOnly = false
			w.DependsOn = w.DependsOn[1:]
			w.Constraints = w.Constraints[1:]
			w.Labels = map[string]string{"team": "x"}
		}, "~ web: every task is replaced\n    ~ command: [\"-v\"] -> [\"-q\",\"x y\"]\n    - constraints.node.hostname!=n1\n" +
			"    - dependsOn.db.condition: service_started\n    ~ labels.team: shop -> x\n    - mounts./html.readOnly: true\n" +
			"    - ports.80:8080/tcp\n    + ports.81:8080/tcp\n", true},
		{"services and volumes", func(s *Spec) {
			s.Services[0].Name, s.Services[0].Mounts[0].Source = "sql", "shop_sql"
			s.Volumes[0].Name = "shop_sql"
			s.Services = append(s.Services, Service{Name: "agent", Mode: Global, Image: "agent"})
		}, "+ agent: one task on every node of agent\n- db: 1 replica of postgres:17\n+ sql: 1 replica of postgres:17\n" +
			"- volume shop_db: no longer used; its data stays on the nodes\n+ volume shop_sql\n", false},
		{"mode", func(s *Spec) { s.Service("web").Mode = Global },
			"~ web: every task is replaced\n    ~ mode: replicated -> global\n", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			updated := goodSpec()
			tt.change(updated)
			updated.Normalize()
			c := Diff(old, updated)
			if got := c.String(); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if c.Empty() != (tt.want == "") || c.Replaces() != tt.replaces {
				t.Errorf("Empty() = %v, Replaces() = %v", c.Empty(), c.Replaces())
			}
			for _, s := range c.Services {
				o, u := old.Service(s.Name), updated.Service(s.Name)
				if differs := o != nil && u != nil && o.Shape() != u.Shape(); s.Replace != differs || differs && len(s.Fields) == 0 {
					t.Errorf("%s: Replace is %v with %d fields, shapes differ: %v", s.Name, s.Replace, len(s.Fields), differs)
				}
			}
		})
	}
}

func TestDiffOfNewAndRemovedJobs(t *testing.T) {
	s := goodSpec()
	if got := Diff(nil, s).String(); strings.Count(got, "+ ") != 4 || strings.Contains(got, "~") {
		t.Errorf("a new job:\n%s", got)
	}
	if got := Diff(s, nil).String(); strings.Count(got, "- ") != 4 {
		t.Errorf("a removed job:\n%s", got)
	}
	if !Diff(nil, nil).Empty() {
		t.Error("nothing against nothing differs")
	}
}
