package job

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"shoal/e2e/frugal"
)

func TestParseConstraint(t *testing.T) {
	tests := []struct{ in, want string }{
		{"node.labels.zone==a", "node.labels.zone==a"},
		{" node.labels.zone == a b ", "node.labels.zone==a b"},
		{"node.id != 0f", "node.id!=0f"},
		{"node.hostname==a!=b", "node.hostname==a!=b"},
		{"node.labels.x!=", "node.labels.x!="},
		{"node.labels.zone", "column 17: no operator after node.labels.zone"},
		{"node.labels.zone = a", "column 18: no operator"},
		{"==a", "column 1: there is no key"},
		{" node.labels.zone in ( a,b )", "node.labels.zone in (a, b)"},
		{"node.labels.zone in a", "node.labels.zone in (a)"},
		{"node.labels.zone not in(a, b)", "node.labels.zone not in (a, b)"},
		{"node.labels.zone in (a, b", "column 21: a parenthesis is missing"},
		{"node.labels.zone in (a,,b)", "empty element"},
		{"node.labels.zone in", "nothing to compare"},
		{"node.labels.zone inside", "column 18: no operator"},
		{"node.hostname =~ ^db[0-9]+$", "node.hostname=~^db[0-9]+$"},
		{"node.hostname =~ (", "column 18: error parsing regexp"},
		{"node.hostname !~ " + strings.Repeat("a", 300), "longer than 256 bytes"},
		{"node.attr.kernel >= 6.1", "node.attr.kernel>=6.1"},
		{"node.attr.kernel > new", "is not a version"},
		{"node.attr.memory >= 16GiB", "node.attr.memory>=16GiB"},
		{"node.labels.disks contains ssd, nvme", "node.labels.disks contains ssd,nvme"},
		{"node.labels.disks not contains ssd", "node.labels.disks not contains ssd"},
		{"node.ip == 192.0.2.0/24", "node.ip==192.0.2.0/24"},
		{"node.ip == 192.0.2.0/99", "is not a prefix"},
		{"engine.labels.x == a", "use node.labels.x"},
		{"node.role==manager", "cannot be asked"},
		{"node.labels.==a", "the label has no name"},
		{"node.id==", "nothing to compare"},
		{"node.labels.x==\x1b", "control characters"},
		{"node.labels.x==" + strings.Repeat("y", 2000), "longer than"},
	}
	for _, tt := range tests {
		c, err := ParseConstraint(tt.in)
		checkParsed(t, tt.in, c.String(), err, tt.want)
	}
}

func TestParsePort(t *testing.T) {
	tests := []struct{ in, want string }{
		{"80", "[:0:80/tcp]"},
		{"8080:80", "[:8080:80/tcp]"},
		{"8080:80/UDP", "[:8080:80/udp]"},
		{"127.0.0.1:8080:80", "[127.0.0.1:8080:80/tcp]"},
		{"127.0.0.1::80", "[127.0.0.1:0:80/tcp]"},
		{"[::1]:8080:80", "[::1:8080:80/tcp]"},
		{"8000-8002:80-82", "[:8000:80/tcp :8001:81/tcp :8002:82/tcp]"},
		{"65534-65535", "[:0:65534/tcp :0:65535/tcp]"},
		{"", "not a number from 1 to 65535"},
		{"0", "not a number"},
		{"65536:1", "published port"},
		{"-1", "not a number"},
		{"+80", "not a number"},
		{"82-80", "not a number"},
		{"8000-8001:80", "differ in length"},
		{"1-65535", "more than 1000"},
		{"80/sctp", `protocol "sctp"`},
		{"::1:8080:80", "into brackets"},
		{"[fe80::1%eth0]:8080:80", "without a zone"},
		{"localhost:8080:80", "not an IP address"},
	}
	for _, tt := range tests {
		ports, err := ParsePort(tt.in)
		var got []string
		for _, p := range ports {
			ip := ""
			if p.HostIP.IsValid() {
				ip = p.HostIP.String()
			}
			got = append(got, fmt.Sprintf("%s:%d:%d/%s", ip, p.Published, p.Target, p.Protocol))
		}
		checkParsed(t, tt.in, fmt.Sprint(got), err, tt.want)
	}
}

