package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"shoal/e2e/machines"
	"shoal/node/api"
)

// joinFaults hit who a machine is: its disk, its name, its address, its vote, its build.
var joinFaults = []Fault{
	{Name: "wiped", Weight: 2, Alone: true, Slow: true, Play: wiped},
	{Name: "old-disk", Weight: 2, Alone: true, Slow: true, Play: oldDisk},
	{Name: "cloned-disk", Weight: 2, Slow: true, Play: clonedDisk},
	{Name: "same-name", Weight: 1, Slow: true, Play: sameName},
	{Name: "new-address", Weight: 1, Alone: true, Slow: true, Play: newAddress},
	{Name: "replace-voter", Weight: 3, Slow: true, Play: replaceVoter},
	{Name: "upgrade", Weight: 1, Alone: true, Slow: true, Play: upgrade},
}

// joinAnew brings a machine in as a new node, as an admin would whose old one is lost: the old node is removed, the disk
// emptied, and a token made. The machine is on and its agent does not run.
func joinAnew(ctx context.Context, w *World, m *machines.Machine) error {
	if err := m.Wipe(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	for {
		var token api.TokenCreated
		var peer string
		err = w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
			list, err := c.Nodes(ctx)
			if err != nil {
				return err
			}
			for _, n := range list.Nodes {
				if n.Name == m.Name {
					if err := c.RemoveNode(ctx, n.Name, true); err != nil {
						return err
					}
				} else {
					peer = n.Addr.String()
				}
			}
			token, err = c.CreateToken(ctx, api.TokenRequest{})
			return err
		})
		if err == nil {
			return m.Start("--join", peer, "--token", token.Secret)
		}
		if Sleep(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("bring %s in anew: %w", m.Name, err)
		}
	}
}

