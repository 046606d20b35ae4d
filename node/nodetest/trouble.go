package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"shoal/consensus/job"
	"shoal/node/api"
	"shoal/runtime"
	"shoal/runtime/fake"
)

// fault does one random bad thing, and sees to it that it ends.
func (s *sim) fault() {
	table := s.faults()
	if s.more {
		table = append(table, s.moreFaults()...)
	}
	total := 0
	for _, f := range table {
		total += f.weight
	}
	x := s.r.IntN(total)
	for _, f := range table {
		if x -= f.weight; x < 0 {
			s.Counts[f.name]++
			f.do(s.victim())
			return
		}
	}
}

type namedFault struct {
	name   string
	weight int
	do     func(m *Machine)
}

// victim is any machine, the leader more often than its share.
func (s *sim) victim() *Machine {
	if l := s.believedLeader(); l != nil && s.r.IntN(3) == 0 {
		return l
	}
	return s.Machines[s.r.IntN(len(s.Machines))]
}

// believedLeader is a machine that takes itself for the leader, without asking the others.
func (s *sim) believedLeader() *Machine {
	for _, m := range s.Machines {
		if m.node != nil && m.node.Started() {
			if _, _, self, ok := m.node.Leader(); ok && self {
				return m
			}
		}
	}
	return nil
}

// idle tells whether a machine runs and nothing is planned for it.
func (s *sim) idle(m *Machine) bool {
	_, out := s.limbo[m]
	return !m.Off() && !out
}

func (s *sim) faults() []namedFault {
	return []namedFault{
		{"power off", 6, func(m *Machine) { s.powerOff(m, m.PowerOff, "power off, containers gone") }},
		{"power cut", 6, func(m *Machine) { s.powerOff(m, m.PowerCut, "power cut") }},
		{"agent stop", 4, func(m *Machine) {
			if !s.idle(m) {
				return
			}
			s.note("%s: agent stopped: %v", m.Name, m.StopAgent())
			s.after(0, time.Minute, func() { s.revive(m) })
		}},
		{"agent kill", 4, func(m *Machine) {
			if !s.idle(m) {
				return
			}
			s.note("%s: agent killed", m.Name)
			m.KillAgent()
			s.after(0, time.Minute, func() { s.revive(m) })
		}},
		{"all off", 1, func(*Machine) { s.allOff(len(s.Machines)) }},
		{"most off", 2, func(*Machine) { s.allOff(len(s.Machines)/2 + 1) }},
		{"isolate", 4, func(m *Machine) { s.partition([]*Machine{m}) }},
		{"split", 4, func(*Machine) { s.partition(s.some(1 + s.r.IntN(len(s.Machines)-1))) }},
		{"one way", 3, func(m *Machine) { s.oneWay(m) }},
		{"pair", 3, func(m *Machine) { s.pair(m) }},
		{"bridge", 3, func(m *Machine) { s.bridge(m) }},
		{"no streams", 3, func(m *Machine) { s.noStreams(m) }},
		{"loss", 4, func(*Machine) { s.loss() }},
		{"latency", 2, func(*Machine) {
			d := time.Duration(s.r.IntN(30)) * time.Millisecond
			s.note("latency %v", d)
			s.Net.SetLatency(d)
		}},
		{"reset", 2, func(m *Machine) { s.note("%s: streams reset", m.Name); s.Net.Reset(m.Addr.Addr()) }},
		{"exit", 8, s.exit},
		{"unhealthy", 2, s.unhealthy},
		{"removed container", 2, func(m *Machine) {
			if id, ok := s.container(m); ok {
				s.note("%s: container %s removed by somebody", m.Name, id)
				_ = m.Runtime.Remove(s.t.Context(), id) // it may be gone
			}
		}},
		{"failing calls", 6, s.failing},
		{"lost events", 2, func(m *Machine) { s.note("%s: events lost", m.Name); m.Runtime.LoseEvents() }},
		{"slow disk", 3, func(m *Machine) {
			d := time.Duration(1+s.r.IntN(300)) * time.Millisecond
			s.note("%s: disk slower by %v", m.Name, d)
			m.Slow(d)
			s.after(time.Second, time.Minute, func() { m.Slow(0) })
		}},
		{"hanging disk", 2, func(m *Machine) {
			d := time.Duration(1+s.r.IntN(15)) * time.Second
			s.note("%s: disk hangs for %v", m.Name, d)
			m.Hang(d)
		}},
		{"drain", 5, s.drain},
		{"label", 2, func(m *Machine) {
			zone := string(rune('a' + s.r.IntN(2)))
			s.admin("label "+m.Name+" zone="+zone, func(ctx context.Context, c *api.Client) error {
				return c.SetLabels(ctx, m.Name, map[string]string{"zone": zone})
			})
		}},
		{"come anew", 3, s.leaveForGood},
	}
}

