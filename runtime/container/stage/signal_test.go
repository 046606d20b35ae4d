package stage

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/runtime"
)

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{
		"SIGHUP": unix.SIGHUP, "HUP": unix.SIGHUP, "hup": unix.SIGHUP, "1": unix.SIGHUP, "SIGRTMIN+3": 37, "64": 64,
		"": 0, "0": 0, "65": 0, "-1": 0, "SIGNOTHING": 0,
	} {
		got, err := ParseSignal(s)
		if got != want || (want == 0) != errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
}
