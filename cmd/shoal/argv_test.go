package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
)

// A process of its own, for only the kernel gives arguments that can be written to.
func TestTheTokenIsHiddenFromOthersOnTheMachine(t *testing.T) {
	if os.Getenv("TEST_HIDE_TOKEN") != "" {
		own := hideToken(os.Args)
		shown, err := os.ReadFile("/proc/self/cmdline")
		fmt.Printf("%q %v\n%q\n", own[2:], err, bytes.Split(bytes.TrimRight(shown, "\x00"), []byte{0})[2:])
		os.Exit(0)
	}
	for _, c := range []struct{ args, shown []string }{
		{[]string{"agent", "--token", "shoal1-secret", "--join", "a"}, []string{"agent", "--token", "xxxxxxxxxxxxx", "--join", "a"}},
		{[]string{"agent", "--token=shoal1-secret"}, []string{"agent", "--token=xxxxxxxxxxxxx"}},
		{[]string{"agent", "--token"}, []string{"agent", "--token"}},
		{[]string{"agent", "--token="}, []string{"agent", "--token="}},
		{[]string{"token", "ls"}, []string{"token", "ls"}},
	} {
		cmd := exec.Command(os.Args[0], slices.Concat([]string{"-test.run=TestTheTokenIsHidden"}, c.args)...)
		cmd.Env = append(os.Environ(), "TEST_HIDE_TOKEN=1")
		out, err := cmd.CombinedOutput()
		if want := fmt.Sprintf("%q <nil>\n%q\n", c.args, c.shown); err != nil || string(out) != want {
			t.Errorf("%q: %v\n got %s\nwant %s", c.args, err, out, want)
		}
	}
}
