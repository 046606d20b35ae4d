package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func TestFlagsMayFollowArgumentsExceptWhereACommandFollows(t *testing.T) {
	for line, want := range map[string]string{
		"ps":                            "ps",
		"logs web -f --tail 3":          "logs -f --tail 3 web",
		"logs -nf web":                  "logs -nf web",
		"logs web -fn 3":                "logs -fn 3 web",
		"logs web --tail=3 db":          "logs --tail=3 web db",
		"--host /s ps web --json":       "--host /s ps --json web",
		"ps web --host /s":              "ps --host /s web",
		"node label b zone=a -H /s":     "node label -H /s b zone=a",
		"exec -it web/a.1 sh -c --json": "exec -it web/a.1 sh -c --json",
		"run -p 80:80 nginx --port 3":   "run -p 80:80 nginx --port 3",
		"run -f x.yaml --name y":        "run -f x.yaml --name y",
		"rm -- -odd":                    "rm -- -odd",
		"rm web --detach -- -odd":       "rm --detach -- web -odd",
		"logs web --help":               "logs --help",
		"logs web --tail":               "logs --tail web",
		"image load -":                  "image load -",
		"nonsense -x":                   "nonsense -x",
	} {
		got := strings.Join(arrange(newApp(), append([]string{"shoal"}, strings.Fields(line)...))[1:], " ")
		if line == "image load -" {
			want = "image load -- -"
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", line, got, want)
		}
	}
}

func TestWrongCommandLinesEndWith2AndAHint(t *testing.T) {
	for line, want := range map[string]string{
		"pss":                         "there is no verb \"pss\" in shoal (did you mean ps?)",
		"node lss":                    "there is no verb \"lss\" in shoal node (did you mean ls?)",
		"run --detatch x":             "there is no flag --detatch (did you mean --detach?); `shoal run --help`",
		"why":                         "shoal why takes TASK",
		"why a b":                     "\"b\" is one argument too many",
		"ps --after":                  "there is no flag --after",
		"jobs x":                      "takes no arguments, got \"x\"",
		"run":                         "a Compose file (-f compose.yaml) or an image",
		"run -f x image":              "one too much",
		"run -f x --replicas 3":       "--replicas goes with an image",
		"logs --tail x y":             "--tail x: it takes a number",
		"scale web":                   "JOB/SERVICE=NUMBER",
		"help nod":                    "did you mean node?",
		"completion tcsh":             "bash, zsh or fish",
		"run --timeout soon --name x": "invalid value",
	} {
		code, _, errs := shoal(t, "/nowhere", line)
		if code != exitUsage || !strings.Contains(errs, want) || !strings.HasPrefix(errs, "shoal: ") {
			t.Errorf("shoal %s: code %d, %q, want %d and %q", line, code, errs, exitUsage, want)
		}
	}
}

// Whatever is done to what an empty name means would be seen: the model panics at what it has no answer for.
func TestAnEmptyNameMeansNothing(t *testing.T) {
	cl := newCluster()
	cl.tasks = []api.Task{task("aaa1", "front", 1, "d", running())}
	socket := cl.serve(t)
	shoalWith := func(verb string, args ...string) (int, string) {
		var out, errs output
		line := slices.Concat([]string{"shoal"}, strings.Fields(verb), []string{"--host", socket, "--"}, args)
		code := run(t.Context(), line, strings.NewReader(""), &out, &errs)
		return code, errs.String()
	}
	walk(newApp().Commands, "", func(name string, v *cli.Command) {
		name = strings.TrimSpace(name)
		if v.ArgsUsage == "" || slices.Contains([]string{"run", "plan", "help", "completion", "exec"}, name) {
			return
		}
		refused := false
		for _, args := range [][]string{{""}, {"x", ""}, {"", "x", "x"}} {
			code, errs := shoalWith(name, args...)
			refused = refused || code == exitUsage && strings.Contains(errs, "is empty")
		}
		if !refused {
			t.Errorf("shoal %s takes an empty argument", name)
		}
	})
	if code, errs := shoalWith("exec", "", "true"); code != exitUsage || !strings.Contains(errs, "argument 1 is empty") {
		t.Errorf("exec: code %d, %q", code, errs)
	}
	cl.onExec = func(*api.ExecSession) (int, error) { return 0, nil }
	if code, errs := shoalWith("exec", "aaa1", "echo", ""); code != 0 {
		t.Errorf("an empty argument of a container's command: code %d, %q", code, errs)
	}
	for _, line := range []string{"rm ..", "stop .", "exec .. true", "token rm .."} {
		if code, _, errs := shoal(t, socket, line); code != exitInvalid || !strings.Contains(errs, "is no name") {
			t.Errorf("%s: code %d, %q", line, code, errs)
		}
	}
	if _, err := pick([]target{parseTarget("")}, cl.tasks); job.KindOf(err) != job.NotFound {
		t.Errorf("the only task goes by no name: %v", err)
	}
}