func (s *sim) some(n int) []*Machine {
	out := make([]*Machine, 0, n)
	for _, i := range s.r.Perm(len(s.Machines))[:n] {
		out = append(out, s.Machines[i])
	}
	return out
}

func (s *sim) powerOff(m *Machine, how func(), what string) {
	if !s.idle(m) {
		return
	}
	s.note("%s: %s", m.Name, what)
	how()
	s.after(0, 2*time.Minute, func() { s.revive(m) })
}

// revive brings a machine and its agent back, if nothing else did.
func (s *sim) revive(m *Machine) {
	if _, out := s.limbo[m]; out || !m.Off() {
		return
	}
	s.note("%s: back", m.Name)
	m.PowerOn()
}

func (s *sim) allOff(n int) {
	ms := s.some(n)
	s.note("%d machines off at once", n)
	ms = slices.DeleteFunc(ms, func(m *Machine) bool { return !s.idle(m) })
	for _, m := range ms {
		s.Net.SetDown(m.Addr.Addr(), true)
	}
	for _, m := range ms {
		m.PowerCut()
		s.after(0, time.Minute, func() { s.revive(m) })
	}
}

func (s *sim) healLater(what string) {
	s.note("%s", what)
	s.after(200*time.Millisecond, time.Minute, func() { s.note("network heals"); s.Net.Heal() })
}

func (s *sim) partition(ms []*Machine) {
	s.Net.Partition(addrs(ms))
	s.healLater(fmt.Sprintf("cut off together: %v", names(ms)))
}

func names(ms []*Machine) (out []string) {
	for _, m := range ms {
		out = append(out, m.Name)
	}
	return out
}

// oneWay makes a machine that cannot be heard, or cannot hear.
func (s *sim) oneWay(m *Machine) {
	mute := s.r.IntN(2) == 0
	for _, o := range s.Machines {
		if o != m && mute {
			s.Net.Cut(m.Addr.Addr(), o.Addr.Addr())
		} else if o != m {
			s.Net.Cut(o.Addr.Addr(), m.Addr.Addr())
		}
	}
	s.healLater(fmt.Sprintf("%s cut one way (mute: %v)", m.Name, mute))
}

func (s *sim) pair(m *Machine) {
	if o := s.Machines[s.r.IntN(len(s.Machines))]; o != m {
		s.cutPair(m, o)
		s.healLater(fmt.Sprintf("cut between %s and %s", m.Name, o.Name))
	}
}

// bridge leaves one machine that reaches two halves which do not reach each other.
func (s *sim) bridge(m *Machine) {
	var a, b []*Machine
	for i, o := range s.some(len(s.Machines)) {
		switch {
		case o == m:
		case i%2 == 0:
			a = append(a, o)
		default:
			b = append(b, o)
		}
	}
	for _, x := range a {
		for _, y := range b {
			s.cutPair(x, y)
		}
	}
	s.healLater(fmt.Sprintf("bridge %s between %v and %v", m.Name, names(a), names(b)))
}

// noStreams cuts a machine off for streams while packets pass.
func (s *sim) noStreams(m *Machine) {
	for _, o := range s.Machines {
		if o != m {
			s.Net.CutStreams(m.Addr.Addr(), o.Addr.Addr())
			s.Net.CutStreams(o.Addr.Addr(), m.Addr.Addr())
		}
	}
	s.healLater(m.Name + " has no streams")
}

func (s *sim) loss() {
	p := float64(1+s.r.IntN(30)) / 100
	s.note("loss %.2f", p)
	s.Net.SetLoss(p)
	s.Net.SetStreamLoss(p)
	s.after(time.Second, time.Minute, func() {
		s.note("no loss")
		s.Net.SetLoss(0)
		s.Net.SetStreamLoss(0)
	})
}

func (s *sim) containers(m *Machine) (ids []runtime.ID) {
	list, err := m.Runtime.List(s.t.Context())
	if err != nil {
		return nil // a scripted failure
	}
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids
}

func (s *sim) container(m *Machine) (runtime.ID, bool) {
	ids := s.containers(m)
	if len(ids) == 0 {
		return "", false
	}
	return ids[s.r.IntN(len(ids))], true
}

