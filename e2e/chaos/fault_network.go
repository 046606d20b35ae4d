package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"shoal/e2e/machines"
)

// networkFaults hit what passes the switch.
var networkFaults = []Fault{
	{Name: "isolate", Weight: 4, Class: "net", Play: isolate},
	{Name: "split", Weight: 4, Class: "net", Play: split},
	{Name: "long-split", Class: "net", Slow: true, Play: longSplit}, // only by name: for chaos-controls
	{Name: "bridge", Weight: 3, Class: "net", Play: bridge},
	{Name: "one-way", Weight: 3, Class: "net", Play: oneWay},
	{Name: "pair", Weight: 3, Class: "net", Play: pair},
	{Name: "only-udp", Weight: 2, Class: "net", Play: onlyOf("UDP", machines.OnlyUDP)},
	{Name: "only-tcp", Weight: 2, Class: "net", Play: onlyOf("TCP", machines.OnlyTCP)},
	{Name: "loss", Weight: 3, Class: "net", Play: loss},
	{Name: "resets", Weight: 2, Class: "net", Play: resets},
	{Name: "black-hole", Weight: 2, Class: "net", Play: blackHole},
}

// cutFor is for how long the network may be broken.
func cutFor(w *World, r *rand.Rand) time.Duration {
	return w.Hold(r, 300*time.Millisecond, 40*time.Second)
}

// troubled makes the Broken of a fault of the network.
func troubled(t *machines.Trouble, err error, what string, span time.Duration, on ...*machines.Machine) (*Broken, error) {
	if err != nil {
		return nil, err
	}
	return &Broken{
		What: what, For: span, On: on,
		Acted: func() error {
			hits, err := t.Hits()
			if err == nil && hits == 0 {
				err = errors.New("no frame met it")
			}
			return err
		},
		End: func(context.Context) error { return t.End() },
		// Who hears nobody for long enough is called down, and who that is, is for the others to agree on.
		Allows: Allowance{MovesAll: span > shortOutage},
	}, nil
}

// isolate cuts one machine off from all others.
func isolate(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span := cutFor(w, r)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	t, err := w.Net.Make(machines.Split("", []*machines.Machine{m}, allBut(w.Machines(), m)))
	b, err := troubled(t, err, m.Name+" is cut off from all", span, m)
	if err == nil && span > shortOutage {
		b.Allows = Allowance{Moves: b.On}
	}
	return b, err
}

func allBut(all []*machines.Machine, not ...*machines.Machine) []*machines.Machine {
	var out []*machines.Machine
next:
	for _, m := range all {
		for _, n := range not {
			if m == n {
				continue next
			}
		}
		out = append(out, m)
	}
	return out
}

func called(ms []*machines.Machine) (s string) {
	for _, m := range ms {
		s += " " + m.Name
	}
	return s[min(1, len(s)):]
}

// shuffled are all machines in a random order.
func shuffled(w *World, r *rand.Rand) []*machines.Machine {
	all := w.Machines()
	r.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	return all
}

// split makes two halves that do not hear each other. Clients keep to the larger one.
func split(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span, all := cutFor(w, r), shuffled(w, r)
	few, many := all[:2], all[2:]
	if !free(w, few...) {
		return nil, ErrNotNow
	}
	t, err := w.Net.Make(machines.Split("", few, many))
	b, err := troubled(t, err, fmt.Sprintf("%s | %s", called(few), called(many)), span, few...)
	if err == nil {
		b.Allows.NoQuorum = true
	}
	return b, err
}

// longSplit is a split that lasts until the halves have given each other up.
func longSplit(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	b, err := split(ctx, w, r)
	if err == nil {
		b.For = 75 * time.Second
	}
	return b, err
}

// bridge makes two halves of which one machine hears both.
func bridge(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span, all := cutFor(w, r), shuffled(w, r)
	t, err := w.Net.Make(machines.Split("", all[:2], all[3:]))
	b, err := troubled(t, err, fmt.Sprintf("%s | %s, and %s hears both", called(all[:2]), called(all[3:]), all[2].Name), span)
	if err == nil {
		b.Allows.NoQuorum = true
	}
	return b, err
}

// oneWay drops what one machine says to another, or to all others.
func oneWay(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span, toAll, back := cutFor(w, r), r.IntN(2) == 0, r.IntN(2) == 0
	a, b, err := w.PickTwo(r)
	if err != nil {
		return nil, err
	}
	others := []*machines.Machine{b}
	if toAll {
		others = allBut(w.Machines(), a)
	}
	var rules machines.Rules
	for _, o := range others {
		if back {
			rules = rules.And(machines.OneWay(o, a, ""))
		} else {
			rules = rules.And(machines.OneWay(a, o, ""))
		}
	}
	what := fmt.Sprintf("%s does not hear %s", called(others), a.Name)
	if back {
		what = fmt.Sprintf("%s does not hear %s", a.Name, called(others))
	}
	t, err := w.Net.Make(rules)
	return troubled(t, err, what, span, a)
}

// pair cuts two machines off from each other only.
func pair(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span := cutFor(w, r)
	a, b, err := w.PickTwo(r)
	if err != nil {
		return nil, err
	}
	t, err := w.Net.Make(machines.Pair(a, b, ""))
	return troubled(t, err, fmt.Sprintf("%s and %s do not hear each other", a.Name, b.Name), span)
}

// onlyOf drops one protocol between a machine and all others.
func onlyOf(name, match string) func(context.Context, *World, *rand.Rand) (*Broken, error) {
	return func(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
		span := cutFor(w, r)
		m, err := w.Pick(r)
		if err != nil {
			return nil, err
		}
		t, err := w.Net.Make(machines.Split(match, []*machines.Machine{m}, allBut(w.Machines(), m)))
		return troubled(t, err, fmt.Sprintf("%s is cut off by %s from all", m.Name, name), span, m)
	}
}

// loss drops 1 to 30 % of everything.
func loss(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span, percent := w.Hold(r, time.Second, 40*time.Second), 1+r.IntN(30)
	t, err := w.Net.Make(machines.Lossy(percent))
	b, err := troubled(t, err, fmt.Sprintf("%d %% of all packets are lost", percent), span)
	if err == nil {
		b.Allows.NoQuorum = true
	}
	return b, err
}

// resets breaks the connections of a machine all the time.
func resets(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span, perMille := w.Hold(r, time.Second, 30*time.Second), 1<<r.IntN(8)
	perMille = max(perMille, int(30*time.Second/span)) // else a short one may meet no packet: there are some 300 a second
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	t, err := w.Net.Resets(m, perMille)
	return troubled(t, err, fmt.Sprintf("%d in 1000 of the TCP packets to %s are answered with a reset", perMille, m.Name), span, m)
}

// blackHole drops what is large from and to a machine, without a word.
func blackHole(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	span, limit := w.Hold(r, time.Second, 30*time.Second), 400+r.IntN(900)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	t, err := w.Net.Make(machines.BlackHole(m, limit))
	return troubled(t, err, fmt.Sprintf("packets over %d bytes from and to %s are lost", limit, m.Name), span, m)
}

// free tells whether none of the machines is under a fault.
func free(w *World, ms ...*machines.Machine) bool { return len(allBut(ms, w.Free()...)) == 0 }
