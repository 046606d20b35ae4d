package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFailuresAreNamed(t *testing.T) {
	end := errors.New("exit status 1")
	for log, want := range map[string][]string{
		"=== RUN   TestA\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n=== RUN   TestB/x\n    --- FAIL: TestB/x (0.00s)\n--- FAIL: TestB (1.00s)\nFAIL\n": {"TestB"},
		"=== RUN   TestA\npanic: test timed out after 1s\n":                                          {"(panic: test timed out after 1s, in or after TestA)"},
		"=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\ngoleak: Errors on successful test run: x\n": {"(exit status 1, in or after TestA)"},
	} {
		if got := failures([]byte(log), end); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", log, got, want)
		}
	}
}

func TestTableTellsTrueNumbers(t *testing.T) {
	r := &repeat{failed: map[string][]string{"shoal/a TestX": {"a.3.log", "a.7.log"}}}
	got := r.table([]*suite{{pkg: "shoal/a", runs: 100, failures: 2}, {pkg: "shoal/b"}})
	for _, want := range []string{"shoal/a  100   2", "FLAKE shoal/a TestX  2    a.3.log"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
