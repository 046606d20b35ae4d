package compose

import (
	"reflect"
	"testing"

	"shoal/consensus/job"
)

func TestPlacementIsConverted(t *testing.T) {
	must := func(s string) job.Constraint {
		c, err := job.ParseConstraint(s)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	spec, _, err := load(t, `services:
  db: {image: db}
  web:
    image: web
    x-priority: 70
    x-placement:
      strategy: binpack
      prefer:
        - node.labels.disk == ssd
        - {constraint: node.attr.arch == arm64, weight: -20}
      with: [db]
      apart:
        - {service: other/api, by: node.labels.zone, weight: 10}
    deploy:
      placement:
        constraints: ["node.labels.rack in (a, b)", node.attr.kernel >= 5.10]
        preferences:
          - spread: node.labels.zone
          - spread: node.labels.rack
        max_replicas_per_node: 2
      resources:
        reservations:
          generic_resources:
            - discrete_resource_spec: {kind: ssd, value: 2}
          devices:
            - {driver: nvidia, count: 1, capabilities: [gpu, compute]}
`)
	if err != nil {
		t.Fatal(err)
	}
	w := spec.Service("web")
	want := &job.Placement{
		Spread: []string{"node.labels.zone", "node.labels.rack"}, MaxPerNode: 2,
		Prefer: []job.Preference{{Constraint: must("node.attr.arch==arm64"), Weight: -20}, {Constraint: must("node.labels.disk==ssd"), Weight: 50}},
		Peers:  []job.Peer{{Service: "db"}, {Service: "other/api", Apart: true, By: "node.labels.zone", Weight: 10}},
	}
	if !reflect.DeepEqual(w.Placement, want) {
		t.Errorf("placement %+v, want %+v", w.Placement, want)
	}
	if w.PriorityOf() != 70 || w.Strategy != job.StrategyBinpack || spec.Service("db").Placement != nil || spec.Service("db").PriorityOf() != 50 {
		t.Errorf("priority %d, strategy %q", w.PriorityOf(), w.Strategy)
	}
	if !reflect.DeepEqual(w.Generic, []job.GenericRequest{{Kind: "gpu", Count: 1}, {Kind: "ssd", Count: 2}}) {
		t.Errorf("generic %+v", w.Generic)
	}
	if !reflect.DeepEqual(w.Constraints, []job.Constraint{must("node.attr.kernel>=5.10"), must("node.labels.rack in (a,b)")}) {
		t.Errorf("constraints %v", w.Constraints)
	}
}
