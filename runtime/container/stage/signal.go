package stage

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseSignal reads "SIGHUP", "HUP", "hup" or "1".
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, Invalidf("signal %d is not between 1 and 64", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if rt, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok { // systemd's images stop with SIGRTMIN+3
		if n, err := strconv.Atoi(rt); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(34 + n), nil
		}
	}
	return 0, Invalidf("unknown signal %q", s)
}