func (s *sim) exit(m *Machine) {
	for range 1 + s.r.IntN(3) {
		id, ok := s.container(m)
		if !ok {
			return
		}
		if code := s.r.IntN(3); code == 2 {
			s.note("%s: %s out of memory: %v", m.Name, id, m.Runtime.OOM(id))
		} else {
			s.note("%s: %s exits with %d: %v", m.Name, id, code, m.Runtime.Exit(id, code))
		}
	}
}

func (s *sim) unhealthy(m *Machine) {
	id, ok := s.container(m)
	if !ok {
		return
	}
	s.note("%s: %s unhealthy", m.Name, id)
	m.Runtime.Health(id, 1, "unwell")
	s.after(time.Second, time.Minute, func() { m.Runtime.Health(id, 0, "well") })
}

// failing makes the next few calls of one kind fail.
func (s *sim) failing(m *Machine) {
	call := []fake.Call{fake.CallPull, fake.CallCreate, fake.CallStart, fake.CallStop, fake.CallRemove}[s.r.IntN(5)]
	err := []error{runtime.ErrNoSpace, runtime.ErrBusy, runtime.ErrNotFound, runtime.ErrInvalid, errors.New("something odd")}[s.r.IntN(5)]
	if (call == fake.CallRemove || call == fake.CallStop) && errors.Is(err, runtime.ErrNotFound) {
		err = runtime.ErrBusy // that would be a lie
	}
	n := 1 + s.r.IntN(6)
	s.note("%s: the next %d of %s fail: %v", m.Name, n, call, err)
	m.Runtime.FailNext(call, "", n, err)
}

// drain closes a node for tasks, or opens it again.
func (s *sim) drain(m *Machine) {
	drained := s.r.IntN(2) == 0
	s.admin(fmt.Sprintf("drain %s: %v", m.Name, drained), func(ctx context.Context, c *api.Client) error {
		if !drained {
			return c.Activate(ctx, m.Name)
		}
		if s.extra.IntN(3) == 0 {
			within := time.Duration(s.extra.IntN(20)) * time.Second
			return c.Drain(ctx, m.Name, &within)
		}
		return c.Drain(ctx, m.Name, nil)
	})
}

// admin asks for something whose outcome need not be known.
func (s *sim) admin(what string, f func(context.Context, *api.Client) error) error {
	c, _ := s.client()
	if c == nil {
		return errors.New("no agent runs")
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	err := f(ctx, c)
	s.note("%s: %v", what, err)
	return err
}

// leaveForGood takes a machine away with its disk; it is to be removed from the cluster and to come back as another node.
func (s *sim) leaveForGood(m *Machine) {
	if !s.idle(m) || len(s.limbo) > 0 || !s.spare() {
		return
	}
	s.note("%s: off, and its disk is replaced", m.Name)
	m.PowerOff()
	m.Wipe()
	s.limbo[m] = m.Name
	s.comeAnewLater(m)
}

// spare tells whether the loss of one disk leaves a majority of the votes: without it no cluster can come right. A voter
// that was removed is not in the list, though raft may still count it.
func (s *sim) spare() bool {
	l := s.Leader()
	if l == nil {
		return false
	}
	list, err := l.node.Nodes(s.t.Context())
	voters := 0
	for _, n := range list.Nodes {
		if n.Role == "voter" && n.State == job.NodeReady {
			voters++
		}
	}
	return err == nil && voters >= 3
}

func (s *sim) comeAnewLater(m *Machine) {
	s.after(time.Second, time.Minute, func() {
		if name, out := s.limbo[m]; out && !s.comeAnew(m, name) {
			s.comeAnewLater(m)
		}
	})
}

// comeAnew tries to have the old node removed and the machine join; true when it is a member.
func (s *sim) comeAnew(m *Machine, name string) bool {
	if !m.Off() {
		return false // on its way
	}
	err := s.admin("remove node "+name, func(ctx context.Context, c *api.Client) error { return c.RemoveNode(ctx, name, true) })
	if err != nil && job.KindOf(err) != job.NotFound {
		return false
	}
	var token api.TokenCreated
	err = s.admin("token for "+name, func(ctx context.Context, c *api.Client) (err error) {
		token, err = c.CreateToken(ctx, api.TokenRequest{})
		return err
	})
	if err != nil {
		return false
	}
	var via []string
	for _, o := range s.Machines {
		if o != m {
			via = append(via, o.Addr.String())
		}
	}
	rand.Shuffle(len(via), func(i, j int) { via[i], via[j] = via[j], via[i] })
	m.Join(via, token.Secret)
	return false
}
