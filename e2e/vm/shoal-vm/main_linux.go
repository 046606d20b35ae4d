// Command shoal-vm is both ends of the way into a virtual machine of the tests: "serve LINE" inside, and "run ADDR PIDFILE
// PROGRAM…" on the host, which lends its input, outputs and exit code to a program inside. What is done that way it
// does not know.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"shoal/e2e/vm"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "shoal-vm:", err)
		if code == 0 {
			code = 125
		}
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return 1, vm.ServeOn(args[1])
	case len(args) >= 4 && args[0] == "run":
		var d vm.Dialer = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", args[1])
		}
		pidFile := args[2]
		return d.Run(context.Background(), args[3:], os.Stdin, os.Stdout, os.Stderr, func(pid int) {
			if pidFile != "-" {
				_ = os.WriteFile(pidFile, []byte(strconv.Itoa(pid)), 0o644) // whoever waits for it says so
			}
		})
	}
	return 2, errors.New("usage: shoal-vm serve LINE | run ADDR PIDFILE PROGRAM…")
}
