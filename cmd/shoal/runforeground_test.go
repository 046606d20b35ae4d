package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/consensus/job"
)

// Each flag of a run that one watches has its effect on a service and on a Compose file too, or is refused there.
func TestNoFlagOfRunIsIgnored(t *testing.T) {
	dir := t.TempDir()
	file, env := filepath.Join(dir, "compose.yaml"), filepath.Join(dir, "env")
	for name, text := range map[string]string{file: "services: {web: {image: 'x:${TAG:-0}'}}", env: "TAG=7\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(s *job.Spec) bool { return s == nil }
	onNode := func(s *job.Spec) bool {
		return s != nil && len(s.Services[0].Constraints) == 1 && s.Services[0].Constraints[0].String() == "node.hostname==m2"
	}
	for _, how := range []string{"-d", "--replicas 2 -d", "--mode global -d", "--json -d", "-f " + file + " -d"} {
		compose := strings.Contains(how, "-f")
		image := " x"
		if compose {
			image = ""
		}
		for flag, want := range map[string]func(*job.Spec) bool{
			"--rm": refused, "-a stdout": refused, "--cidfile " + dir + "/id": refused, "--sig-proxy=false": refused, "--detach-keys ctrl-a": refused,
			"--node m2": map[bool]func(*job.Spec) bool{true: refused, false: onNode}[compose],
			"--env-file " + env: func(s *job.Spec) bool {
				return s != nil && (compose && s.Services[0].Image == "x:7" || !compose && strings.Join(s.Services[0].Env, " ") == "TAG=7")
			},
			"--env-file " + dir + "/none": refused,
			"--profile p":                 func(s *job.Spec) bool { return (s != nil) == compose },
		} {
			cl := newCluster()
			var got *job.Spec
			cl.onSubmit = func(_ *cluster, j *job.Job) { got = &j.Spec }
			code, _, errs := shoal(t, cl.serve(t), "run --name web "+how+" "+flag+image)
			if !want(got) || (code == 0) != (got != nil) || got == nil && code != exitUsage && code != exitNotFound {
				t.Errorf("run %s %s: code %d, %q, submitted %+v", how, flag, code, errs, got)
			}
		}
	}
}

func TestDetachKeysOfTheEnvironmentAreNoFlag(t *testing.T) {
	t.Setenv("SHOAL_DETACH_KEYS", "ctrl-a")
	if code, _, errs := shoal(t, newCluster().serve(t), "run -d --name web x"); code != 0 {
		t.Errorf("code %d, %q", code, errs)
	}
	if code, _, _ := shoal(t, newCluster().serve(t), "run -d --name web --detach-keys ctrl-b x"); code != exitUsage {
		t.Errorf("with the flag: code %d, want %d", code, exitUsage)
	}
}

func TestAnEnvFileFromWindowsReadsAsInAComposeFile(t *testing.T) {
	dir := t.TempDir()
	env, file := filepath.Join(dir, "env"), filepath.Join(dir, "compose.yaml")
	for name, text := range map[string]string{env: "\ufeffA=1\r\n# no\r\n\r\nB=two words\r\n", file: "services: {web: {image: x, env_file: env}}"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"run -d --env-file " + env + " x", "run -d -f " + file} {
		cl := newCluster()
		var got []string
		cl.onSubmit = func(_ *cluster, j *job.Job) { got = j.Spec.Services[0].Env }
		if code, _, errs := shoal(t, cl.serve(t), line); code != 0 || strings.Join(got, "|") != "A=1|B=two words" {
			t.Errorf("%s: code %d, %q, %q", line, code, errs, got)
		}
	}
}
