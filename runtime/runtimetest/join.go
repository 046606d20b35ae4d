package runtimetest

import (
	"time"

	"shoal/runtime"
)

func testJoin(s *suite) {
	side := s.spec("sh", "-c", scriptForever) // removed after the one it joins, which must not hinder it
	main := s.spec("sh", "-c", scriptForever)
	side.Network = runtime.Joining(main.ID)
	if in := s.create(side); in.Address.IsValid() {
		s.Errorf("a container that joins another's network has address %v before it does", in.Address)
	}
	_, err := s.rt.Start(s.ctx, side.ID)
	s.wantErr(err, runtime.ErrBusy, "start of a container that joins one that is not there")
	s.create(main)
	_, err = s.rt.Start(s.ctx, side.ID)
	s.wantErr(err, runtime.ErrBusy, "start of a container that joins one that does not run")
	first := s.start(main.ID)
	if in := s.start(side.ID); in.Address != first.Address || in.Joined[main.ID] != 1 || len(in.Joined) != 1 {
		s.Errorf("joined: address %v (want %v), starts %v", in.Address, first.Address, in.Joined)
	}
	if err := s.rt.Stop(s.ctx, main.ID, 0); err != nil {
		s.Fatal(err)
	}
	if in := s.inspect(side.ID); in.State != runtime.Running {
		s.Errorf("it is %s when the container that it joins has ended; want that it goes on", in.State)
	}
	if second := s.start(main.ID); s.inspect(side.ID).Joined[main.ID] == second.Starts {
		s.Errorf("it seems to have joined start %d, which came later", second.Starts)
	}
	if err := s.rt.Stop(s.ctx, side.ID, 0); err != nil {
		s.Fatal(err)
	}
	if in := s.start(side.ID); in.Joined[main.ID] != 2 {
		s.Errorf("started anew it has joined %v, want start 2", in.Joined)
	}
}

func testJoinRefuses(s *suite) {
	for _, network := range []string{"else", "container"} {
		sp := s.spec("true")
		sp.Network = network
		_, err := s.rt.Create(s.ctx, sp)
		s.wantErr(err, runtime.ErrInvalid, "create with network "+network)
	}
	sp := s.spec("true")
	sp.Network, sp.Ports = runtime.NetworkNone, []runtime.Port{{ContainerPort: 80, Protocol: "tcp"}}
	_, err := s.rt.Create(s.ctx, sp)
	s.wantErr(err, runtime.ErrInvalid, "create with a port and no network")
}

func testNoAddress(s *suite) {
	for _, network := range []string{runtime.NetworkNone, runtime.NetworkHost} {
		sp := s.spec("sh", "-c", "sleep 0.1")
		sp.Network = network
		s.create(sp)
		if in := s.start(sp.ID); in.Address.IsValid() {
			s.Errorf("with network %s it has address %v", network, in.Address)
		}
	}
}

func testNoLog(s *suite) {
	sp := s.spec("sh", "-c", "echo unheard")
	sp.Log.None = true
	s.create(sp)
	s.start(sp.ID)
	s.eventually("stopped", func() bool { return s.inspect(sp.ID).State == runtime.Stopped })
	err := s.rt.Logs(s.ctx, sp.ID, runtime.LogQuery{Since: time.Time{}}, func(runtime.LogLine) error { return nil })
	s.wantErr(err, runtime.ErrInvalid, "logs of a container that keeps none")
}
