package container_test

import (
	"testing"

	"shoal/runtime"
)

// What is being made is listed already; the race detector tells whether that goes well.
func TestListWhileContainersAreMade(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	made := make(chan error, 1)
	go func() {
		for range 20 {
			_, err := r.rt.Create(t.Context(), runtime.Spec{ID: "made", Name: "c", Image: testImage, Isolation: &runtime.Isolation{Ulimits: []runtime.Ulimit{{Name: "nofile", Soft: 1 << 40, Hard: 1 << 40}}}})
			if err == nil {
				err = r.rt.Remove(t.Context(), "made")
			}
			if err != nil {
				made <- err
				return
			}
		}
		made <- nil
	}()
	for {
		select {
		case err := <-made:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		list, err := r.rt.List(t.Context())
		if err != nil {
			t.Error(err)
		}
		for _, in := range list {
			if in.State != runtime.Created {
				t.Errorf("%+v", in)
			}
		}
	}
}
