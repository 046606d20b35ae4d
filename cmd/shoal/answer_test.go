package main

import (
	"strings"
	"testing"
)

func TestAnAnswerThatCannotBeWrittenIsAFailure(t *testing.T) {
	socket := logCluster().serve(t)
	for line, want := range map[string]int{
		"version": exitFailed, "version --json": exitFailed, "ps": exitFailed, "token create": exitFailed, "logs web": exitFailed, "help": exitFailed, "ps --help": exitFailed,
		"help exit-codes": exitFailed, "docs": exitFailed, "completion bash": exitFailed, "chaos ls": exitFailed, "logs nothing": exitNotFound,
	} {
		var errs output
		code := run(t.Context(), append([]string{"shoal", "--host", socket}, strings.Fields(line)...), strings.NewReader(""), full{}, &errs)
		if code != want || strings.Contains(errs.String(), "no space left") != (want == exitFailed) {
			t.Errorf("%s: code %d, %q, want %d", line, code, errs.String(), want)
		}
	}
}
