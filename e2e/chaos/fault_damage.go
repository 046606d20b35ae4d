package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"shoal/e2e/machines"
)

// damageFaults spoil what is on a disk.
var damageFaults = []Fault{
	{Name: "flip", Weight: 2, Alone: true, Slow: true, Play: damage("bits flip", flip)},
	{Name: "truncate", Weight: 2, Alone: true, Slow: true, Play: damage("the end is cut off", truncate)},
	{Name: "lost-log", Weight: 2, Alone: true, Slow: true, Play: lostLog},
}

// damage spoils the log or a snapshot of a machine that is off. When it comes back it must have noticed: it heals from its
// peers, or it refuses to start and says why; then it joins anew.
func damage(how string, spoil func(*rand.Rand, string) error) func(context.Context, *World, *rand.Rand) (*Broken, error) {
	return func(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
		off, seed := w.Hold(r, 0, 10*time.Second), r.Uint64()
		m, err := w.Pick(r)
		if err != nil {
			return nil, err
		}
		files := raftFiles(m)
		if len(files) == 0 {
			return nil, ErrNotNow
		}
		b, err := cutPower("", off, m)
		if err != nil {
			return nil, err
		}
		r = rand.New(rand.NewPCG(seed, 4)) // how many draws it takes depends on the file
		if files = raftFiles(m); len(files) == 0 {
			return nil, errors.Join(errors.New("its log is gone with the power"), b.End(ctx))
		}
		file := files[r.IntN(len(files))]
		b.What = fmt.Sprintf("%s in %s of %s", how, filepath.Base(file), m.Name)
		if err := spoil(r, file); err != nil {
			return nil, err
		}
		b.Allows.Gone = b.On
		b.End = func(ctx context.Context) error { return startOrJoinAnew(ctx, w, m) }
		return b, nil
	}
}

// startOrJoinAnew switches a machine on whose disk may be unusable. An agent that ends by itself joins anew, if it says
// what is wrong.
func startOrJoinAnew(ctx context.Context, w *World, m *machines.Machine) error {
	before, err := os.ReadFile(m.LogPath())
	if err != nil {
		return err
	}
	if err := switchOn(m); err != nil {
		return err
	}
	if err := m.AwaitReady(patience); err == nil {
		return nil
	}
	if m.Running() {
		return nil // the run finds out what it waits for
	}
	after, err := os.ReadFile(m.LogPath())
	if err != nil {
		return err
	}
	w.Log("     %s refuses its disk: %s", m.Name, lastLine(after[len(before):]))
	return joinAnew(ctx, w, m)
}

func lastLine(b []byte) string {
	end := len(b)
	for end > 0 && b[end-1] == '\n' {
		end--
	}
	begin := end
	for begin > 0 && b[begin-1] != '\n' {
		begin--
	}
	return string(b[begin:end])
}

// raftFiles are the log and the snapshots' files of a machine.
func raftFiles(m *machines.Machine) []string {
	var out []string
	dir := filepath.Dir(raftFile(m))
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error { // what cannot be read is left out
		if err == nil && d.Type().IsRegular() {
			base := filepath.Base(p)
			if info, err := d.Info(); err == nil && info.Size() > 0 && (base == "raft.db" || filepath.Dir(p) != dir) {
				out = append(out, p)
			}
		}
		return nil
	})
	slices.Sort(out)
	return out
}

// flip turns a few bits over.
func flip(r *rand.Rand, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for range 1 + r.IntN(64) {
		at := r.Int64N(info.Size())
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		b[0] ^= 1 << r.IntN(8)
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// truncate cuts a file off somewhere.
func truncate(r *rand.Rand, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, r.Int64N(info.Size()))
}

// lostLog is the classic way to lose what was acknowledged: one voter is cut off and lags; of the two that know all, one
// stays off and the other comes back without its log, under its old id. Together with the one that lags it is a majority,
// and must not act as one.
func lostLog(ctx context.Context, w *World, r *rand.Rand) (*Broken, error) {
	k := r.IntN(2)
	voters := w.voters(ctx)
	leader := w.Leader()
	if len(voters) != 3 || !slices.Contains(voters, leader) {
		return nil, ErrNotNow
	}
	others := allBut(voters, leader)
	lags, loses := others[k], others[1-k]
	cut, err := w.Net.Make(machines.Split("", []*machines.Machine{lags}, allBut(w.Machines(), lags)))
	if err != nil {
		return nil, err
	}
	if err := Sleep(ctx, 3*time.Second); err != nil { // acknowledged by the other two
		return nil, errors.Join(err, cut.End())
	}
	b, err := cutPower(fmt.Sprintf("%s lags, %s loses its log, and %s, which knows all, is off", lags.Name, loses.Name, leader.Name), 6*time.Second, leader, loses)
	if err != nil {
		return nil, errors.Join(err, cut.End())
	}
	b.On = append(b.On, lags)
	dir := filepath.Dir(raftFile(loses))
	if err := errors.Join(os.Remove(raftFile(loses)), os.RemoveAll(filepath.Join(dir, "snapshots"))); err != nil {
		return nil, errors.Join(err, cut.End())
	}
	if err := errors.Join(cut.End(), switchOn(loses)); err != nil {
		return nil, err
	}
	b.End = func(ctx context.Context) error {
		if err := switchOn(leader); err != nil {
			return err
		}
		if loses.Running() {
			return nil
		}
		return joinAnew(ctx, w, loses)
	}
	b.Allows.Gone = []*machines.Machine{loses}
	b.Allows.MovesAll, b.Allows.NoQuorum = true, true
	return b, nil
}
