package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// volumeBed is a volume and an image that has a directory at its place.
type volumeBed struct {
	*testing.T
	root string
	v    VolumeMount
}

func newVolumeBed(t *testing.T) *volumeBed {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b := &volumeBed{T: t, root: t.TempDir(), v: VolumeMount{Source: filepath.Join(t.TempDir(), "_data"), Target: "/seed", Fill: true}}
	for _, d := range []string{filepath.Join(b.root, "seed/sub"), b.v.Source} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.write(filepath.Join(b.root, "seed"), "a", "b", "sub/c")
	if err := errors.Join(os.Chown(filepath.Join(b.root, "seed"), 33, 34), os.Chmod(filepath.Join(b.root, "seed"), 0o750)); err != nil {
		t.Fatal(err)
	}
	return b
}

// write makes files that hold where they are from.
func (b *volumeBed) write(dir string, names ...string) {
	b.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(filepath.Base(dir)), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *volumeBed) fill(reach func(Step)) {
	b.Helper()
	if err := fillVolumes(b.root, []VolumeMount{b.v}, 0, func() error { return nil }, reach); err != nil {
		b.Error(err)
	}
}

func noStep(Step) {}

// holds compares the volume's files, "name=from", and that nothing is left aside.
func (b *volumeBed) holds(what string, want ...string) {
	b.Helper()
	var got []string
	err := filepath.WalkDir(b.v.Source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		got = append(got, fmt.Sprintf("%s=%s", strings.TrimPrefix(path, b.v.Source+"/"), text))
		return err
	})
	slices.Sort(want)
	if slices.Sort(got); err != nil || !slices.Equal(got, want) {
		b.Errorf("%s: the volume holds %q, %v; want %q", what, got, err, want)
	}
	for _, dir := range []string{b.v.Source, filepath.Dir(b.v.Source)} {
		if left, _ := filepath.Glob(filepath.Join(dir, ".shoal-*")); len(left) > 0 {
			b.Errorf("%s: %v is left", what, left)
		}
	}
}

func TestFillOfAnEmptyVolume(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		b := newVolumeBed(t)
		if elsewhere { // nothing can be renamed into it
			if err := unix.Mount("tmpfs", b.v.Source, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(b.v.Source, 0) })
		}
		held, err := os.Open(b.v.Source) // as a container that runs has it
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		b.fill(noStep)
		b.holds("filled", "a=seed", "b=seed", "sub/c=seed")
		st, err := os.Stat(b.v.Source)
		mine, heldErr := held.Stat()
		if errors.Join(err, heldErr) != nil || !os.SameFile(st, mine) {
			t.Errorf("another directory took the volume's place: %v", errors.Join(err, heldErr))
		}
		var sys unix.Stat_t
		if err := unix.Stat(b.v.Source, &sys); err != nil || sys.Uid != 33 || sys.Gid != 34 || sys.Mode&0o7777 != 0o750 {
			t.Errorf("the volume belongs to %d:%d and has mode %o, %v", sys.Uid, sys.Gid, sys.Mode&0o7777, err)
		}
		if err := os.Remove(filepath.Join(b.v.Source, "a")); err != nil {
			t.Fatal(err)
		}
		b.fill(noStep)
		b.holds("used", "b=seed", "sub/c=seed")
	}
}

// Whatever others write while a volume is filled is theirs.
func TestFillDeletesNothing(t *testing.T) {
	for at, want := range map[Step][]string{
		"launch fill copied":   {"a=_data", "own=_data"},
		"launch fill complete": {"a=_data", "own=_data", "b=seed", "sub/c=seed"},
	} {
		b := newVolumeBed(t)
		b.fill(func(s Step) {
			if s == at {
				b.write(b.v.Source, "a", "own")
			}
		})
		b.holds(string(at), want...)
	}
}

// A launcher that is killed leaves a volume that is filled, or will be by the next, and never less than others have written.
func TestFillCutShort(t *testing.T) {
	for _, at := range []Step{"launch fill copied", "launch fill complete", "launch fill moved"} {
		for _, next := range []string{"fills", "does not fill"} {
			what := fmt.Sprintf("%s, the next %s", at, next)
			b := newVolumeBed(t)
			func() {
				defer func() { _ = recover() }()
				b.fill(func(s Step) {
					if s == at {
						panic("killed")
					}
				})
			}()
			if at == "launch fill copied" { // what runs as a panic goes on is not run by one that is killed
				if err := os.Mkdir(filepath.Join(filepath.Dir(b.v.Source), fillBegun+"_data"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if b.v.Fill = next == "fills"; b.v.Fill || at != "launch fill copied" {
				b.fill(noStep)
				b.holds(what, "a=seed", "b=seed", "sub/c=seed")
				continue
			}
			b.fill(noStep)
			b.holds(what)
		}
	}
}

// Who waited for a launcher that was killed as it moved its copy in moves in the rest.
func TestFillAfterAnotherThatWasKilled(t *testing.T) {
	for name, moved := range map[string]bool{"before it moved anything": false, "as it moved": true} {
		b := newVolumeBed(t)
		aside := filepath.Dir(b.v.Source)
		other, err := os.Open(b.v.Source)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		killed := false
		err = fillVolumes(b.root, []VolumeMount{b.v}, 0, func() error { // called while it waits
			if killed {
				return nil
			}
			killed = true
			done := filepath.Join(aside, fillDone+"_data")
			if err := os.MkdirAll(filepath.Join(done, "sub"), 0o755); err != nil {
				return err
			}
			b.write(done, "a", "b", "sub/c")
			if moved {
				if err := os.Rename(filepath.Join(done, "a"), filepath.Join(b.v.Source, "a")); err != nil {
					return err
				}
			}
			return other.Close()
		}, noStep)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		from := fillDone + "_data"
		b.holds(name, "a="+from, "b="+from, "sub/c="+from)
	}
}

// An error, such as that of a full disk, leaves the volume as it was.
func TestFillThatFails(t *testing.T) {
	b := newVolumeBed(t)
	full := errors.New("full")
	if err := fillVolumes(b.root, []VolumeMount{b.v}, 0, func() error { return full }, noStep); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	b.holds("failed")
	b.fill(noStep)
	b.holds("tried again", "a=seed", "b=seed", "sub/c=seed")
}

// What an earlier version left half full may have become a user's since.
func TestFillBegunByAnEarlierVersion(t *testing.T) {
	b := newVolumeBed(t)
	if err := errors.Join(os.Mkdir(filepath.Join(b.v.Source, "sub"), 0o755), os.WriteFile(filepath.Join(b.v.Source, fillMark), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	b.write(b.v.Source, "a", "customers.db", "sub/own")
	func() {
		defer func() { _ = recover() }()
		b.fill(func(s Step) {
			if s == "launch fill complete" {
				panic("killed")
			}
		})
	}()
	b.fill(noStep)
	b.holds("filled", "a=_data", "b=seed", "customers.db=_data", "sub/c=seed", "sub/own=_data")
	if err := os.Remove(filepath.Join(b.v.Source, "b")); err != nil {
		t.Fatal(err)
	}
	b.fill(noStep)
	b.holds("used", "a=_data", "customers.db=_data", "sub/c=seed", "sub/own=_data")
}
