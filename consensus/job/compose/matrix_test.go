package compose

import (
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
)

// A key that a later compose-go learns fails here until somebody decides about it; Load refuses it meanwhile.
func TestTheMatrixDecidesAboutEveryKeyOfTheSpecification(t *testing.T) {
	keys := map[string]*Key{}
	for i := range Matrix {
		keys[Matrix[i].Path] = &Matrix[i]
	}
	for _, p := range schema.AttributePaths() {
		path := string(p)
		if keys[path] != nil || strings.HasPrefix(path, "include.") {
			continue
		}
		decided := false
		for at := path; strings.Contains(at, "."); {
			at = at[:strings.LastIndexByte(at, '.')]
			if k := keys[at]; k != nil && k.Support == Refused {
				decided = true
			}
		}
		if !decided {
			t.Errorf("%s is not in the matrix, and nothing above it is refused", path)
		}
	}
}

// Settings of the default network are not in the matrix, so they must be refused for want of a line.
func TestAKeyThatTheMatrixDoesNotKnowIsRefused(t *testing.T) {
	dict := map[string]any{"services": map[string]any{"web": map[string]any{
		"image":       "web",
		"novelty":     true,
		"x-notes":     true,
		"labels":      map[string]any{"x-label": "kept"},
		"ports":       []any{map[string]any{"target": 80, "novelty": 1}},
		"healthcheck": map[string]any{"novelty": nil},
		"tmpfs":       []any{map[string]any{"novelty": 1}},
	}}, "novelty": 1, "x-top": 1}
	var got []string
	for _, f := range screen(dict) {
		got = append(got, f.path())
	}
	want := []string{"novelty", "services.web.healthcheck.novelty", "services.web.novelty", "services.web.ports[].novelty", "services.web.tmpfs[].novelty"}
	if !slices.Equal(got, want) {
		t.Errorf("refused are %q, want %q", got, want)
	}
}

func TestTheMatrixIsInOrderAndExplainsItself(t *testing.T) {
	seen := map[string]bool{}
	var services []string
	for _, k := range Matrix {
		if seen[k.Path] {
			t.Errorf("%s is there twice", k.Path)
		}
		seen[k.Path] = true
		if k.Support != Honoured && k.Note == "" {
			t.Errorf("%s is %s and does not say why", k.Path, k.Support)
		}
		if (k.Support == Partly) != (k.check != nil) {
			t.Errorf("%s is %s; only a key that is honoured in part has a check", k.Path, k.Support)
		}
		if strings.Count(k.Path, ".") == 2 && strings.HasPrefix(k.Path, "services.") {
			services = append(services, k.Path)
		}
	}
	if !slices.IsSorted(services) {
		t.Error("the keys of a service are not sorted")
	}
	md := MatrixMarkdown()
	for _, want := range []string{"| `services.*.image` | honoured | 0.1 |", "| `services.*.privileged` | honoured | 0.2 |"} {
		if !strings.Contains(md, want) {
			t.Errorf("no %q in the table", want)
		}
	}
	if strings.Count(md, "\n") != len(Matrix)+2 || !strings.Contains(md, "| `services.*.gpus` | refused |  | ") {
		t.Errorf("the table is not one:\n%s", md)
	}
}
