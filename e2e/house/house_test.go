// Package house proves how the code is laid out: who imports whom, and that each package says what it is. It knows
// nothing of what the packages do.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "shoal/"
)

// table says which packages of ours each package may import, tests not counted. A package that is not here may import
// none; a new package begins with a line here.
var table = map[string][]string{
	"consensus/job":         {},
	"consensus/job/compose": {"consensus/job"},
	"consensus/state":       {"consensus/job"},
	"consensus/scheduler":   {"consensus/job", "consensus/state"},
	"consensus":             {"consensus/job", "consensus/state", "runtime/step"},
	"gossip":                {},
	"gossip/gossiptest":     {},
	"runtime":               {},
	// Moments at which tests kill or fail a process; below everything that writes to a disk.
	"runtime/step":      {},
	"runtime/step/disk": {}, // a file system that loses its power, for their tests
	"runtime/image":     {"runtime/step"},
	"runtime/network":   {},
	"runtime/volume":    {"runtime/step"},
	"runtime/container": {"runtime", "runtime/container/stage", "runtime/image", "runtime/network", "runtime/step", "runtime/volume"},
	// What is started for each container: every import is paid for with each start.
	"runtime/container/stage": {"runtime"},
	// An OCI runtime's command line, for others' suites and engines: the same start, without agent and monitor.
	"runtime/container/oci":               {"runtime/container/stage"},
	"runtime/container/stage/shoal-stage": {"runtime/container/stage"},
	"runtime/fake":                        {"runtime"},
	"runtime/runtimetest":                 {"runtime"},
	// Breaks its machine on purpose and undoes it, also with the agent dead: it leans on nothing of ours.
	"node/gameday":    {},
	"node/pki":        {"runtime/step"},
	"node/api":        {"consensus/job"},
	"node/reconciler": {"consensus/job", "runtime"},
	"node": {
		"consensus", "consensus/job", "consensus/state", "consensus/scheduler", "gossip", "node/api", "node/gameday", "node/pki", "node/reconciler",
		"runtime", "runtime/image", "runtime/network", "runtime/step", "runtime/volume",
	},
	"node/nodetest": {
		"consensus/job", "consensus/state", "gossip/gossiptest", "node", "node/api", "runtime", "runtime/fake", "runtime/image", "runtime/network",
	},
	// Plays a game day as an admin's client and judges what it saw; it acts through the API alone.
	"cmd/shoal/game": {"consensus/job", "node/api", "node/gameday"},
	"cmd/shoal": {
		"cmd/shoal/game", "consensus/job", "consensus/job/compose", "node", "node/api", "node/gameday", "runtime", "runtime/container", "runtime/container/oci", "runtime/image", "runtime/network", "runtime/step", "runtime/volume",
	},
	// The proof stands outside of the house and may look in at its doors.
	"e2e/house":       {},
	"e2e/vm":          {},
	"e2e/vm/shoal-vm": {"e2e/vm"},
	"e2e/machines":    {"consensus/job", "e2e/vm", "node/api", "runtime/image"},
	"e2e/demo":        {"consensus/job", "e2e/machines", "node/api"},
	"e2e/conformance": {},
	"e2e/repeat":      {},
	// What readers of outside input are held to in their tests.
	"e2e/frugal":    {},
	"e2e/soak":      {"consensus/job", "e2e/machines", "node/api"},
	"e2e/bench":     {"consensus/job", "e2e/machines", "node/api", "runtime/image"},
	"e2e/chaos":     {"consensus/job", "e2e/machines", "node/api"},
	"e2e/chaos/run": {"e2e/chaos"},
	"e2e":           {"consensus/job", "e2e/machines", "node/api", "runtime/image"},
}

// cgoOnly are the packages through which alone the tree may reach cgo.
var cgoOnly = []string{"runtime/container", "runtime/container/oci", "runtime/container/stage", "cmd/shoal"}

type source struct {
	pkg  string // "consensus/job"
	file string
	ast  *ast.File
	test bool
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && rel != "." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "build", "bin", "anchor"}, d.Name())) {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); d.IsDir() && rel != "." && err == nil {
			return filepath.SkipDir // a module of its own
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{pkg: filepath.ToSlash(filepath.Dir(rel)), file: rel, ast: f, test: strings.HasSuffix(path, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("only %d Go files found below %s: this test looks in the wrong place", len(out), root)
	}
	return out
}

func imports(f *ast.File) []string {
	var out []string
	for _, i := range f.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

func TestImportsFollowTheTable(t *testing.T) {
	for _, s := range sources(t) {
		allowed, known := table[s.pkg]
		if !known {
			t.Errorf("%s: package %s is not in the table: add a line that says what it may import", s.file, s.pkg)
			continue
		}
		if s.test {
			continue // tests may look at more, such as the conformance suite
		}
		for _, path := range imports(s.ast) {
			of, ours := strings.CutPrefix(path, module)
			if ours && !slices.Contains(allowed, of) {
				t.Errorf("%s: imports %s, which the table does not allow for %s", s.file, path, s.pkg)
			}
		}
	}
}

func TestOnlyTheRuntimeReachesCgo(t *testing.T) {
	for _, s := range sources(t) {
		for _, path := range imports(s.ast) {
			cgo := path == "C" || strings.HasPrefix(path, "github.com/opencontainers/runc/libcontainer")
			if cgo && !slices.Contains(cgoOnly, s.pkg) {
				t.Errorf("%s: imports %s; only %v may", s.file, path, cgoOnly)
			}
		}
	}
}

func TestEachPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	for _, s := range sources(t) {
		said[s.pkg] = said[s.pkg] || s.ast.Doc.Text() != ""
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("package %s has no package comment: say what it knows, and what it refuses to know", pkg)
		}
	}
}
