package fake_test

import (
	"testing"

	"shoal/runtime"
	"shoal/runtime/fake"
	"shoal/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Harness {
		rt := fake.New(fake.Config{Images: map[string]fake.Image{"busybox": {Image: runtime.Image{SizeBytes: 1 << 20}}}})
		t.Cleanup(rt.Close)
		return runtimetest.Harness{
			Runtime:  rt,
			Reopen:   func() runtime.Runtime { return rt.Reopen() },
			Image:    "busybox",
			BadImage: "nowhere:1",
		}
	})
}
