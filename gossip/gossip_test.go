package gossip_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/gossip"
)

// inFakeTime runs f with a cluster in a bubble of its own.
func inFakeTime(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newCluster(t)) })
}

// record collects a node's events until the test ends.
func record(t *testing.T, n *node) func() []gossip.Event {
	_, ch := n.Watch(t.Context())
	var got []gossip.Event
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range ch {
			got = append(got, e)
		}
	}()
	t.Cleanup(func() { <-done })
	return func() []gossip.Event {
		synctest.Wait()
		return got
	}
}

func kindsOf(events []gossip.Event, id string) []gossip.EventKind {
	var out []gossip.EventKind
	for _, e := range events {
		if e.Member.ID == id {
			out = append(out, e.Kind)
		}
	}
	return out
}

func TestFiveNodesSoonNoticeADeadOne(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(5)
		victim, rest := all[4], all[:4]
		c.powerOff(victim)
		took := c.within(5*time.Second, "all others call it dead", func() bool {
			return !slices.ContainsFunc(rest, func(n *node) bool { return stateOf(n, victim.id) != gossip.Dead })
		})
		if took < 300*time.Millisecond || took > 3*time.Second {
			t.Errorf("took %v, want about 1 to 2 s", took)
		}
		t.Logf("noticed by all after %v", took)
		for _, n := range rest {
			m, _ := n.Member(victim.id)
			if age := time.Since(m.Since); age < 0 || age > took {
				t.Errorf("%s: dead since %v ago, the power went %v ago", n.id, age, took)
			}
			if m.Name != "node5" || m.Addr != victim.addr {
				t.Errorf("%s forgot who the dead one was: %+v", n.id, m)
			}
		}
	})
}

func TestSuspectComesBeforeDead(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(5)
		victim := all[2]
		var logs []func() []gossip.Event
		rest := slices.DeleteFunc(slices.Clone(all), func(n *node) bool { return n == victim })
		for _, n := range rest {
			logs = append(logs, record(t, n))
		}
		c.powerOff(victim)
		c.within(5*time.Second, "all others call it dead", func() bool {
			return !slices.ContainsFunc(rest, func(n *node) bool { return stateOf(n, victim.id) != gossip.Dead })
		})
		for i, events := range logs {
			var of []gossip.Event
			for _, e := range events() {
				if e.Member.ID == victim.id {
					of = append(of, e)
				}
			}
			if len(of) != 2 || of[0].Kind != gossip.Suspected || of[1].Kind != gossip.Died {
				t.Errorf("%s: events %v, want suspected, died", rest[i].id, of)
				continue
			}
			if gap := of[1].At.Sub(of[0].At); gap < 200*time.Millisecond {
				t.Errorf("%s: suspected only %v before died: routing gains nothing", rest[i].id, gap)
			}
			if late := of[0].At.Sub(of[0].Member.Since); late < 0 || late > 100*time.Millisecond {
				t.Errorf("%s: learnt of the suspicion %v late", rest[i].id, late)
			}
		}
	})
}

func TestASuspectThatAnswersIsRevived(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(5)
		events := record(t, all[0])
		c.powerOff(all[4])
		c.within(5*time.Second, "suspected", func() bool { return stateOf(all[0], all[4].id) == gossip.Suspect })
		c.net.SetDown(all[4].addr.Addr(), false)
		c.within(5*time.Second, "alive again", func() bool { return stateOf(all[0], all[4].id) == gossip.Alive })
		want := []gossip.EventKind{gossip.Suspected, gossip.Revived}
		if got := kindsOf(events(), all[4].id); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}

func TestHealedPartitionMergesAgain(t *testing.T) {
	for _, split := range []time.Duration{20 * time.Second, 2 * time.Minute} { // before and after memberlist drops the dead
		t.Run(split.String(), func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, c *cluster) {
				all := c.form(5)
				var addrs []string
				for _, n := range all {
					addrs = append(addrs, n.addr.String())
				}
				for _, n := range all {
					n.Rejoin(func() []string { return addrs })
				}
				c.net.Partition(hosts(all[:2]), hosts(all[2:]))
				time.Sleep(split)
				for _, n := range all[:2] {
					if got := stateOf(n, all[3].id); got != gossip.Dead {
						t.Fatalf("%s sees the other side %v during the partition", n.id, got)
					}
				}
				c.net.Heal()
				took := c.within(time.Minute, "one pool again", func() bool { return allAlive(all, 5) })
				t.Logf("merged %v after the cut healed", took)
			})
		})
	}
}

func TestWithoutRejoinTheHalvesStayApart(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(5)
		c.net.Partition(hosts(all[:2]), hosts(all[2:]))
		time.Sleep(time.Minute) // longer than the dead are gossiped to
		c.net.Heal()
		time.Sleep(5 * time.Minute)
		if allAlive(all, 5) {
			t.Error("memberlist merges by itself now: Rejoin may no longer be needed")
		}
	})
}

