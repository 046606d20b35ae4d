package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// takesCommand lists the verbs whose first argument ends shoal's own flags: what follows belongs to the container.
var takesCommand = []string{"exec", "run"}

// arrange moves the flags of a command line before its arguments, where the flag parser wants them, so that people may
// write `shoal logs web -f`. It changes nothing else; what follows "--" stays as it is.
func arrange(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	out, rest := args[:1:1], args[1:]
	verbs, flags := app.Commands, app.Flags
	free := false // the flags of the present verb may stand after arguments
	var words []string
	for len(rest) > 0 {
		arg := rest[0]
		switch {
		case arg == "--":
			return finish(out, append(words, rest[1:]...))
		case arg == "--help" || arg == "-h":
			return append(out, "--help") // whatever else was said
		case len(arg) > 1 && arg[0] == '-':
			n := 1
			if !strings.Contains(arg, "=") && takesValue(flags, arg) {
				n = min(2, len(rest))
			}
			out, rest = append(out, rest[:n]...), rest[n:]
		case len(words) == 0 && verbNamed(verbs, arg) != nil:
			v := verbNamed(verbs, arg)
			verbs, flags = v.Subcommands, v.Flags
			free = !slices.Contains(takesCommand, v.Name)
			out, rest = append(out, arg), rest[1:]
		case !free:
			return append(out, rest...)
		default:
			words, rest = append(words, arg), rest[1:]
		}
	}
	return finish(out, words)
}

func finish(out, words []string) []string {
	if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") }) {
		out = append(out, "--")
	}
	return append(out, words...)
}

func verbNamed(verbs []*cli.Command, name string) *cli.Command {
	for _, v := range verbs {
		if v.HasName(name) {
			return v
		}
	}
	return nil
}

// takesValue tells whether the word after arg is its value. Of joined short flags the last one counts: -itu root.
func takesValue(flags []cli.Flag, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if f := flagNamed(flags, name); f != nil {
		return valued(f)
	}
	if strings.HasPrefix(arg, "--") {
		return false
	}
	f := flagNamed(flags, name[len(name)-1:])
	return f != nil && valued(f)
}

func valued(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func flagNamed(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// noSuchVerb is what a command with verbs of its own does when it is not given one of them.
func noSuchVerb(c *cli.Context) error {
	if !c.Args().Present() {
		if c.Command.HelpName == c.App.HelpName {
			return cli.ShowAppHelp(c)
		}
		return cli.ShowSubcommandHelp(c)
	}
	path := c.Command.HelpName
	return exitf(exitUsage, "there is no verb %q in %s%s; `%s --help` lists them", c.Args().First(), path, guess(c.Args().First(), verbNames(c.Command.Subcommands)), path)
}

func verbNames(verbs []*cli.Command) []string {
	var names []string
	for _, v := range verbs {
		if !v.Hidden {
			names = append(names, v.Names()...)
		}
	}
	return names
}

// wrongUsage words an error of the flag parser.
func wrongUsage(c *cli.Context, err error, _ bool) error {
	help := fmt.Sprintf("`%s --help` shows what it takes", c.Command.HelpName)
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		var names []string
		for _, f := range c.Command.Flags {
			for _, n := range f.Names() {
				names = append(names, dashed(n))
			}
		}
		near := guess(dashed(name), names)
		return exitf(exitUsage, "there is no flag %s%s; %s", dashed(name), near, help)
	}
	return exitf(exitUsage, "%v; %s", err, help)
}

func dashed(flag string) string {
	flag = strings.TrimLeft(flag, "-")
	if len(flag) == 1 {
		return "-" + flag
	}
	return "--" + flag
}

// guess says which of the names the person may have meant, in a form that a sentence goes on with.
func guess(word string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if d := distance(word, n); d < least && d < len(n) {
			best, least = n, d
		}
	}
	if best == "" {
		for _, n := range names {
			if len(word) > 1 && strings.HasPrefix(n, word) {
				best = n
			}
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// distance counts the letters to insert, drop, replace or swap with their neighbour: Damerau and Levenshtein's, restricted.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// wantArgs refuses a wrong number of arguments, and empty ones; most < 0: as many as you like.
func wantArgs(c *cli.Context, least, most int) error {
	n := c.NArg()
	if n >= least && (most < 0 || n <= most) {
		return wantWords(c)
	}
	if c.Command.ArgsUsage == "" {
		return exitf(exitUsage, "%s takes no arguments, got %q", c.Command.HelpName, c.Args().First())
	}
	if n < least {
		return exitf(exitUsage, "%s takes %s; `%s --help` shows an example", c.Command.HelpName, c.Command.ArgsUsage, c.Command.HelpName)
	}
	return exitf(exitUsage, "%s takes %s, and %q is one argument too many", c.Command.HelpName, c.Command.ArgsUsage, c.Args().Get(most))
}

// wantWords refuses empty arguments, which mostly come from a variable that is not set: as the beginning of an id one would
// mean whatever there is. Those of a container's command are its own business.
func wantWords(c *cli.Context) error {
	words := c.Args().Slice()
	if slices.Contains(takesCommand, c.Command.Name) {
		words = words[:min(len(words), 1)]
	}
	if i := slices.Index(words, ""); i >= 0 {
		return exitf(exitUsage, "%s: argument %d is empty; is a variable not set?", c.Command.HelpName, i+1)
	}
	return nil
}
