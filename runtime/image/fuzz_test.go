//go:build linux

package image

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal/e2e/frugal"
)

// FuzzLayer unpacks whatever comes: nothing outside may change, and nothing may panic or hang.
func FuzzLayer(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("unpacking needs root")
	}
	n := 0
	for _, entries := range hostileLayers("/canary") {
		if raw := hostileTar(entries); raw != nil && len(raw) < 16<<10 {
			if n++; n%10 == 0 { // some of each kind
				f.Add(raw)
				f.Add(gzipped(raw).stored)
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		defer frugal.Watch(t)()
		base := memoryDir(t)
		c := newCanary(t, base)
		before := look(t, c.root)
		root := filepath.Join(base, "root")
		if err := makeRoot(root); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
		defer cancel()
		begun := time.Now()
		_, err := extractLayer(ctx, bytes.NewReader(raw), root, false)
		if time.Since(begun) > hostileTime {
			t.Errorf("took %v", time.Since(begun))
		}
		if after := look(t, c.root); after != before {
			t.Fatalf("(%v) changed what is outside:\n%s\nbefore:\n%s", err, after, before)
		}
	})
}

// FuzzMirror: what is taken as a mirror makes a repository's name, and never one with credentials or a query in it.
func FuzzMirror(f *testing.F) {
	for _, s := range []string{"https://mirror.example", "quay.io=http://m:5000/q/", "docker.io=", "=", "https://u:p@x", "a=b=c", "https://x?y#z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Watch(t)()
		r := &Registries{}
		if r.AddMirror(s) != nil {
			return
		}
		for host := range r.Hosts {
			for _, m := range r.mirrors(host) {
				if m == "" || strings.ContainsAny(m, "@?# ") || strings.Contains(m, "://") {
					t.Errorf("mirror %q became %q", s, m)
				}
				_, _ = newRegistrySource(r, m+"/library/x", PullOptions{}) // whatever it says, it must not panic
			}
		}
	})
}
