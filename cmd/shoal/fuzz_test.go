package main

import (
	"strings"
	"testing"
	"time"

	"shoal/e2e/frugal"
)

// FuzzWords: no word on the command line makes its reader panic.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"ctrl-p,ctrl-q", "10m", "2026-01-02", "shop/web.2", "shop/web=3", "8080:127.0.0.1:80", ":", "cpu=1.5,memory=150%", "=", "a/", "ctrl-", "[::1]:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		if keys, err := parseKeys(s); err == nil && len(keys) > len(s) {
			t.Errorf("%q is %d keys", s, len(keys))
		}
		_, _ = parseSince(s, time.Unix(1<<30, 0))
		_ = parseTarget(s)
		_, _ = parseScales([]string{s, s})
		_, _ = parseForwarding(s)
		_, _, _ = parseRestarts([]string{s, s})
		_, _ = parseOvercommit("x", strings.Split(s, ","))
	})
}
