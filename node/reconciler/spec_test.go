package reconciler

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"shoal/consensus/job"
	"shoal/runtime"
)

func TestSpec(t *testing.T) {
	task := job.Task{ID: "abc", Job: "shop", Service: "web", Slot: 2, Digest: "d1"}
	labels := func(more ...string) map[string]string {
		m := map[string]string{
			"shoal.task": "abc", "shoal.job": "shop", "shoal.service": "web", "shoal.slot": "2", "shoal.digest": "d1",
			"shoal.node": "n1",
		}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	ip := netip.MustParseAddr("127.0.0.1")
	for _, c := range []struct {
		name    string
		service job.Service
		env     []string
		health  *runtime.HealthConfig
		want    runtime.Spec
	}{
		{
			name:    "least",
			service: job.Service{Image: "web:1"},
			want:    runtime.Spec{ID: "abc", Name: "web.2", Labels: labels(), Image: "web:1", Hostname: "web-2"},
		},
		{
			name: "everything",
			service: job.Service{
				Image: "web:1", Entrypoint: []string{"a"}, Command: []string{"b"}, Env: []string{"A=1"},
				Labels: map[string]string{"x": "y", "shoal.task": "forged"}, WorkingDir: "/w", User: "1:2", Hostname: "h",
				TTY: true, Stdin: true, Init: true, ReadOnly: true, StopSignal: "SIGINT", StopGrace: time.Minute,
				Ports: []job.Port{{HostIP: ip, Published: 8080, Target: 80, Protocol: "tcp"}, {Target: 53, Protocol: "udp"}},
				Mounts: []job.Mount{
					{Type: job.MountBind, Source: "/s", Target: "/t", ReadOnly: true, CreateHostPath: true},
					{Type: job.MountVolume, Source: "shop_data", Target: "/d", NoCopy: true},
					{Type: job.MountVolume, Source: "there", Target: "/e", External: true},
					{Type: job.MountVolume, Target: "/anon"},
					{Type: job.MountTmpfs, Target: "/tmp", SizeBytes: 1 << 20, FileMode: 0o700},
				},
				CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"},
				Limits:       job.Resources{NanoCPUs: 5e8, MemoryBytes: 64 << 20, PIDs: 9},
				Reservations: job.Resources{NanoCPUs: 1e8, MemoryBytes: 32 << 20},
				Log:          job.LogLimits{MaxBytes: 1000, MaxFiles: 2},
			},
			env:    []string{"SHOAL_TASK=abc"},
			health: &runtime.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second, Retries: 2},
			want: runtime.Spec{
				ID: "abc", Name: "web.2", Image: "web:1", Entrypoint: []string{"a"}, Command: []string{"b"},
				Labels: labels("x", "y", "shoal.health", `{"test":["CMD","true"],"interval":1000000000,"retries":2}`),
				Env:    []string{"A=1", "SHOAL_TASK=abc"}, WorkingDir: "/w", User: "1:2", Hostname: "h",
				TTY: true, Stdin: true, Init: true, ReadOnly: true, StopSignal: "SIGINT", StopGrace: time.Minute,
				Ports: []runtime.Port{{HostIP: ip, HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 53, Protocol: "udp"}},
				Mounts: []runtime.Mount{
					{Type: runtime.MountBind, Source: "/s", Target: "/t", ReadOnly: true, CreateHostPath: true},
					{Type: runtime.MountVolume, Source: "shop_data", Target: "/d", NoCopy: true},
					{Type: runtime.MountVolume, Source: "there", Target: "/e", External: true},
					{Type: runtime.MountVolume, Target: "/anon"},
					{Type: runtime.MountTmpfs, Target: "/tmp", SizeBytes: 1 << 20, Mode: 0o700},
				},
				CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"},
				Resources: runtime.Resources{NanoCPUs: 5e8, MemoryBytes: 64 << 20, PIDs: 9, MemoryReservationBytes: 32 << 20},
				Log:       runtime.LogLimits{MaxBytes: 1000, MaxFiles: 2},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Spec(Assignment{Task: task, Service: c.service}, "n1", c.env, c.health, nil)
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got\n%+v\nwant\n%+v", got, c.want)
			}
		})
	}
}

// TestSpecCarriesEveryField fails when a field is added to job.Service that nobody thought of here.
func TestSpecCarriesEveryField(t *testing.T) {
	elsewhere := map[string]bool{ // what is no matter of the container
		"Name": true, "Mode": true, "Replicas": true, "Health": true, "Restart": true, "Constraints": true, "DependsOn": true,
		"Update": true, "Rollback": true, "Renewal": true, "Failover": true, "Rebalance": true, "Drain": true, "Placement": true, "Priority": true, "Strategy": true, "PostStart": true, "PreStop": true,
		"Batch": true, "Schedule": true, "Autoscale": true, "Generic": true,
	}
	base := Spec(Assignment{}, "n1", nil, nil, nil)
	typ := reflect.TypeFor[job.Service]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		if elsewhere[f.Name] {
			continue
		}
		var a Assignment
		fill(reflect.ValueOf(&a.Service).Elem().Field(i))
		if reflect.DeepEqual(Spec(a, "n1", nil, nil, nil), base) {
			t.Errorf("Service.%s does not reach the container", f.Name)
		}
	}
}

// TestSettingsCarryEveryField is the same for what few services set, one level down.
func TestSettingsCarryEveryField(t *testing.T) {
	joined := func(string) runtime.ID { return "c" }
	for _, group := range []string{"Isolation", "Tuning", "Naming"} {
		typ, _ := reflect.TypeFor[job.Service]().FieldByName(group)
		for i := range typ.Type.Elem().NumField() {
			var a Assignment
			v := reflect.ValueOf(&a.Service).Elem().FieldByName(group)
			v.Set(reflect.New(typ.Type.Elem()))
			base := Spec(a, "n1", nil, nil, joined)
			fill(v.Elem().Field(i))
			if reflect.DeepEqual(Spec(a, "n1", nil, nil, joined), base) {
				t.Errorf("%s.%s does not reach the container", group, typ.Type.Elem().Field(i).Name)
			}
		}
	}
	s := job.Service{NetworkMode: "service:vpn", Isolation: &job.Isolation{PID: "service:vpn", IPC: "host"}}
	got := Spec(Assignment{Service: s}, "n1", nil, nil, joined)
	if got.Network != "container:c" || got.Isolation.PID != "container:c" || got.Isolation.IPC != "host" || got.Labels[labelJoins] != "c" {
		t.Errorf("joined as %q, %+v, label %q", got.Network, got.Isolation, got.Labels[labelJoins])
	}
}

// fill makes a value something else than zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"x": "y"}))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	}
}
