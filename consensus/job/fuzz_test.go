package job

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"shoal/e2e/frugal"
)

// FuzzWords: no word of a person or a file makes one of the small parsers panic, and what one writes it reads again.
func FuzzWords(f *testing.F) {
	for _, s := range []string{
		"512m", "1.5 GiB", "0.1", "150%", "/dev/fuse:/dev/x:rwm", "nofile=1024:-1", "0-2,4", "gpu=a,b", "64-78", "99999999999999999999", "-", "0-8191,0-8191", "=", "c 10:* rwm",
		strings.Repeat("0-8191,", 4000) + "0", // 32 million processors, were each counted
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		if n, err := ParseBytes(s); err == nil {
			if again, err := ParseBytes(FormatBytes(n)); n < 0 || err != nil && n < 1<<60 {
				t.Errorf("%q is %d bytes, written as %q, which is %d, %v", s, n, FormatBytes(n), again, err)
			}
		}
		if n, err := ParseCPUs(s); err == nil && n < 0 {
			t.Errorf("%q is %d", s, n)
		}
		if n, err := ParsePercent(s); err == nil && (n < MinOvercommit || n > MaxOvercommit) {
			t.Errorf("%q is %d%%", s, n)
		}
		if cpus, err := ParseCPUSet(s); err == nil && (len(cpus) == 0 || len(cpus) > maxCPUs) {
			t.Errorf("%q is %d processors", s, len(cpus))
		}
		if d, err := ParseDevice(s); err == nil && d.check() != nil {
			t.Errorf("%q is a bad device %+v", s, d)
		}
		if u, err := ParseUlimit(s); err == nil && u.check() != nil {
			t.Errorf("%q is a bad limit %+v", s, u)
		}
		if g, err := ParseGeneric([]string{s}); err == nil {
			if again, err := ParseGeneric([]string{g[0].String()}); err != nil || !reflect.DeepEqual(g, again) {
				t.Errorf("%q is %+v, whose text reads as %+v, %v", s, g, again, err)
			}
		}
		if r, err := ParseCodeRange(s); err == nil && !r.valid() {
			t.Errorf("%q is %+v", s, r)
		}
	})
}

// FuzzSpec: whatever a node is sent as a job, its checks do not panic; what they accept keeps its digests when it is
// normalized again and when it is sent on.
func FuzzSpec(f *testing.F) {
	f.Add([]byte(`{"name":"x","services":[{"name":"web","image":"a","replicas":2,"ports":[{"target":80}]}]}`))
	f.Add([]byte(`{"name":"x","services":[{"name":"a","image":"i","dependsOn":[{"service":"b"}]},{"name":"b","image":"i","networkMode":"service:a"}]}`))
	f.Add([]byte(`{"name":"x","services":[{"name":"a","image":"i","mode":"batch","batch":{"retries":-1},"schedule":{"cron":"* * * * *"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		var s Spec
		if json.Unmarshal(b, &s) != nil {
			return
		}
		s.Normalize()
		if s.Validate() != nil {
			return
		}
		sent, err := json.Marshal(&s)
		if err != nil {
			t.Fatalf("accepted and cannot be sent: %v", err)
		}
		var got Spec
		if err := json.Unmarshal(sent, &got); err != nil {
			t.Fatal(err)
		}
		got.Normalize()
		if err := got.Validate(); err != nil {
			t.Fatalf("accepted, and sent on refused: %v", err)
		}
		for i := range s.Services {
			if a, b := s.Services[i].Digest(), got.Services[i].Digest(); a != b {
				t.Fatalf("service %q has another digest on the other side:\n%+v\n%+v", s.Services[i].Name, s.Services[i], got.Services[i])
			}
		}
	})
}