// wiped cuts the power of a machine and gives it an empty disk.
func wiped(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off := w.Hold(r, 100*time.Millisecond, 20*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	return replaced(w, m, "the disk of "+m.Name+" is lost, and it joins anew", off)
}

func replaced(w *World, m *machines.Machine, what string, off time.Duration) (*Broken, error) {
	b, err := cutPower(what, off, m)
	if err != nil {
		return nil, err
	}
	b.Allows.Gone = b.On
	b.End = func(ctx context.Context) error {
		if err := m.PowerOn(); err != nil {
			return err
		}
		return joinAnew(ctx, w, m)
	}
	return b, nil
}

// replaceVoter does the same to one who votes, also during another fault.
func replaceVoter(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off, k := w.Hold(r, 0, 12*time.Second), r.IntN(1<<16)
	voters := w.voters(ctx)
	if len(voters) == 0 {
		return nil, ErrNotNow
	}
	m := voters[k%len(voters)]
	return replaced(w, m, m.Name+", which votes, is replaced", off)
}

// voters are the free machines that vote.
func (w *World) voters(ctx context.Context) (out []*machines.Machine) {
	for _, m := range w.Free() {
		if v, err := w.NodeView(ctx, m); err == nil && v.Role == "voter" {
			out = append(out, m)
		}
	}
	return out
}

// oldDisk puts a disk's earlier content back, after the machine was off for so long that it votes no more.
func oldDisk(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	between := w.Hold(r, time.Second, 10*time.Second)
	m, err := w.Pick(r)
	if err != nil {
		return nil, err
	}
	if _, err := m.PowerCut(); err != nil {
		return nil, err
	}
	backup := filepath.Join(w.Scratch, "backup-"+m.Name)
	if err := errors.Join(m.CopyDisk(backup), switchOn(m)); err != nil {
		return nil, err
	}
	if err := errors.Join(m.AwaitReady(patience), Sleep(ctx, between)); err != nil {
		return nil, err
	}
	b, err := cutPower("the disk of "+m.Name+" is as it was some time ago", 0, m)
	if err != nil {
		return nil, err
	}
	for begun := time.Now(); ; {
		v, err := w.viewWithout(ctx, m)
		if err == nil && v.Role != "voter" {
			break
		}
		if time.Since(begun) > patience {
			return nil, fmt.Errorf("%s is off and votes for ever: %v", m.Name, err)
		}
		if err := Sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
	b.Allows.Gone = b.On
	b.End = func(context.Context) error {
		return errors.Join(m.RestoreDisk(backup), os.RemoveAll(backup), switchOn(m))
	}
	return b, nil
}

// viewWithout is NodeView, asked of the others.
func (w *World) viewWithout(ctx context.Context, m *machines.Machine) (api.NodeView, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return w.NodeView(ctx, m)
}

// aside lets a machine start with another's identity: its own disk waits meanwhile. It must be refused, and then it is
// itself again.
func aside(ctx context.Context, w *World, m *machines.Machine, what string, prepare func() error, args []string, wants string) (*Broken, error) {
	b, err := cutPower(what, 0, m)
	if err != nil {
		return nil, err
	}
	own := m.DataDir() + ".own"
	back := func() error {
		if m.Running() {
			if err := endAgent(m, syscall.SIGKILL); err != nil {
				return err
			}
		}
		// Whatever the other identity started is gone with the power.
		return errors.Join(m.PowerOff(), m.Wipe(), os.Rename(own, m.DataDir()), switchOn(m))
	}
	if err := os.Rename(m.DataDir(), own); err != nil {
		return nil, err
	}
	if err := errors.Join(prepare(), m.PowerOn()); err != nil {
		return nil, errors.Join(err, back())
	}
	before, _ := os.ReadFile(m.LogPath()) // there may be none yet
	if err := m.Start(args...); err != nil {
		return nil, errors.Join(err, back())
	}
	_, lives := m.AwaitEnd(patience)
	after, err := os.ReadFile(m.LogPath())
	b.Acted = func() error {
		const promise = "who comes with another's identity is refused, and told why"
		switch {
		case err != nil:
			return err
		case lives != nil:
			return notKept{promise, lives.Error()}
		case !strings.Contains(string(after[len(before):]), wants):
			return notKept{promise, fmt.Sprintf("it ended without a word of %q: %s", wants, after[len(before):])}
		}
		return nil
	}
	b.End = func(context.Context) error { return back() }
	return b, nil
}

// clonedDisk starts a copy of one machine's disk on another.
func clonedDisk(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	a, b, err := w.PickTwo(r)
	if err != nil {
		return nil, err
	}
	return aside(ctx, w, a, fmt.Sprintf("%s is started with a copy of the disk of %s", a.Name, b.Name), func() error {
		return b.CloneDisk(a.DataDir())
	}, nil, b.Name)
}

// sameName starts an empty machine under the name of one that is there.
func sameName(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	a, b, err := w.PickTwo(r)
	if err != nil {
		return nil, err
	}
	var token api.TokenCreated
	err = w.Ask(ctx, func(ctx context.Context, c *api.Client) (err error) {
		token, err = c.CreateToken(ctx, api.TokenRequest{})
		return err
	})
	if err != nil {
		return nil, ErrNotNow
	}
	args := []string{"--name", b.Name, "--join", b.Addr.String() + ":6174", "--token", token.Secret}
	return aside(ctx, w, a, fmt.Sprintf("%s is started empty under the name of %s", a.Name, b.Name), func() error { return nil }, args, b.Name)
}

// newAddress gives a machine an address that was another's before, or never anybody's.
func newAddress(_ context.Context, w *World, r *rand.Rand) (*Broken, error) {
	off, swap := w.Hold(r, 100*time.Millisecond, 15*time.Second), r.IntN(2) == 0
	fresh := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + r.IntN(100))})
	a, b, err := w.PickTwo(r)
	if err != nil {
		return nil, err
	}
	if !swap {
		br, err := cutPower(fmt.Sprintf("%s moves to address %v", a.Name, fresh), off, a)
		if err == nil {
			a.Addr = fresh
		}
		return br, err
	}
	br, err := cutPower(fmt.Sprintf("%s and %s exchange their addresses", a.Name, b.Name), off, a, b)
	if err == nil {
		a.Addr, b.Addr = b.Addr, a.Addr
		br.Allows.NoQuorum = true
	}
	return br, err
}

// upgrade restarts all agents, one after the other, on another build, and at the next time on the first one again.
func upgrade(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	pause := w.Hold(r, 0, 2*time.Second)
	if w.Next == "" || !free(w, w.Machines()...) {
		return nil, ErrNotNow
	}
	all := w.Machines()
	next := w.Next
	if all[0].Options.Binary == next {
		next = w.Net.Binary()
	}
	for _, m := range all {
		if err := endAgent(m, syscall.SIGTERM); err != nil {
			return nil, err
		}
		m.Options.Binary = next
		if err := errors.Join(m.Start(), m.AwaitReady(patience), Sleep(ctx, pause)); err != nil {
			return nil, err
		}
	}
	return &Broken{
		What: "all agents are restarted on another build, one by one",
		Acted: func() error {
			s, err := w.status(all[0])
			if want := next == w.Next; err == nil && (s.Version == NextVersion) != want {
				err = fmt.Errorf("%s runs version %s", all[0].Name, s.Version)
			}
			return err
		},
		End:    func(context.Context) error { return nil },
		Allows: Allowance{Moves: all},
	}, nil
}
