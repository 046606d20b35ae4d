package house

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A machine on which all packages are installed, with a Go of some version.
func TestDepsTellsAGoThatIsTooOld(t *testing.T) {
	mod, err := os.ReadFile(root + "/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, need, _ := strings.Cut(string(mod), "\ngo ")
	need, _, _ = strings.Cut(need, "\n")
	if strings.Count(need, ".") != 2 {
		t.Errorf("go.mod asks for Go %q: no Go fetches a version that does not name a release", need)
	}
	for _, c := range []struct {
		version, toolchain string
		good               bool
	}{
		{"go1.15.9", "", false}, {"go1.19.8", "", false}, {"go1.20.14", "", false}, {"go1.21.0", "auto", true}, {"go1.22.2", "local", false}, {"go1.9", "", false},
		{"go" + need, "local", true}, {"go1.99.1", "local", true}, {"go1.99rc1", "local", true}, {"devel go1.99-abc", "", true},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"dpkg-query": "#!/bin/sh\necho 'install ok installed'\n",
			"go":         "#!/bin/sh\ncase $1 in version) echo 'go version " + c.version + " linux/amd64' ;; env) echo '" + c.toolchain + "' ;; esac\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil { //nolint:gosec // it is to be run
				t.Fatal(err)
			}
		}
		cmd := exec.Command("sh", root+"/packaging/deps.sh", "build")
		cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.good || !c.good && !strings.Contains(string(out), "install "+need) {
			t.Errorf("with %s, GOTOOLCHAIN=%s: %v, %q", c.version, c.toolchain, err, out)
		}
	}
}
