package main

import "github.com/urfave/cli/v2"

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Category: categoryOther,
		Usage: "print a script that makes a shell complete shoal's verbs and flags", ArgsUsage: "bash|zsh|fish",
		Description: "Example: source <(shoal completion bash)",
		Action:      completion,
	}
}

func completion(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	s := newScreen(c)
	switch shell := c.Args().First(); shell {
	case "bash":
		s.printf("%s", bashCompletion)
	case "zsh":
		s.printf("%s", zshCompletion)
	case "fish":
		script, err := c.App.ToFishCompletion()
		if err != nil {
			return err
		}
		s.printf("%s", script)
	default:
		return exitf(exitUsage, "completion %s: it takes bash, zsh or fish", shell)
	}
	return nil
}

// Both ask with askCompletion, after the word that is being typed if that begins with a dash.
const (
	bashCompletion = `_shoal() {
	local cur="${COMP_WORDS[COMP_CWORD]}" ask
	ask=("${COMP_WORDS[@]:0:COMP_CWORD}")
	if [[ "$cur" == -* ]]; then ask+=("$cur"); fi
	COMPREPLY=($(compgen -W "$("${ask[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o default -F _shoal shoal
`
	zshCompletion = `#compdef shoal
_shoal() {
	local -a opts
	local cur=${words[-1]}
	if [[ "$cur" == -* ]]; then
		opts=("${(@f)$(${words[@]:0:#words[@]-1} ${cur} --generate-bash-completion 2>/dev/null)}")
	else
		opts=("${(@f)$(${words[@]:0:#words[@]-1} --generate-bash-completion 2>/dev/null)}")
	fi
	if [[ -n "$opts" ]]; then _describe 'values' opts; else _files; fi
}
compdef _shoal shoal
`
)
