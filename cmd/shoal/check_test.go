package main

import (
	"strings"
	"testing"
)

func TestOnlyWhatIsNeededFailsTheCheck(t *testing.T) {
	features := []machineFeature{{Name: "a", OK: true, Needed: true}, {Name: "b", Lost: "comfort"}}
	if err := needsMet(features); err != nil {
		t.Errorf("without comfort: %v", err)
	}
	features = append(features, machineFeature{Name: "c", Needed: true}, machineFeature{Name: "d", Needed: true})
	if err := needsMet(features); err == nil || !strings.HasSuffix(err.Error(), "without: c, d") {
		t.Errorf("without what is needed: %v", err)
	}
}

func TestEachFeatureSaysWhatIsLost(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range machineFeatures(t.TempDir()) {
		if f.Name == "" || f.Lost == "" || seen[f.Name] {
			t.Errorf("%+v", f)
		}
		seen[f.Name] = true
	}
	for _, name := range []string{"cgroup v2", "user namespaces", "seccomp", "apparmor", "memfd exec", "pidfd", "PSI"} {
		if !seen[name] {
			t.Errorf("%s is not looked for", name)
		}
	}
}
