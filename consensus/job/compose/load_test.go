package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/consensus/job"
)

var update = flag.Bool("update", false, "write the golden files anew; read their diff")

// golden lists the files of testdata that load; each has its spec beside it as JSON, and its warnings.
var golden = []struct {
	name     string
	more     []string // files after <name>.yaml
	env      []string
	profiles []string
}{
	{name: "full"},
	{name: "keys"},
	{name: "proxy", env: []string{"HTTP_PORT=8081"}},
	{name: "wordpress", env: []string{"DB_ROOT_PASSWORD=r00t", "COMPOSE_PROJECT_NAME=blog"}},
	{name: "fragments", env: []string{"TAG=7"}, profiles: []string{"extra"}},
	{name: "changing"},
	{name: "merged", more: []string{"more/override.yaml"}},
}

func TestLoadGivesTheGoldenSpec(t *testing.T) {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			o := Options{Files: []string{filepath.Join("testdata", g.name+".yaml")}, Env: g.env, Profiles: g.profiles, Platform: "linux/amd64"}
			for _, m := range g.more {
				o.Files = append(o.Files, filepath.Join("testdata", m))
			}
			spec, warnings, err := Load(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if text, _ := os.ReadFile(o.Files[0]); !strings.Contains(spec.Source, string(text)) {
				t.Error("the spec does not keep the file's text")
			}
			spec.Source = ""
			got := struct {
				Spec     *job.Spec
				Warnings []string `json:",omitempty"`
			}{Spec: spec}
			for _, w := range warnings {
				got.Warnings = append(got.Warnings, w.String())
			}
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			e.SetIndent("", "  ")
			if err := e.Encode(got); err != nil {
				t.Fatal(err)
			}
			text := bytes.ReplaceAll(b.Bytes(), []byte(dir), []byte("/project"))
			file := filepath.Join("testdata", g.name+".json")
			if *update {
				if err := os.WriteFile(file, text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(text, want) {
				t.Errorf("%s differs (go test -update writes it anew):\n%s", file, text)
			}
		})
	}
}

// load loads text as if it came from a pipe, in an empty directory.
func load(t *testing.T, text string, change ...func(*Options)) (*job.Spec, []Warning, error) {
	t.Helper()
	o := Options{Files: []string{"-"}, Stdin: strings.NewReader(text), WorkingDir: t.TempDir(), ProjectName: "p", Platform: "linux/amd64"}
	for _, c := range change {
		c(&o)
	}
	return Load(context.Background(), o)
}

func TestTheJobIsNamedAsComposeDoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "My.Shop")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const body = "services: {a: {image: a}}\n"
	for _, tt := range []struct{ text, flag, env, want string }{
		{body, "", "", "myshop"},
		{"name: file\n" + body, "", "", "file"},
		{"name: file\n" + body, "", "env", "env"},
		{"name: file\n" + body, "flag", "env", "flag"},
		{"name: ${X:-inter}polated\n" + body, "", "", "interpolated"},
	} {
		s, _, err := load(t, tt.text, func(o *Options) {
			o.ProjectName, o.WorkingDir = tt.flag, dir
			if tt.env != "" {
				o.Env = []string{"COMPOSE_PROJECT_NAME=" + tt.env}
			}
		})
		if err != nil || s.Name != tt.want {
			t.Errorf("%q with flag %q and variable %q: %v, %v; want %q", tt.text, tt.flag, tt.env, s, err, tt.want)
		}
	}
}

func TestDotEnvIsBelowTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("A=file\nB=file\nCOMPOSE_PROFILES=on\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const text = "services: {a: {image: a, environment: ['X=$A$B']}, b: {image: b, profiles: [on]}}"
	s, _, err := load(t, text, func(o *Options) { o.WorkingDir, o.Env = dir, []string{"A=env"} })
	if err != nil || len(s.Services) != 2 || s.Services[0].Env[0] != "X=envfile" {
		t.Errorf("%+v, %v", s, err)
	}
	s, w, err := load(t, text, func(o *Options) {
		o.WorkingDir, o.Env = dir, []string{"A=env", "COMPOSE_DISABLE_ENV_FILE=1"}
	})
	if err != nil || len(s.Services) != 1 || s.Services[0].Env[0] != "X=env" || len(w) != 1 {
		t.Errorf("without .env: %+v, %v, %v", s, w, err)
	}
}

func TestEnvFilesStandInForDotEnv(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{".env": "A=dot\n", "one": "A=one\nB=one\nC=one\n", "two": "\ufeffB=two$A\r\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in := func(env []string, names ...string) func(*Options) {
		return func(o *Options) {
			o.WorkingDir, o.Env = dir, env
			for _, n := range names {
				o.EnvFiles = append(o.EnvFiles, filepath.Join(dir, n))
			}
		}
	}
	const text = "services: {a: {image: a, environment: ['X=$A $B $C']}}"
	s, _, err := load(t, text, in([]string{"C=env", "COMPOSE_DISABLE_ENV_FILE=1"}, "one", "two"))
	if err != nil || s.Services[0].Env[0] != "X=one twoone env" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, _, err := load(t, text, in(nil, "none")); job.KindOf(err) != job.NotFound || !strings.Contains(err.Error(), "none") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, _, err := load(t, text, in(nil, ".")); job.KindOf(err) != job.Invalid {
		t.Errorf("a directory: %v", err)
	}
}

func TestLenientSubmitsTheRestAndSaysWhatIsLeftOut(t *testing.T) {
	const text = `services:
  web:
    image: web
    gpus: all
    networks: [front]
    storage_opt: {size: 1g}
networks:
  front: {driver: overlay}
`
	if _, _, err := load(t, text); err == nil {
		t.Fatal("nothing was refused")
	}
	s, warnings, err := load(t, text, func(o *Options) { o.Lenient = true })
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Services) != 1 || s.Services[0].Image != "web" {
		t.Errorf("%+v", s.Services)
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	for i, want := range []string{"-:8: networks.front: ignored: ", "-:4: services.web.gpus: ignored: ",
		"-:5: services.web.networks.front: ignored: ", "-:6: services.web.storage_opt: ignored: "} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("warning %d of %q does not begin with %q", i, got, want)
		}
	}
}
