package container_test

import (
	"testing"

	"shoal/runtime"
	"shoal/runtime/runtimetest"
)

func TestConformance(t *testing.T) {
	needRoot(t)
	runtimetest.Run(t, func(t *testing.T) runtimetest.Harness {
		r := newRig(t)
		return runtimetest.Harness{
			Runtime: r.rt, Image: testImage, BadImage: "docker.io/library/absent:none",
			Close:  r.close,
			Reopen: func() runtime.Runtime { r.open(); return r.rt },
		}
	})
}
