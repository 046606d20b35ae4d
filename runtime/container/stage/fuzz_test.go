package stage

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal/e2e/frugal"
	"shoal/runtime"
)

// FuzzUser: no account files of an image, and no name of a user, make the look-up panic or give a negative id.
func FuzzUser(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:\n"), []byte("root:x:0:\nadm:x:4:web,root\n"), "web:adm", "adm")
	f.Add([]byte("a:b:c:d"), []byte("::::"), "1000:1000", "4294967295")
	f.Add([]byte(":"), []byte{0}, ":", "")
	root := f.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, passwd, group []byte, who, more string) {
		defer frugal.Watch(t)()
		for name, b := range map[string][]byte{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(root, "etc", name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		id, err := lookUser(root, who, []string{more})
		if err != nil {
			return
		}
		for _, n := range append([]int{id.UID, id.GID}, id.Groups...) {
			if n < 0 || n > 1<<32-1 {
				t.Errorf("%q is %+v", who, id)
			}
		}
	})
}

// FuzzSeccompProfile: no profile of a job makes what reads it panic.
func FuzzSeccompProfile(f *testing.F) {
	f.Add(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
		"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}],"includes":{"caps":["CAP_SYS_ADMIN"],"minKernel":"4.8"},"excludes":{"arches":["s390"]}}]}`)
	f.Add(`{"defaultAction":"","architectures":["x"],"syscalls":[{"name":"a","names":["b"]}]}`)
	f.Add(`{"syscalls":[null]}`)
	f.Fuzz(func(t *testing.T, text string) {
		defer frugal.Watch(t)()
		spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}}, Linux: &specs.Linux{}}
		_, _ = seccompOf(spec, &runtime.Spec{Isolation: &runtime.Isolation{Seccomp: text}})
	})
}

// FuzzSignal: a signal is one of the kernel's, and a rule for devices has a type and an access.
func FuzzSignal(f *testing.F) {
	for _, s := range []string{"SIGHUP", "hup", "1", "65", "SIGRTMIN+3", "rtmin+31", "c 10:200 rwm", "a *:* m", "b : r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		if sig, err := ParseSignal(s); err == nil && (sig < 1 || sig > 64) {
			t.Errorf("%q is signal %d", s, sig)
		}
		if r, err := parseDeviceRule(s); err == nil && (r.Major == nil || r.Minor == nil) {
			t.Errorf("%q is %+v", s, r)
		}
	})
}
