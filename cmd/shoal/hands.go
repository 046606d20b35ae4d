package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func killCommand() *cli.Command {
	return &cli.Command{
		Name: "kill", Category: categoryRun,
		Usage:     "send a signal to tasks",
		ArgsUsage: "TASK...",
		Description: "The restart policy decides what follows: `shoal stop` is what ends a job for good.\n\n" +
			"Examples:\n  shoal kill web/front.1\n  shoal kill -s HUP web",
		Flags: clientFlags(&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Value: "KILL", Usage: "`SIGNAL` by name or number"}),
		Action: asking(eachTask(func(ctx context.Context, c *cli.Context, cl *api.Client, id string) error {
			return cl.Signal(ctx, id, c.String("signal"))
		})),
	}
}

func pauseCommand() *cli.Command {
	return &cli.Command{
		Name: "pause", Category: categoryRun,
		Usage:     "freeze all processes of tasks",
		ArgsUsage: "TASK...",
		Description: "A paused task gets no traffic, its health is not checked, and nothing replaces it. `shoal unpause` lets it go on; stopping it\n" +
			"does too.\n\nExample: shoal pause web/front.2",
		Flags: clientFlags(),
		Action: asking(eachTask(func(ctx context.Context, _ *cli.Context, cl *api.Client, id string) error {
			return cl.SetPaused(ctx, id, true)
		})),
	}
}

func unpauseCommand() *cli.Command {
	return &cli.Command{
		Name: "unpause", Category: categoryRun,
		Usage: "let paused tasks go on", ArgsUsage: "TASK...",
		Description: "Example: shoal unpause web/front.2",
		Flags:       clientFlags(),
		Action: asking(eachTask(func(ctx context.Context, _ *cli.Context, cl *api.Client, id string) error {
			return cl.SetPaused(ctx, id, false)
		})),
	}
}

// eachTask does something to all tasks that the arguments mean, and prints what it was done to.
func eachTask(do func(ctx context.Context, c *cli.Context, cl *api.Client, id string) error) func(*cli.Context, *screen, *api.Client) error {
	return func(c *cli.Context, s *screen, cl *api.Client) error {
		if err := wantArgs(c, 1, -1); err != nil {
			return err
		}
		tasks, err := tasksMeant(c, cl, c.Args().Slice())
		if err != nil {
			return err
		}
		var errs []error
		for i := range tasks {
			if err := do(c.Context, c, cl, string(tasks[i].ID)); err != nil {
				errs = append(errs, err)
				continue
			}
			s.printf("%s\n", fullName(&tasks[i]))
		}
		return errors.Join(errs...)
	}
}

// tasksMeant are those that have not ended, unless they are meant one by one.
func tasksMeant(c *cli.Context, cl *api.Client, words []string) ([]api.Task, error) {
	list, err := cl.Tasks(c.Context, api.TaskQuery{All: true})
	if err != nil {
		return nil, err
	}
	targets := make([]target, len(words))
	for i, w := range words {
		targets[i] = parseTarget(w)
	}
	tasks, err := pick(targets, list.Tasks)
	if err != nil {
		return nil, err
	}
	live := slices.DeleteFunc(slices.Clone(tasks), func(t api.Task) bool { return t.State().Terminal() })
	if len(live) == 0 {
		return tasks, nil
	}
	return live, nil
}

func portCommand() *cli.Command {
	return &cli.Command{
		Name: "port", Category: categoryLook,
		Usage: "list the published ports of a task", ArgsUsage: "TASK [PORT[/tcp|udp]]",
		Description: "Example: shoal port web/front.1 80",
		Flags:       clientFlags(),
		Action:      asking(port),
	}
}

func port(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, 2); err != nil {
		return err
	}
	t, err := oneTask(c.Context, cl, c.Args().First())
	if err != nil {
		return err
	}
	want, proto, _ := strings.Cut(c.Args().Get(1), "/")
	found := false
	for _, p := range publishedPorts(t) {
		if want != "" && (want != strconv.Itoa(int(p.Target)) || p.Protocol != cmp.Or(proto, "tcp")) {
			continue
		}
		found = true
		host := "0.0.0.0"
		if p.HostIP.IsValid() {
			host = p.HostIP.String()
		}
		if want != "" {
			s.printf("%s:%d\n", host, p.Published)
		} else {
			s.printf("%d/%s -> %s:%d\n", p.Target, p.Protocol, host, p.Published)
		}
	}
	if want != "" && !found {
		return job.Errorf(job.NotFound, "port %s of %s is not published", c.Args().Get(1), fullName(t))
	}
	return nil
}

func publishedPorts(t *api.Task) []job.Port {
	if t.Status == nil {
		return nil
	}
	return t.Status.Ports
}

func changesCommand() *cli.Command {
	return &cli.Command{
		Name: "changes", Category: categoryLook,
		Usage: "list how a task's files differ from its image's", ArgsUsage: "TASK",
		Description: "As docker diff: A is added, C changed, D deleted. `shoal diff` compares versions of a job.\n\nExample: shoal changes web/front.1",
		Flags:       clientFlags(jsonFlag()),
		Action: asking(func(c *cli.Context, s *screen, cl *api.Client) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			t, err := oneTask(c.Context, cl, c.Args().First())
			if err != nil {
				return err
			}
			list, err := cl.Changes(c.Context, string(t.ID))
			if err != nil || c.Bool("json") {
				return errors.Join(err, jsonUnless(s, list, err))
			}
			for _, ch := range list {
				s.printf("%s %s\n", ch.Kind, oneLine(ch.Path))
			}
			return nil
		}),
	}
}

