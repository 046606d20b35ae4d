package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Categories of verbs.
const (
	categoryRun     = "Run"
	categoryLook    = "Look"
	categoryCluster = "Cluster"
	categoryOther   = "Other"
)

// appHelp is the template of `shoal --help`. The library would sort categories by name; ours tell a story.
func appHelp() string {
	t := appHelpHead
	for _, category := range []string{categoryRun, categoryLook, categoryCluster, categoryOther} {
		t += "\n" + category + `:{{range .VisibleCommands}}{{if eq .Category "` + category + `"}}
  {{printf "%-10s" .Name}} {{.Usage}}{{end}}{{end}}
`
	}
	return t + appHelpTail
}

const appHelpHead = `shoal {{.Usage}}.

What you can do now:
  shoal agent                 make this machine a cluster of one (as root)
  shoal token create          print the command that lets the next machine join
  shoal run -f compose.yaml   run a Compose file and wait until it is healthy
  shoal ps                    see what runs where; shoal why TASK tells how it came to be

Usage: shoal [--host SOCKET] VERB [FLAGS] [ARGUMENTS]
`

const appHelpTail = `
Flags:{{range .VisibleFlags}}
  {{.}}{{end}}

` + "`shoal VERB --help` shows flags and an example; `shoal help exit-codes` lists the exit codes.\n"

const verbHelp = `{{.HelpName}}: {{.Usage}}
{{if .Description}}
{{.Description}}
{{end}}
Usage: {{.HelpName}}{{if .VisibleCommands}}{{if gt (len .VisibleFlags) 1}} [FLAGS] |{{end}} VERB{{else}}{{if .VisibleFlags}} [FLAGS]{{end}}{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}
{{if .VisibleCommands}}
Verbs:{{range .VisibleCommands}}
  {{printf "%-10s" .Name}} {{.Usage}}{{end}}
{{end}}{{if .VisibleFlags}}
Flags:{{range .VisibleFlags}}
  {{.}}{{end}}
{{end}}`

// flagLine is a flag in help: its names, a tab, what it does.
func flagLine(f cli.Flag) string {
	names, usage := flagWords(f)
	return names + "\t" + usage
}

// flagWords gives a flag's names with the placeholder for its value, and what it does with its default.
func flagWords(f cli.Flag) (names, usage string) {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return strings.Join(f.Names(), ", "), ""
	}
	words := f.Names()
	for i, w := range words {
		words[i] = dashed(w)
	}
	slices.SortStableFunc(words, func(a, b string) int { return min(len(a), 3) - min(len(b), 3) })
	names, usage = strings.Join(words, ", "), d.GetUsage()
	if d.TakesValue() {
		place := "VALUE"
		if _, rest, quoted := strings.Cut(usage, "`"); quoted {
			place, _, _ = strings.Cut(rest, "`")
		}
		names += " " + place
		value := d.GetDefaultText()
		if value = strings.Trim(value, `"`); value != "" && value != "0" && value != "0s" && value != "[]" && !strings.Contains(usage, "(default") {
			usage += " (default: " + value + ")"
		}
	}
	for _, e := range d.GetEnvVars() {
		usage += " [$" + e + "]"
	}
	return names, strings.ReplaceAll(usage, "`", "")
}

func helpCommand() *cli.Command {
	return &cli.Command{
		Name: "help", Category: categoryOther, Usage: "explain a verb, or exit-codes", ArgsUsage: "[VERB...|exit-codes]",
		Description: "Example: shoal help run",
		Action:      help,
	}
}

func help(c *cli.Context) error {
	s := newScreen(c)
	if c.Args().First() == "exit-codes" {
		for _, e := range exitCodes() {
			s.printf("%4d  %s\n", e.code, e.meaning)
		}
		return nil
	}
	verbs := newApp().Commands
	for _, name := range c.Args().Slice() {
		v := verbNamed(verbs, name)
		if v == nil {
			return exitf(exitUsage, "there is no verb %q%s; `shoal help` lists them", name, guess(name, verbNames(verbs)))
		}
		verbs = v.Subcommands
	}
	app := newApp()
	app.Writer, app.ErrWriter = c.App.Writer, c.App.ErrWriter
	return app.RunContext(c.Context, slices.Concat([]string{"shoal"}, c.Args().Slice(), []string{"--help"}))
}