func TestStrangersCannotJoin(t *testing.T) {
	for name, change := range map[string]func(*gossip.Config){
		"wrong key":   func(cfg *gossip.Config) { cfg.Keys = [][]byte{otherKey} },
		"wrong label": func(cfg *gossip.Config) { cfg.Label = "cluster2" },
	} {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, c *cluster) {
				home := c.form(2)
				cfg := c.config(9)
				change(&cfg)
				stranger := c.start(cfg)
				if n, err := stranger.Join(t.Context(), []string{home[0].addr.String()}); n != 0 || err == nil {
					t.Errorf("join: reached %d, error %v", n, err)
				}
				time.Sleep(10 * time.Second)
				if len(home[0].Members()) != 2 || len(stranger.Members()) != 1 {
					t.Errorf("home sees %v, stranger sees %v", states(home[0]), states(stranger))
				}
			})
		})
	}
}

func TestLeavingIsNotDying(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(3)
		events := record(t, all[0])
		if err := all[2].Leave(time.Second); err != nil {
			t.Fatal(err)
		}
		all[2].stop()
		c.within(5*time.Second, "left", func() bool { return stateOf(all[0], all[2].id) == gossip.Left })
		time.Sleep(2 * time.Minute)
		if got := stateOf(all[1], all[2].id); got != gossip.Left {
			t.Errorf("later it counts as %v", got)
		}
		if got := kindsOf(events(), all[2].id); !slices.Equal(got, []gossip.EventKind{gossip.Departed}) {
			t.Errorf("events %v, want departed alone", got)
		}
	})
}

func TestTheDeadAreListedUntilForgotten(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(3)
		if all[0].Forget(all[2].id) {
			t.Error("a member that is here was forgotten")
		}
		c.powerOff(all[2])
		time.Sleep(5 * time.Minute) // memberlist itself forgets after half a minute
		if got := stateOf(all[0], all[2].id); got != gossip.Dead {
			t.Fatalf("minutes later: %v", got)
		}
		if !all[0].Forget(all[2].id) || len(all[0].Members()) != 2 {
			t.Errorf("not forgotten: %v", states(all[0]))
		}
	})
}

// A machine that lost power comes back with the same id, at the same or another address.
func TestANodeComesBack(t *testing.T) {
	for name, host := range map[string]int{"same address": 3, "other address": 33} {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, c *cluster) {
				all := c.form(3)
				events := record(t, all[0])
				c.powerOff(all[2])
				all[2].stop()
				c.within(10*time.Second, "dead", func() bool { return stateOf(all[0], all[2].id) == gossip.Dead })
				time.Sleep(10 * time.Second)
				c.net.SetDown(all[2].addr.Addr(), false)
				cfg := c.config(host)
				cfg.ID = all[2].id
				again := c.start(cfg)
				again.Rejoin(func() []string { return []string{all[0].addr.String(), all[1].addr.String()} })
				c.within(30*time.Second, "alive again everywhere", func() bool {
					return allAlive([]*node{all[0], all[1], again}, 3)
				})
				if m, _ := all[0].Member(cfg.ID); m.Addr != cfg.Advertise {
					t.Errorf("address %v, want %v", m.Addr, cfg.Advertise)
				}
				want := []gossip.EventKind{gossip.Suspected, gossip.Died, gossip.Joined}
				if got := kindsOf(events(), cfg.ID); !slices.Equal(got, want) {
					t.Errorf("events %v, want %v", got, want)
				}
			})
		})
	}
}

func TestASecondNodeWithATakenIDChangesNothing(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(3)
		cfg := c.config(9)
		cfg.ID = all[1].id
		impostor := c.start(cfg)
		_, _ = impostor.Join(t.Context(), []string{all[0].addr.String(), all[1].addr.String()})
		time.Sleep(30 * time.Second)
		m, _ := all[0].Member(cfg.ID)
		if m.Addr != all[1].addr || m.State != gossip.Alive {
			t.Errorf("the id now belongs to %v, %v", m.Addr, m.State)
		}
		if d := all[0].Describe().(gossip.Description); d.Conflicts == 0 {
			t.Error("the conflict was not counted")
		}
	})
}

func TestMetadataReachesAll(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(3)
		events := record(t, all[2])
		want := gossip.Meta{Name: "node1", Voter: "never", Zone: "rack-7", API: 3}
		if err := all[0].UpdateMeta(want); err != nil {
			t.Fatal(err)
		}
		c.within(5*time.Second, "all know", func() bool {
			m, _ := all[2].Member(all[0].id)
			own, _ := all[0].Member(all[0].id)
			return m.Meta == want && own.Meta == want
		})
		if got := kindsOf(events(), all[0].id); !slices.Equal(got, []gossip.EventKind{gossip.Updated}) {
			t.Errorf("events %v, want updated", got)
		}
		if err := all[0].UpdateMeta(gossip.Meta{Zone: strings.Repeat("z", 600)}); err == nil {
			t.Error("metadata of 600 bytes was accepted")
		}
	})
}

