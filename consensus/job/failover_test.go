package job

import (
	"testing"
	"time"
)

func TestFailoverDefaultsFollowFromTheData(t *testing.T) {
	data := []Mount{{Type: MountVolume, Source: "db_data", Target: "/data"}}
	for _, c := range []struct {
		name string
		s    Service
		want Failover
	}{
		{"nothing to protect", Service{Replicas: 1}, Failover{Mode: FailoverFast}},
		{"one writer", Service{Replicas: 1, Mounts: data}, Failover{FailoverFenced, DefaultLease}},
		{"many writers know each other", Service{Replicas: 2, Mounts: data}, Failover{Mode: FailoverFast}},
		{"one reader", Service{Replicas: 1, Mounts: []Mount{{Type: MountVolume, Source: "v", Target: "/v", ReadOnly: true}}}, Failover{Mode: FailoverFast}},
		{"anonymous volume", Service{Replicas: 1, Mounts: []Mount{{Type: MountVolume, Target: "/v"}}}, Failover{Mode: FailoverFast}},
		{"global", Service{Mode: Global, Replicas: 1, Mounts: data}, Failover{Mode: FailoverFast}},
		{"asked", Service{Replicas: 3, Failover: &Failover{Mode: FailoverFenced}}, Failover{FailoverFenced, DefaultLease}},
		{"a lease asks too", Service{Replicas: 3, Failover: &Failover{Lease: time.Minute}}, Failover{FailoverFenced, time.Minute}},
		{"fast on purpose", Service{Replicas: 1, Mounts: data, Failover: &Failover{Mode: FailoverFast}}, Failover{Mode: FailoverFast}},
		{"manual", Service{Replicas: 1, Mounts: data, Failover: &Failover{Mode: FailoverManual}}, Failover{Mode: FailoverManual}},
	} {
		if got := c.s.FailoverPolicy(); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if fenced := c.want.Mode == FailoverFenced; fenced && c.s.CanStartFirst() {
			t.Errorf("%s: it is fenced, and starts first", c.name)
		}
	}
}
