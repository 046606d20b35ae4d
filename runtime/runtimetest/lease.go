package runtimetest

import (
	"errors"
	"time"

	"shoal/runtime"
)

// Times of leases in the suite: lease is long enough for a start on a busy machine.
const (
	lease    = 3 * time.Second
	leaseDue = lease + patience // by then the container has ended
)

func (s *suite) leased(script string) runtime.Spec {
	sp := s.spec("sh", "-c", script)
	sp.Lease = lease
	s.create(sp)
	return sp
}

func (s *suite) renew(id runtime.ID, left time.Duration) time.Duration {
	s.Helper()
	until := s.rt.Boot() + left
	if err := s.rt.Renew(s.ctx, id, until); err != nil {
		s.Fatal(err)
	}
	return until
}

func testLeaseStart(s *suite) {
	sp := s.leased(scriptForever)
	if _, err := s.rt.Start(s.ctx, sp.ID); !errors.Is(err, runtime.ErrConflict) {
		s.Errorf("start without a lease: %v", err)
	}
	if err := s.rt.Renew(s.ctx, sp.ID, s.rt.Boot()-time.Second); err != nil {
		s.Fatal(err)
	}
	if _, err := s.rt.Start(s.ctx, sp.ID); !errors.Is(err, runtime.ErrConflict) {
		s.Errorf("start with a lease that has ended: %v", err)
	}
	if in := s.inspect(sp.ID); in.State != runtime.Created || in.Starts != 0 {
		s.Errorf("after refused starts: %+v", in)
	}
	s.renew(sp.ID, leaseDue)
	s.start(sp.ID)
}

func testLeaseEnds(s *suite) {
	sp := s.leased("trap '' TERM; " + scriptForever)
	until := s.renew(sp.ID, lease)
	s.start(sp.ID)
	if err := s.rt.Renew(s.ctx, sp.ID, until-lease/2); err != nil { // an older one changes nothing
		s.Fatal(err)
	}
	in := s.stopped(sp.ID)
	if now := s.rt.Boot(); now < until {
		s.Errorf("it ended %v before its lease", until-now)
	}
	if in.ExitCode != 137 || in.Error == "" {
		s.Errorf("a lease ended it, and it says %+v", in)
	}
	if _, err := s.rt.Start(s.ctx, sp.ID); !errors.Is(err, runtime.ErrConflict) {
		s.Errorf("started again without a new lease: %v", err)
	}
	s.renew(sp.ID, leaseDue)
	if in := s.start(sp.ID); in.Starts != 2 {
		s.Errorf("started again: %+v", in)
	}
}

func testLeaseRenewed(s *suite) {
	sp := s.leased(scriptForever)
	s.renew(sp.ID, lease)
	s.start(sp.ID)
	end := s.renew(sp.ID, 2*lease)
	time.Sleep(lease + lease/3)
	if in := s.inspect(sp.ID); s.rt.Boot() < end && in.State != runtime.Running {
		s.Errorf("it ended although its lease was renewed: %+v", in)
	}
	s.stopped(sp.ID)
	if now := s.rt.Boot(); now < end {
		s.Errorf("it ended %v before its lease", end-now)
	}
}

func testLeaseErrors(s *suite) {
	if err := s.rt.Renew(s.ctx, "nobody", s.rt.Boot()+lease); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("renew of nothing: %v", err)
	}
	sp := s.spec("sh", "-c", scriptForever)
	s.create(sp)
	if err := s.rt.Renew(s.ctx, sp.ID, s.rt.Boot()+lease); !errors.Is(err, runtime.ErrConflict) {
		s.Errorf("renew of what has no lease: %v", err)
	}
	ended := s.leased("exit 4")
	s.renew(ended.ID, leaseDue)
	s.start(ended.ID)
	s.wantExit(s.stopped(ended.ID), 4) // its lease does not change how it ends by itself
}