func TestKeysRotateWithoutASuspicion(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(3)
		events := record(t, all[0])
		for _, step := range []func(*node) error{
			func(n *node) error { return n.AddKey(otherKey) },
			func(n *node) error { return n.UseKey(otherKey) },
			func(n *node) error { return n.RemoveKey(clusterKey) },
		} {
			for _, n := range all {
				if err := step(n); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Minute)
		if got := events(); len(got) != 0 || !allAlive(all, 3) {
			t.Errorf("rotation was noticed: %v", got)
		}
		if keys := all[0].Keys(); len(keys) != 1 || !bytes.Equal(keys[0], otherKey) {
			t.Errorf("%d keys are left, want the new one alone", len(keys))
		}
		if err := all[0].RemoveKey(otherKey); err == nil {
			t.Error("the key in use was removed")
		}
	})
}

func TestRemovingAKeyInTheMiddleKeepsTheOthersInUse(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		n := c.start(c.config(1))
		third := bytes.Repeat([]byte{9}, gossip.KeySize)
		if err := errors.Join(n.AddKey(otherKey), n.AddKey(third), n.RemoveKey(otherKey)); err != nil {
			t.Fatal(err)
		}
		if got := n.Keys(); len(got) != 2 || !bytes.Equal(got[0], clusterKey) || !bytes.Equal(got[1], third) {
			t.Errorf("keys %x", got)
		}
	})
}

func TestASlowReaderLosesStepsButNotTheEnd(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(2)
		_, ch := all[0].Watch(t.Context()) // not read for long
		const updates = 1000
		for i := range updates {
			if err := all[1].UpdateMeta(gossip.Meta{Zone: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		seen, last := 0, ""
		for last != fmt.Sprint(updates-1) {
			select {
			case e := <-ch:
				seen++
				last = e.Member.Meta.Zone
			case <-time.After(time.Second):
				t.Fatalf("the final state is lost: the last of %d events is %q", seen, last)
			}
		}
		if seen > 300 {
			t.Errorf("%d events were kept for a reader that did not read", seen)
		}
	})
}

// Packets get lost on every network; the probe over a stream makes up for it.
func TestPacketLossKillsNobody(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(5)
		events := record(t, all[0])
		c.net.SetLoss(0.20)
		time.Sleep(2 * time.Minute)
		if sent, dropped := c.net.Stats(); dropped*10 < sent {
			t.Fatalf("void: only %d of %d packets were lost", dropped, sent)
		}
		for _, e := range events() {
			if e.Kind == gossip.Died {
				t.Errorf("%s died of packet loss", e.Member.ID)
			}
		}
		if !allAlive(all, 5) {
			t.Error("not all are alive")
		}
	})
}

func TestStopEndsEverything(t *testing.T) {
	inFakeTime(t, func(t *testing.T, c *cluster) {
		all := c.form(2)
		_, ch := all[0].Watch(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// A join that hangs: the other host is off. Stopping must not wait for its timeout.
		c.powerOff(all[1])
		joined := make(chan error, 1)
		go func() {
			_, err := all[0].Join(ctx, []string{all[1].addr.String()})
			joined <- err
		}()
		synctest.Wait()
		start := time.Now()
		all[0].stop()
		if err := <-joined; err == nil {
			t.Error("the join succeeded without a peer")
		}
		for range ch { // closed by the stop
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("stopping took %v", took)
		}
		if _, err := all[0].Join(ctx, []string{all[1].addr.String()}); !errors.Is(err, gossip.ErrStopped) {
			t.Errorf("join after stop: %v", err)
		}
		if err := all[0].Leave(time.Second); !errors.Is(err, gossip.ErrStopped) {
			t.Errorf("leave after stop: %v", err)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*gossip.Config){
		"no id":              func(c *gossip.Config) { c.ID = "" },
		"no key":             func(c *gossip.Config) { c.Keys = nil },
		"short key":          func(c *gossip.Config) { c.Keys = [][]byte{{1, 2, 3}} },
		"no label":           func(c *gossip.Config) { c.Label = "" },
		"long label":         func(c *gossip.Config) { c.Label = strings.Repeat("l", 256) },
		"wildcard advertise": func(c *gossip.Config) { c.Advertise = netip.MustParseAddrPort("0.0.0.0:6174") },
		"no sockets":         func(c *gossip.Config) { c.Packets = nil },
		"large meta":         func(c *gossip.Config) { c.Meta.Zone = strings.Repeat("z", 600) },
		"slow probe":         func(c *gossip.Config) { c.Timing.ProbeTimeout = time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, c *cluster) {
				cfg := c.config(1)
				change(&cfg)
				if _, err := gossip.New(cfg); err == nil {
					t.Error("accepted")
				}
			})
		})
	}
}