func TestEachKindOfErrorHasItsExitCode(t *testing.T) {
	for kind, want := range map[job.Kind]int{job.NotFound: 3, job.Conflict: 4, job.Invalid: 5, job.Denied: 6, job.Unavailable: 7, job.Internal: 1} {
		var b bytes.Buffer
		if got := report(&b, fmt.Errorf("do it: %w", job.Errorf(kind, "because"))); got != want || b.String() != "shoal: do it: because\n" {
			t.Errorf("%s: code %d, %q, want %d", kind, got, b.String(), want)
		}
	}
	if code, _, errs := shoal(t, "/nowhere/s", "ps"); code != exitUnavailable || !strings.Contains(errs, "shoal agent") {
		t.Errorf("no agent: code %d, %q", code, errs)
	}
	if got := report(&bytes.Buffer{}, errors.New("plain")); got != exitFailed {
		t.Errorf("an error without a kind: code %d", got)
	}
}

// walk calls do for each verb that people see, with its full name.
func walk(verbs []*cli.Command, parent string, do func(name string, v *cli.Command)) {
	for _, v := range verbs {
		if !v.Hidden {
			do(parent+" "+v.Name, v)
			walk(v.Subcommands, parent+" "+v.Name, do)
		}
	}
}

func TestEachVerbIsExplainedWithAnExample(t *testing.T) {
	text := reference(newApp())
	walk(newApp().Commands, "shoal", func(name string, v *cli.Command) {
		if v.Usage == "" || !strings.Contains(v.Description, "Example") || !strings.Contains(v.Description, "shoal ") {
			t.Errorf("%s: usage %q, description %q: want both, with an example", name, v.Usage, v.Description)
		}
		if !strings.Contains(text, "# "+name+"\n") {
			t.Errorf("%s is not in the reference", name)
		}
		code, out, errs := shoal(t, "/nowhere", strings.TrimPrefix(name, "shoal ")+" --help")
		if name == "shoal help" {
			return
		}
		if code != 0 || errs != "" || !strings.HasPrefix(out, name+": "+v.Usage) {
			t.Errorf("%s --help: code %d, %q %q", name, code, out, errs)
		}
	})
	for _, e := range exitCodes() {
		if !strings.Contains(text, fmt.Sprintf("| %d |", e.code)) {
			t.Errorf("exit code %d is not in the reference", e.code)
		}
	}
}

func TestVerbsThatReadTakeJSON(t *testing.T) {
	reads := strings.Fields("run plan scale ps jobs why logs events top history token.create token.ls node.ls node.inspect image.ls members status version debug")
	have := map[string]bool{}
	walk(newApp().Commands, "", func(name string, v *cli.Command) {
		have[strings.ReplaceAll(strings.TrimSpace(name), " ", ".")] = flagNamed(v.Flags, "json") != nil
	})
	for _, r := range reads {
		if !have[r] {
			t.Errorf("shoal %s has no --json", r)
		}
	}
}
