package runtimetest

import (
	"maps"
	"time"

	"shoal/runtime"
)

func testUpdate(s *suite) {
	sp := s.spec("sh", "-c", scriptDeaf)
	sp.Labels = map[string]string{"a": "1"}
	sp.Resources = runtime.Resources{MemoryBytes: 64 << 20, NanoCPUs: 5e8, PIDs: 50}
	s.create(sp)
	want := runtime.Change{Labels: map[string]string{"b": "2"}, Resources: runtime.Resources{MemoryBytes: 96 << 20, PIDs: 60}, StopGrace: 300 * time.Millisecond}
	check := func(in runtime.Info, when string) {
		s.Helper()
		if in.Resources != want.Resources || !maps.Equal(in.Labels, want.Labels) {
			s.Errorf("%s: %+v, labels %v; want %+v", when, in.Resources, in.Labels, want)
		}
	}
	update := func(when string) {
		s.Helper()
		in, err := s.rt.Update(s.ctx, sp.ID, want)
		if err != nil {
			s.Fatalf("update %s: %v", when, err)
		}
		check(in, when)
		check(s.inspect(sp.ID), when)
	}
	limit := func(when string) {
		s.Helper()
		st, err := s.rt.Stats(s.ctx, sp.ID)
		if err != nil || st.MemoryLimit != want.Resources.MemoryBytes {
			s.Errorf("%s: its limit is %d (%v), want %d", when, st.MemoryLimit, err, want.Resources.MemoryBytes)
		}
	}
	update("before the first start")
	in := s.start(sp.ID)
	s.logged(sp.ID, "ready")
	limit("started")
	for _, to := range []int64{128 << 20, 48 << 20, 0, 64 << 20} {
		want.Resources.MemoryBytes, want.Resources.NanoCPUs, want.Resources.PIDs = to, to*4, to>>20
		update("while it runs")
		limit("while it runs")
	}
	if now := s.inspect(sp.ID); now.State != runtime.Running || now.Starts != in.Starts || now.PID != in.PID {
		s.Errorf("an update started it anew: %+v became %+v", in, now)
	}
	begin := time.Now()
	if err := s.rt.Stop(s.ctx, sp.ID, -1); err != nil { // by the new grace
		s.Fatal(err)
	}
	if d := time.Since(begin); d > 8*time.Second {
		s.Errorf("stopped after %v, with a grace of %v", d, want.StopGrace)
	}
	update("while it is stopped")
	s.start(sp.ID)
	limit("started again")
}

func testUpdateRefuses(s *suite) {
	_, err := s.rt.Update(s.ctx, "nobody", runtime.Change{})
	s.wantErr(err, runtime.ErrNotFound, "update of an unknown container")
	sp := s.spec("sh", "-c", scriptPolite)
	sp.Resources.MemoryBytes = 64 << 20
	s.create(sp)
	for what, t := range map[string]runtime.Change{
		"a limit below the least":        {Resources: runtime.Resources{MemoryBytes: runtime.MinMemoryBytes - 1}},
		"a signal that nobody has heard": {StopSignal: "SIGNONE", Resources: sp.Resources},
	} {
		_, err := s.rt.Update(s.ctx, sp.ID, t)
		s.wantErr(err, runtime.ErrInvalid, what)
		if in := s.inspect(sp.ID); in.Resources != sp.Resources {
			s.Errorf("%s: refused, but the limits are %+v", what, in.Resources)
		}
	}
}
