package stage

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// libcontainerDir is the source of the pinned version.
func libcontainerDir(t *testing.T) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runc").Output()
	dir := filepath.Join(strings.TrimSpace(string(out)), "libcontainer")
	if _, serr := os.Stat(dir); err != nil || serr != nil {
		t.Skipf("needs the source of libcontainer, which go mod download fetches: %v, %v", err, serr)
	}
	return dir
}

// What we say to libcontainer's init is what libcontainer says to it. When this fails after an update, read what changed
// in the functions that it names, do the same in ahead.go, and put the new sums here.
func TestInitProtocolIsLibcontainers(t *testing.T) {
	dir := libcontainerDir(t)
	set := token.NewFileSet()
	decls := map[string]ast.Node{}
	consts := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				key := d.Name.Name
				if d.Recv != nil {
					var b bytes.Buffer
					_ = format.Node(&b, set, d.Recv.List[0].Type)
					key = b.String() + "." + key
				}
				decls[key] = d.Body
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						decls[s.Name.Name] = s.Type
					case *ast.ValueSpec:
						for i, n := range s.Names {
							if i < len(s.Values) {
								if l, ok := s.Values[i].(*ast.BasicLit); ok {
									consts[n.Name] = l.Value
								}
							}
						}
					}
				}
			}
		}
	}

	theirs := structFields(decls["initConfig"].(*ast.StructType))
	var ours []string
	for f := range reflect.TypeFor[initConfig]().Fields() {
		ours = append(ours, f.Name+" "+f.Tag.Get("json"))
	}
	if !reflect.DeepEqual(theirs, ours) {
		t.Errorf("initConfig has\n%q\nours\n%q", theirs, ours)
	}
	for name, want := range map[string]string{
		"procError": procError, "procReady": procReady, "procRun": procRun, "procHooks": procHooks, "procHooksDone": procHooksDone,
		"procMountPlease": procMountPlease, "stateFilename": stateFile, "execFifoFilename": execFifo,
	} {
		if got, _ := strconv.Unquote(consts[name]); got != want {
			t.Errorf("%s is %q, ours %q", name, got, want)
		}
	}
	for name, want := range map[string]int{"InitMsg": nlInitMsg, "CloneFlagsAttr": nlCloneFlags, "RootlessEUIDAttr": nlRootlessEUID} {
		if consts[name] != strconv.Itoa(want) {
			t.Errorf("%s is %s, ours %d", name, consts[name], want)
		}
	}
	for name, want := range readAs {
		if decls[name] == nil {
			t.Errorf("libcontainer has no %s any more", name)
			continue
		}
		var b bytes.Buffer
		if err := format.Node(&b, token.NewFileSet(), decls[name]); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(b.Bytes()))[:12]; got != want {
			t.Errorf("%s is not what ahead.go was written after: sum %s, was %s", name, got, want)
		}
	}
}

// readAs are sums of the functions that ahead.go does the like of, in version 1.5.2.
var readAs = map[string]string{
	"*initProcess.start": "14e05ee06598", "*initProcess.getChildPid": "e3079737b900", "*Container.newParentProcess": "a84eccf81369",
	"*Container.newInitProcess": "04f535ac6bdc", "*Container.newInitConfig": "fc2a5841de4d", "*Container.bootstrapData": "e0ba771a25b8", "*Container.currentState": "1aa28a6c64d6",
	"*Container.createExecFifo": "bc50162b3bb6", "*Container.start": "dd20b86ea2e0", "Create": "063261daac45", "startInitialization": "64d4a18f468b", "syncT": "e405543412c6",
}

func structFields(s *ast.StructType) (out []string) {
	for _, f := range s.Fields.List {
		for _, n := range f.Names {
			tag, _ := strconv.Unquote(f.Tag.Value)
			out = append(out, n.Name+" "+reflect.StructTag(tag).Get("json"))
		}
	}
	return out
}