func TestParseMount(t *testing.T) {
	good := map[string]Mount{
		"/x":                {Type: MountVolume, Target: "/x"},
		"data:/x":           {Type: MountVolume, Source: "data", Target: "/x"},
		"data:/x/:ro":       {Type: MountVolume, Source: "data", Target: "/x", ReadOnly: true},
		"data:/x:nocopy":    {Type: MountVolume, Source: "data", Target: "/x", NoCopy: true},
		"/host:/x":          {Type: MountBind, Source: "/host", Target: "/x", CreateHostPath: true},
		"/host:/x:rw":       {Type: MountBind, Source: "/host", Target: "/x", CreateHostPath: true},
		"./a:/x:ro":         {Type: MountBind, Source: "./a", Target: "/x", ReadOnly: true, CreateHostPath: true},
		"data:/x:ro,nocopy": {Type: MountVolume, Source: "data", Target: "/x", ReadOnly: true, NoCopy: true},
	}
	for in, want := range good {
		if got, err := ParseMount(in); err != nil || got != want {
			t.Errorf("ParseMount(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                                "must be an absolute path",
		"data:x":                          "must be an absolute path",
		"data:/":                          "other than /",
		":/x":                             "no source",
		"a:/x:":                           "behind the last colon",
		"a:/x:ro:z":                       "too many colons",
		"a:/x:Z":                          `option "Z" is not honoured`,
		"/a:/x:nocopy":                    "for volumes",
		"da ta:/x":                        "not a volume's name",
		"/a:/x\x00":                       "NUL",
		"/a:/b/../..":                     "other than /",
		"a:/" + strings.Repeat("x", 5000): "longer than",
	} {
		_, err := ParseMount(in)
		checkParsed(t, in, "", err, want)
	}
}

func TestParseBytesAndCPUs(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "100": 100, "100b": 100, "1k": 1024, "512m": 512 << 20, "64 MB": 64 << 20,
		"64MiB": 64 << 20, "1.5g": 3 << 29, " 2T ": 2 << 40, ".5k": 512} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "-1", "1x", "1 2", "1.2.3", "9999999999g", "1e3", "0x10", "1mm", "NaN", "1ib2"} {
		if got, err := ParseBytes(in); !errors.Is(err, Invalid) {
			t.Errorf("ParseBytes(%q) = %d, %v; want an error", in, got, err)
		}
	}
	for in, want := range map[string]int64{"2": 2e9, "0.1": 1e8, "0.123456789": 123456789, "0.1234567899": 123456789} {
		if got, err := ParseCPUs(in); err != nil || got != want {
			t.Errorf("ParseCPUs(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".", "-1", "1e9", "Inf", "99999999999", "1,5"} {
		if got, err := ParseCPUs(in); !errors.Is(err, Invalid) {
			t.Errorf("ParseCPUs(%q) = %d, %v; want an error", in, got, err)
		}
	}
}

// checkParsed wants either the value or, in an error of kind Invalid, the text.
func checkParsed(t *testing.T, in, got string, err error, want string) {
	t.Helper()
	if err != nil {
		if !errors.Is(err, Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", in, err, want)
		}
		return
	}
	if got != want {
		t.Errorf("%q = %s, want %s", in, got, want)
	}
}

func FuzzParseConstraint(f *testing.F) {
	for _, s := range []string{"node.labels.a==b", "node.id!=", "==", "node.labels.x == a!=b", "node.labels.a in (b, c)", "node.attr.b not contains c,d", "node.attr.v>=1.2",
		"node.hostname =~ ^a$", "node.ip!=::/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		c, err := ParseConstraint(s)
		if err != nil {
			return
		}
		again, err := ParseConstraint(c.String())
		if err != nil || again != c {
			t.Errorf("%q = %+v, whose text reads as %+v, %v", s, c, again, err)
		}
	})
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"80", "1-3:4-6/udp", "[::1]:1:2", "1.2.3.4::5", "65535-65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		ports, err := ParsePort(s)
		if err != nil {
			return
		}
		spec := &Spec{Name: "j", Services: []Service{{Name: "s", Image: "i", Ports: ports}}}
		spec.Normalize()
		if err := spec.Validate(); err != nil {
			t.Errorf("ParsePort(%q) gives what Validate refuses: %v", s, err)
		}
	})
}

func FuzzParseMount(f *testing.F) {
	for _, s := range []string{"/x", "a:/x:ro", "/a:/b", "./a:/b:rw,ro", "a:/b:nocopy"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		m, err := ParseMount(s)
		if err != nil {
			return
		}
		if strings.HasPrefix(m.Source, ".") {
			m.Source = "/" // what a caller resolves it to
		}
		spec := &Spec{Name: "j", Services: []Service{{Name: "s", Image: "i", Mounts: []Mount{m}}}}
		if m.Type == MountVolume && m.Source != "" {
			spec.Volumes = []Volume{{Name: m.Source}}
		}
		before := m
		spec.Normalize()
		if err := spec.Validate(); err != nil {
			t.Errorf("ParseMount(%q) gives what Validate refuses: %v", s, err)
		}
		if m.Type != MountBind && !reflect.DeepEqual(spec.Services[0].Mounts[0], before) {
			t.Errorf("ParseMount(%q) = %+v is not normal", s, before)
		}
	})
}
