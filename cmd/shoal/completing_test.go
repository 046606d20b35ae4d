package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
)

// The model of a cluster has no answer for most verbs, and there is no agent at /nowhere: what is carried out fails or is seen.
func TestNoVerbIsCarriedOutWhenItsCompletionsAreAskedFor(t *testing.T) {
	cl := newCluster()
	cl.onSubmit = func(*cluster, *job.Job) { t.Error("a job was submitted") }
	socket := cl.serve(t)
	walk(newApp().Commands, "", func(name string, v *cli.Command) {
		if len(v.Subcommands) > 0 {
			return
		}
		name = strings.TrimSpace(name)
		for _, rest := range []string{" x --", " x -- y", " -- x", " x", " --help", ""} {
			code, out, errs := shoal(t, socket, name+rest+" "+askCompletion)
			if code != 0 || errs != "" {
				t.Errorf("%s%s: code %d, %q", name, rest, code, errs)
			}
			if rest == " x --" && !slices.Contains(takesCommand, v.Name) && len(v.Flags) > 0 && !strings.HasPrefix(out, "--") {
				t.Errorf("%s%s: %q, want flags", name, rest, out)
			}
		}
	})
	if _, is := asOCIRuntime([]string{"shoal", "oci", "delete", "x", "--", askCompletion}); is {
		t.Error("shoal oci is carried out")
	}
}

func TestCompletions(t *testing.T) {
	for line, want := range map[string]string{
		"node":                 "ls inspect drain activate label overcommit rm",
		"--host /s node":       "ls inspect drain activate label overcommit rm",
		"--host":               "",
		"node rm --f":          "--force",
		"node rm b --":         "--force --host",
		"node rm b -":          "--force --host -H",
		"node rm -- b":         "",
		"node rm b":            "",
		"image rm web:1 --h":   "--host",
		"rm web --deta":        "--detach",
		"logs web --tail":      "", // its value is next
		"logs --tail 3 web -t": "",
		"run --det":            "--detach --detach-keys",
		"run alpine --":        "",
		"exec web/a.1 -":       "",
	} {
		if got := strings.Join(completions(newApp(), strings.Fields(line)), " "); got != want {
			t.Errorf("%s\n got %s\nwant %s", line, got, want)
		}
	}
	if all := completions(newApp(), nil); !slices.Contains(all, "run") || slices.Contains(all, "docs") {
		t.Errorf("verbs: %q", all)
	}
}
