package job

import (
	"strings"
	"testing"
	"time"
)

func TestHowToUpdateIsNoPartOfTheDigest(t *testing.T) {
	a := Service{Name: "web", Image: "i", Replicas: 1}
	b := a
	b.Replicas, b.Update, b.Rollback = 9, &Update{Parallelism: 3}, &Update{Order: StopFirst}
	if a.Digest() != b.Digest() {
		t.Error("the way to update, or the number of replicas, changed the digest")
	}
	b.Renewal = 1
	if a.Digest() == b.Digest() {
		t.Error("a restart that was asked for did not change the digest")
	}
}

func TestUpdatePolicyFillsInDefaults(t *testing.T) {
	s := &Service{Update: &Update{Parallelism: AllAtOnce, Delay: time.Second}, Rollback: &Update{Failure: FailContinue}}
	if got, want := (&Service{}).UpdatePolicy(false), (Update{Parallelism: 1, Monitor: 5 * time.Second, Failure: FailRollback}); got != want {
		t.Errorf("default update: %+v, want %+v", got, want)
	}
	if got := (&Service{}).UpdatePolicy(true).Failure; got != FailPause {
		t.Errorf("a rollback that fails: %s, want pause", got)
	}
	if got := s.UpdatePolicy(false); got.Parallelism != MaxReplicas || got.Delay != time.Second {
		t.Errorf("all at once: %+v", got)
	}
	if got := s.UpdatePolicy(true).Failure; got != FailContinue {
		t.Errorf("rollback's own failure action: %s", got)
	}
}

func TestCanStartFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		s    Service
		want bool
	}{
		"plain":            {Service{}, true},
		"port of no node":  {Service{Ports: []Port{{Target: 80}}}, true},
		"port of the node": {Service{Ports: []Port{{Target: 80, Published: 80}}}, false},
		"bind":             {Service{Mounts: []Mount{{Type: MountBind, Source: "/etc"}}}, true},
		"anonymous volume": {Service{Mounts: []Mount{{Type: MountVolume}}}, true},
		"named volume":     {Service{Mounts: []Mount{{Type: MountVolume, Source: "v"}}}, false},
		"volume to read":   {Service{Mounts: []Mount{{Type: MountVolume, Source: "v", ReadOnly: true}}}, true},
	} {
		if got := tt.s.CanStartFirst(); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestDiffOfTuningAndRestarts(t *testing.T) {
	old := &Spec{Name: "j", Services: []Service{{Name: "web", Image: "i", Replicas: 2}}}
	tuned := &Spec{Name: "j", Services: []Service{{Name: "web", Image: "i", Replicas: 2, Update: &Update{Parallelism: 2}}}}
	if got := Diff(old, tuned).String(); !strings.Contains(got, "running tasks stay") || !strings.Contains(got, "update.parallelism: 2") {
		t.Errorf("tuned: %q", got)
	}
	renewed := &Spec{Name: "j", Services: []Service{{Name: "web", Image: "i", Replicas: 2, Renewal: 1}}}
	if got := Diff(old, renewed).String(); !strings.Contains(got, "~ web: restarted, every task is replaced") {
		t.Errorf("restarted: %q", got)
	}
	renewed.KeepRenewals(old)
	if c := Diff(old, renewed); !c.Empty() {
		t.Errorf("a submit does not know of restarts: %v", c)
	}
}
