package runtimetest

import (
	"context"
	"slices"
	"sync"
	"time"

	"shoal/runtime"
)

func testStopAsks(s *suite) {
	id := s.shell(scriptPolite)
	s.logged(id, "ready")
	if err := s.rt.Stop(s.ctx, id, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(id), 7)
}

func testStopKills(s *suite) {
	id := s.shell(scriptDeaf)
	s.logged(id, "ready")
	const grace = 300 * time.Millisecond
	begin := time.Now()
	if err := s.rt.Stop(s.ctx, id, grace); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(id), 128+9)
	if d := time.Since(begin); d < grace {
		s.Errorf("stopped after %v, before its grace of %v", d, grace)
	}
}

func testStopSpecGrace(s *suite) {
	sp := s.spec("sh", "-c", scriptDeaf)
	sp.StopGrace = 200 * time.Millisecond
	s.create(sp)
	s.start(sp.ID)
	s.logged(sp.ID, "ready")
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if err := s.rt.Stop(ctx, sp.ID, -1); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 128+9)

	sp = s.spec("sh", "-c", "trap 'exit 8' INT; trap '' TERM; echo ready; "+scriptForever)
	sp.StopSignal = "SIGINT"
	s.create(sp)
	s.start(sp.ID)
	s.logged(sp.ID, "ready")
	if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 8)
}

func testStopIdempotent(s *suite) {
	sp := s.spec("sh", "-c", scriptPolite)
	s.create(sp)
	if err := s.rt.Stop(s.ctx, sp.ID, 0); err != nil {
		s.Errorf("stop before the first start: %v", err)
	}
	s.start(sp.ID)
	s.logged(sp.ID, "ready")
	for range 3 {
		if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
			s.Errorf("stop: %v", err)
		}
		s.wantExit(s.inspect(sp.ID), 7)
	}
}

func testInit(s *suite) {
	// A first process without a handler ignores SIGTERM (pid_namespaces(7)); with an init in between it dies of it.
	sp := s.spec("sleep", "600")
	sp.Init = true
	s.create(sp)
	s.start(sp.ID)
	if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 128+15)
}

func testSignal(s *suite) {
	id := s.shell("trap 'echo hup' HUP; echo ready; " + scriptForever)
	want := []string{"ready"}
	s.logged(id, want...)
	for _, name := range []string{"SIGHUP", "HUP", "1"} {
		if err := s.rt.Signal(s.ctx, id, name); err != nil {
			s.Fatalf("signal %s: %v", name, err)
		}
		want = append(want, "hup")
		s.logged(id, want...)
	}
	if err := s.rt.Signal(s.ctx, id, "KILL"); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.stopped(id), 128+9)
	s.wantErr(s.rt.Signal(s.ctx, id, "HUP"), runtime.ErrConflict, "signal to a stopped container")
	s.wantErr(s.rt.Signal(s.ctx, "rt-none", "HUP"), runtime.ErrNotFound, "signal to nothing")
}

func testRemove(s *suite) {
	id := s.shell(scriptDeaf)
	for range 2 {
		if err := s.rt.Remove(s.ctx, id); err != nil {
			s.Fatalf("remove: %v", err)
		}
		_, err := s.rt.Inspect(s.ctx, id)
		s.wantErr(err, runtime.ErrNotFound, "inspect after remove")
	}
	infos, err := s.rt.List(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	if slices.ContainsFunc(infos, func(in runtime.Info) bool { return in.ID == id }) {
		s.Error("list still tells the removed container")
	}
	sp := s.spec("true")
	s.create(sp)
	if err := s.rt.Remove(s.ctx, sp.ID); err != nil {
		s.Errorf("remove of a container that never ran: %v", err)
	}
}

func testConcurrent(s *suite) {
	sp := s.spec("sh", "-c", scriptPolite)
	s.create(sp)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { _, _ = s.rt.Start(s.ctx, sp.ID) }) // a conflict for all but one
		wg.Go(func() { _ = s.rt.Stop(s.ctx, sp.ID, 50*time.Millisecond) })
		wg.Go(func() { _, _ = s.rt.Inspect(s.ctx, sp.ID) })
		wg.Go(func() { _, _ = s.rt.List(s.ctx) })
	}
	wg.Wait()
	if err := s.rt.Stop(s.ctx, sp.ID, 0); err != nil {
		s.Errorf("stop after the storm: %v", err)
	}
	for range 4 {
		wg.Go(func() {
			if err := s.rt.Remove(s.ctx, sp.ID); err != nil {
				s.Errorf("remove: %v", err)
			}
		})
	}
	wg.Wait()
	_, err := s.rt.Inspect(s.ctx, sp.ID)
	s.wantErr(err, runtime.ErrNotFound, "inspect after the storm")
}
