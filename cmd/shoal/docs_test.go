package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestTheReferenceHasEachFlag(t *testing.T) {
	text := reference(newApp()) + "\n#"
	walk(newApp().Commands, "shoal", func(name string, v *cli.Command) {
		_, section, _ := strings.Cut(text, "# "+name+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		for _, f := range v.Flags {
			if vis, ok := f.(cli.VisibleFlag); ok && !vis.IsVisible() {
				continue
			}
			if names, _ := flagWords(f); !strings.Contains(section, "| `"+strings.ReplaceAll(names, "|", "\\|")+"` |") {
				t.Errorf("%s: the reference lacks %s", name, names)
			}
		}
	})
}

func TestAVerbThatAlsoTakesFlagsSaysSo(t *testing.T) {
	for line, want := range map[string]string{"chaos --help": "Usage: shoal chaos [FLAGS] | VERB\n", "node --help": "Usage: shoal node VERB\n", "node ls --help": "Usage: shoal node ls [FLAGS]\n"} {
		if _, out, _ := shoal(t, "/nowhere", line); !strings.Contains(out, want) {
			t.Errorf("%s lacks %q:\n%s", line, want, out)
		}
	}
}

// What stands first in backquotes is taken for a value's placeholder: it must look like one.
func TestPlaceholdersLookLikeSome(t *testing.T) {
	walk(newApp().Commands, "shoal", func(name string, v *cli.Command) {
		for _, f := range v.Flags {
			d := f.(cli.DocGenerationFlag)
			names, _ := flagWords(f)
			place := names[strings.LastIndex(names, " ")+1:]
			quoted := strings.Split(d.GetUsage(), "`")
			if d.TakesValue() && (strings.ToLower(place) == place || len(quoted) > 1 && quoted[1] != place) {
				t.Errorf("%s: %s", name, names)
			}
		}
	})
}

func TestEachExitCodeIsExplained(t *testing.T) {
	var explained []string
	for _, e := range exitCodes() {
		explained = append(explained, strconv.Itoa(e.code))
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "exit") || len(spec.Values) != 1 {
				return true
			}
			if code, ok := spec.Values[0].(*ast.BasicLit); ok && code.Kind == token.INT {
				found++
				if !slices.Contains(explained, code.Value) {
					t.Errorf("exit code %s, %s, is not explained", code.Value, spec.Names[0].Name)
				}
			}
			return true
		})
	}
	if found < 10 {
		t.Errorf("found %d exit codes in the source", found)
	}
}
