package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job/compose"
)

func docsCommand() *cli.Command {
	return &cli.Command{
		Name: "docs", Hidden: true,
		Usage: "print the reference of the command line as Markdown", Description: "Example: shoal docs > docs/cli.md",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "compose", Usage: "print which Compose keys are honoured instead"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0); err != nil {
				return err
			}
			if c.Bool("compose") {
				_, err := io.WriteString(c.App.Writer, composeHead+compose.MatrixMarkdown())
				return err
			}
			_, err := io.WriteString(c.App.Writer, reference(newApp()))
			return err
		},
	}
}

// reference writes the whole command tree.
func reference(app *cli.App) string {
	var b strings.Builder
	b.WriteString("# The command line\n\nMade by `shoal docs` from the program itself; do not edit.\n\n")
	b.WriteString("`shoal [--host SOCKET] VERB [FLAGS] [ARGUMENTS]`. Flags may also follow the arguments, but for `run` and `exec`, where\n")
	b.WriteString("what follows the first argument belongs to the container.\n")
	flagReference(&b, app.Flags)
	for _, v := range app.Commands {
		verbReference(&b, v, "shoal", 2)
	}
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
	for _, e := range exitCodes() {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, markdown(e.meaning))
	}
	return b.String()
}

func verbReference(b *strings.Builder, v *cli.Command, parent string, depth int) {
	if v.Hidden {
		return
	}
	name := parent + " " + v.Name
	fmt.Fprintf(b, "\n%s %s\n\n%s\n", strings.Repeat("#", depth), name, sentence(v.Usage))
	switch {
	case len(v.Subcommands) == 0:
		fmt.Fprintf(b, "\n    %s\n", strings.TrimSpace(name+" [FLAGS] "+v.ArgsUsage))
	case len(v.Flags) > 0:
		fmt.Fprintf(b, "\n    %s [FLAGS] | VERB\n", name)
	}
	for part := range strings.SplitSeq(v.Description, "\n\n") {
		if part == "" {
			continue
		}
		if lead, code, ok := strings.Cut(part, ":"); ok && (lead == "Example" || lead == "Examples") {
			fmt.Fprintf(b, "\n%s:\n", lead)
			for line := range strings.SplitSeq(strings.TrimSpace(code), "\n") {
				fmt.Fprintf(b, "\n    %s", strings.TrimSpace(line))
			}
			b.WriteString("\n")
			continue
		}
		fmt.Fprintf(b, "\n%s\n", part)
	}
	if len(v.Aliases) > 0 {
		fmt.Fprintf(b, "\nAlso called: `%s`.\n", strings.Join(v.Aliases, "`, `"))
	}
	flagReference(b, v.Flags)
	for _, sub := range v.Subcommands {
		verbReference(b, sub, name, depth+1)
	}
}

func flagReference(b *strings.Builder, flags []cli.Flag) {
	rows := 0
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() || f == cli.HelpFlag || f == cli.VersionFlag {
			continue
		}
		if rows++; rows == 1 {
			b.WriteString("\n| flag | meaning |\n|---|---|\n")
		}
		names, usage := flagWords(f)
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.ReplaceAll(names, "|", "\\|"), markdown(usage))
	}
}

// markdown keeps a text from being taken for markup in a table.
func markdown(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "\\<", "*", "\\*", "_", "\\_").Replace(text)
}

func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

const composeHead = `# Compose keys

Made by ` + "`shoal docs --compose`" + ` from the table that decides; do not edit. A key that is refused, or not in the table, is an error
that names it; with ` + "`--lenient`" + ` it is a warning. ` + "`*`" + ` stands for a name or a place in a list.

`