func jsonUnless(s *screen, v any, err error) error {
	if err != nil {
		return nil
	}
	return s.json(v)
}

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Category: categoryLook,
		Usage: "write a task's files as a tar archive", ArgsUsage: "TASK",
		Description: "With its volumes, whether it runs or has ended.\n\nExample: shoal export web/front.1 -o front.tar",
		Flags:       clientFlags(&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write to (default: standard output)"}),
		Action: asking(func(c *cli.Context, s *screen, cl *api.Client) (err error) {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			t, err := oneTask(c.Context, cl, c.Args().First())
			if err != nil {
				return err
			}
			to := io.Writer(s.out)
			if name := c.String("output"); name != "" {
				f, err := os.Create(name)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				to = f
			} else if s.terminal {
				return exitf(exitUsage, "an archive is nothing for a terminal: name a file with -o, or use a pipe")
			}
			return cl.CopyOut(c.Context, string(t.ID), api.CopyOutRequest{Path: "/"}, to)
		}),
	}
}

func inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Category: categoryLook,
		Usage:     "show all that is known of tasks, jobs, nodes and images, as JSON",
		ArgsUsage: "NAME...",
		Description: "A name is looked for among tasks, jobs, nodes and this node's images, in this order, unless --type says which. A task's answer\n" +
			"holds its service and, if its node answers, its container.\n\n" +
			"Examples:\n  shoal inspect web/front.1\n  shoal inspect -f '{{.status.address}}' web/front.1\n  shoal inspect --type node m1",
		Flags: clientFlags(
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "print by a Go `TEMPLATE` over the JSON's names; {{json .}} is a part as JSON"},
			&cli.StringFlag{Name: "type", Usage: "`KIND`: task, job, node or image"},
		),
		Action: asking(inspect),
	}
}

func inspect(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	kinds := []string{"task", "job", "node", "image"}
	if k := c.String("type"); k != "" {
		if !slices.Contains(kinds, k) {
			return exitf(exitUsage, "--type %s: it takes task, job, node or image", k)
		}
		kinds = []string{k}
	}
	var form *template.Template
	if text := c.String("format"); text != "" {
		var err error
		form, err = template.New("format").Funcs(templateFuncs).Parse(text)
		if err != nil {
			return exitf(exitUsage, "--format: %v", err)
		}
	}
	all := []any{}
	var errs []error
	for _, name := range c.Args().Slice() {
		v, err := lookFor(c.Context, cl, kinds, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, v)
	}
	if form == nil {
		return errors.Join(append(errs, s.json(all))...)
	}
	for _, v := range all {
		plain, err := asPlain(v)
		if err == nil {
			err = form.Execute(s.out, plain)
		}
		if err != nil {
			return exitf(exitUsage, "--format: %v", err)
		}
		s.printf("\n")
	}
	return errors.Join(errs...)
}

var templateFuncs = template.FuncMap{
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	},
	"join": func(v []any, by string) string {
		words := make([]string, len(v))
		for i, x := range v {
			words[i] = fmt.Sprint(x)
		}
		return strings.Join(words, by)
	},
	"upper": strings.ToUpper, "lower": strings.ToLower, "println": fmt.Sprintln,
}

// asPlain gives what a template sees: the names are the JSON's.
func asPlain(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var plain any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&plain)
	return plain, err
}

// inspected is a task with all around it.
type inspected struct {
	api.Task
	Spec      *job.Service    `json:"service_spec,omitempty"`
	Container json.RawMessage `json:"container,omitempty"`
	Error     string          `json:"containerError,omitempty"`
}

const inspectPatience = 5 * time.Second

func lookFor(ctx context.Context, cl *api.Client, kinds []string, name string) (any, error) {
	for _, k := range kinds {
		var v any
		var err error
		switch k {
		case "task":
			v, err = inspectTask(ctx, cl, name)
		case "job":
			v, err = cl.Job(ctx, name, false)
		case "node":
			v, err = findNode(ctx, cl, name)
		case "image":
			v, err = findImage(ctx, cl, name)
		}
		if err == nil || job.KindOf(err) != job.NotFound {
			return v, err
		}
	}
	return nil, job.Errorf(job.NotFound, "%s: there is no such %s", name, strings.Join(kinds, ", "))
}

func inspectTask(ctx context.Context, cl *api.Client, name string) (any, error) {
	t, err := cl.Task(ctx, name)
	if err != nil {
		return nil, err
	}
	out := inspected{Task: t}
	if out.Spec, err = serviceOf(ctx, cl, &t); err != nil && job.KindOf(err) != job.NotFound {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, inspectPatience)
	defer cancel()
	if out.Container, err = cl.Container(ctx, string(t.ID)); err != nil {
		out.Error = err.Error()
	}
	return out, nil
}

func findImage(ctx context.Context, cl *api.Client, name string) (any, error) {
	list, err := cl.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if strings.HasPrefix(strings.TrimPrefix(i.ID, "sha256:"), strings.TrimPrefix(name, "sha256:")) || slices.ContainsFunc(i.Names, func(n string) bool {
			return n == name || strings.TrimPrefix(strings.TrimPrefix(n, "docker.io/"), "library/") == name || tagOf(n) == name
		}) {
			return i, nil
		}
	}
	return nil, job.Errorf(job.NotFound, "image %s is not on the asked node", name)
}
