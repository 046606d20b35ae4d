package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// askCompletion ends a command line whose completions a shell asks for. Scripts that people have sourced use it.
const askCompletion = "--generate-bash-completion"

// completing tells a command line that is only asked about from one to carry out, and gives its words without the program's
// name. A "--" in it is no exception: pressing TAB must never do what the line says. The library lets one through.
func completing(args []string) (words []string, ok bool) {
	if len(args) < 2 || args[len(args)-1] != askCompletion {
		return nil, false
	}
	return args[1 : len(args)-1], true
}

// completions are what may stand next: verbs, or flags if the last word begins with a dash, for then it is being typed. None
// means that the shell's own are best, such as names of files.
func completions(app *cli.App, words []string) []string {
	verbs, flags := app.Commands, app.Flags
	typed := ""
	if n := len(words); n > 0 && strings.HasPrefix(words[n-1], "-") {
		words, typed = words[:n-1], words[n-1]
	}
	named, free := false, true // an argument came; flags may still follow
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch {
		case word == "--":
			return nil // only arguments follow
		case len(word) > 1 && word[0] == '-':
			if strings.Contains(word, "=") || !takesValue(flags, word) {
				continue
			}
			if len(words) == 0 {
				return nil // its value is being typed
			}
			words = words[1:]
		case !named && verbNamed(verbs, word) != nil:
			v := verbNamed(verbs, word)
			verbs, flags, free = v.Subcommands, v.Flags, !slices.Contains(takesCommand, v.Name)
		case !free:
			return nil // it belongs to the container
		default:
			named = true
		}
	}
	switch {
	case typed != "":
		return flagsLike(flags, typed)
	case named:
		return nil
	}
	return verbNames(verbs)
}

// flagsLike are the flags that begin with what was typed. One that is typed already may lack its value: it is none of them.
func flagsLike(flags []cli.Flag, typed string) []string {
	if f := flagNamed(flags, strings.TrimLeft(typed, "-")); f != nil && valued(f) {
		return nil
	}
	var names []string
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() {
			continue
		}
		for _, n := range f.Names() {
			if n = dashed(n); n != typed && strings.HasPrefix(n, typed) {
				names = append(names, n)
			}
		}
	}
	return names
}
