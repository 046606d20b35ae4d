package main

import (
	"strings"
	"unsafe"
)

// hideToken gives a copy of the process's arguments, and overwrites a join token in what /proc tells everybody on this machine
// about them: an agent shows its command line for as long as it runs. args must be the process's own, which can be written to.
func hideToken(args []string) []string {
	own := make([]string, len(args))
	for i, a := range args {
		own[i] = strings.Clone(a)
	}
	for i, a := range args {
		name, value, joined := strings.Cut(a, "=")
		if name != "--token" && name != "-token" {
			continue
		}
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		shown := unsafe.Slice(unsafe.StringData(value), len(value))
		for k := range shown {
			shown[k] = 'x'
		}
	}
	return own
}
