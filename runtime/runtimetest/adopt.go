package runtimetest

import (
	"time"

	"shoal/runtime"
)

func testAdoptRunning(s *suite) {
	sp := s.spec("sh", "-c", "echo one; "+"trap 'echo two; exit 6' TERM; "+scriptForever)
	sp.Labels = map[string]string{"mine": "yes"}
	s.create(sp)
	before := s.start(sp.ID)
	s.logged(sp.ID, "one")
	s.reopen(0)

	in := s.inspect(sp.ID)
	if in.State != runtime.Running || in.PID != before.PID || in.Starts != 1 || in.Labels["mine"] != "yes" ||
		in.Address != before.Address {
		s.Errorf("adopted as %+v, was %+v", in, before)
	}
	if code, err := s.rt.Exec(s.ctx, sp.ID, runtime.Exec{Args: []string{"sh", "-c", "exit 9"}}); err != nil || code != 9 {
		s.Errorf("exec in the adopted container: %d, %v", code, err)
	}
	evs := s.rt.Events(s.ctx)
	if err := s.rt.Stop(s.ctx, sp.ID, patience); err != nil {
		s.Fatal(err)
	}
	s.wantExit(s.inspect(sp.ID), 6)
	s.logged(sp.ID, "one", "two")
	for timeout := time.After(patience); ; {
		select {
		case e := <-evs:
			if e.Kind == runtime.EventExited && e.ID == sp.ID {
				return
			}
		case <-timeout:
			s.Fatal("no event tells the exit of the adopted container")
		}
	}
}

func testAdoptEnded(s *suite) {
	id := s.shell("echo one; sleep 0.5; echo two; exit 5")
	never := s.spec("true")
	s.create(never)
	s.reopen(1500 * time.Millisecond)

	s.wantExit(s.stopped(id), 5)
	s.logged(id, "one", "two")
	if in := s.inspect(never.ID); in.State != runtime.Created {
		s.Errorf("a created container was adopted as %s", in.State)
	}
	in := s.start(id)
	if in.Starts != 2 {
		s.Errorf("starts is %d after adoption and a second start", in.Starts)
	}
	s.wantExit(s.stopped(id), 5)
	s.logged(id, "one", "two", "one", "two")
}

// reopen does what a restart of the node does, with a while between its end and its beginning.
func (s *suite) reopen(while time.Duration) {
	if s.h.Close != nil {
		s.h.Close()
	}
	time.Sleep(while)
	s.rt = s.h.Reopen()
}
