package container

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"shoal/runtime"
)

func TestCheckSpecRefuses(t *testing.T) {
	good := runtime.Spec{ID: "a", Image: "b", Env: []string{"A=1"}, Ports: []runtime.Port{{ContainerPort: 80, Protocol: "tcp"}}}
	if err := checkSpec(good); err != nil {
		t.Fatal(err)
	}
	mount := func(m ...runtime.Mount) func(*runtime.Spec) { return func(s *runtime.Spec) { s.Mounts = m } }
	for name, change := range map[string]func(*runtime.Spec){
		"id":              func(s *runtime.Spec) { s.ID = "_monitors" },
		"environment":     func(s *runtime.Spec) { s.Env = []string{"A"} },
		"NUL":             func(s *runtime.Spec) { s.Env = []string{"A=\x00"} },
		"hostname":        func(s *runtime.Spec) { s.Hostname = string(make([]byte, 65)) },
		"signal":          func(s *runtime.Spec) { s.StopSignal = "SIGX" },
		"capability":      func(s *runtime.Spec) { s.CapAdd = []string{"FLY"} },
		"protocol":        func(s *runtime.Spec) { s.Ports[0].Protocol = "sctp" },
		"negative limit":  func(s *runtime.Spec) { s.Resources.PIDs = -1 },
		"little cpu":      func(s *runtime.Spec) { s.Resources.NanoCPUs = 1 },
		"mount on root":   mount(runtime.Mount{Type: runtime.MountTmpfs, Target: "/x/.."}),
		"two at a target": mount(runtime.Mount{Type: runtime.MountTmpfs, Target: "/x"}, runtime.Mount{Type: runtime.MountTmpfs, Target: "/x/"}),
		"mount type":      mount(runtime.Mount{Type: "nfs", Target: "/x"}),
	} {
		s := good
		s.Ports = slices.Clone(good.Ports)
		change(&s)
		if err := checkSpec(s); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

// The launcher and the monitor write what an agent reads that may be another version, or after a power cut.
func TestDamagedLogIsReadAsFarAsItGoes(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"0000000003": "2026-01-02T03:04:05.000000006Z stdout F three\nnonsense\n\n2026-01-02T03:04:06Z stderr P four\n",
		"0000000005": "2026-01-02T03:04:06Z stdout F five\n" + strings.Repeat("\x00", 3*maxRawLine) + "2026-01-02T03:04:06Z stdout F after zeros\n2026-01-02T03:04:06Z stdout F six\n",
		"0000000007": "2026-01-02T03:04:07Z stdout F \n2026-01-02T03:04:08Z stdout F tor",
		"other":      "2026-01-02T03:04:07Z stdout F not ours\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := &logReader{dir: dir}
	defer l.close()
	var got []string
	for {
		line, err := l.next()
		if err != nil {
			break
		}
		got = append(got, string(line.Text))
	}
	if want := []string{"three", "four", "five", "six", ""}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTailOffsetAgainstCounting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var text []byte
	for i := range 5000 {
		text = append(text, make([]byte, i%40)...)
		text = append(text, '\n')
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(func(yield func(int) bool) { // where each line begins
		begin := 0
		for i, b := range text {
			if b == '\n' {
				if !yield(begin) {
					return
				}
				begin = i + 1
			}
		}
	})
	for _, want := range []int{0, 1, 2, 39, 1000, 4999, 5000, 6000} {
		offset, found, err := tailOffset(path, want)
		expect := len(text)
		if want > 0 {
			expect = lines[max(0, len(lines)-want)]
		}
		if err != nil || int(offset) != expect || found != min(want, len(lines)) {
			t.Errorf("last %d lines: at %d, %d of them (%v), want at %d", want, offset, found, err, expect)
		}
	}
}
