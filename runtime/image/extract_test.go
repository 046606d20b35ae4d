//go:build linux

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain lets this test binary be its own unpack helper, and fails when a goroutine outlives the tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "unpack-helper" {
		os.Exit(UnpackMain())
	}
	goleak.VerifyTestMain(m)
}

// unpackers runs a test with the layer unpacked in this process and in a confined child.
func unpackers(t *testing.T, run func(t *testing.T, s *Store)) {
	needRoot(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, argv := range map[string][]string{"in process": nil, "in a child": {exe, "unpack-helper"}} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(Config{Dir: t.TempDir(), UnpackCommand: argv})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			run(t, s)
		})
	}
}

// layersOf loads an image of raw layers and unpacks it.
func layersOf(t *testing.T, s *Store, layers ...layerBlob) ([]string, error) {
	t.Helper()
	img := load(t, s, ociArchive(t, "", layers...))
	return s.Layers(t.Context(), img)
}

func TestHostileLayersWriteNothingOutside(t *testing.T) {
	for name, entries := range map[string][]tarEntry{
		"dot dot":                  {file("../../escaped", "x"), file("a/../../../escaped", "x")},
		"absolute":                 {file("/escaped", "x")},
		"symlink write-through":    {symlink("out", "@OUT@"), file("out/escaped", "x")},
		"relative symlink":         {symlink("out", "../../../../../../../../../@OUT@"), file("out/escaped", "x")},
		"symlink chain":            {symlink("a", "b"), symlink("b", "@OUT@"), dir("a/d", 0o755), file("a/d/escaped", "x")},
		"symlink replaced by file": {symlink("f", "@OUT@/escaped"), file("f", "x")},
		"hardlink to outside":      {hardlink("h", "@OUT@/victim"), file("h", "overwritten")},
		"hardlink dot dot":         {hardlink("h", "../../../../../../../../@OUT@/victim"), file("h", "overwritten")},
		"hardlink via symlink":     {symlink("s", "@OUT@"), hardlink("h", "s/victim")},
		"hardlink to root":         {hardlink("h", "..")},
		"hardlink to directory":    {dir("d", 0o755), hardlink("h", "d")},
		"root entries":             {dir("/.", 0o777), dir("./", 0o777), dir("..", 0o777), symlink("/.", "@OUT@"), file("ok", "x")},
		"whiteout of dot dot":      {file("a/.wh...", "")},
		"whiteout of dot":          {file("a/.wh..", "")},
		"whiteout of nothing":      {file(".wh.", "")},
		"whiteout via symlink":     {symlink("s", "@OUT@"), file("s/.wh.victim", "")},
		"opaque via symlink":       {symlink("s", "@OUT@"), file("s/.wh..wh..opq", "")},
		"mode via symlink":         {symlink("s", "@OUT@/victim"), dir("s", 0o777)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unpackers(t, func(t *testing.T, s *Store) {
				out := t.TempDir()
				victim := filepath.Join(out, "victim")
				if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
					t.Fatal(err)
				}
				var es []tarEntry
				for _, e := range entries {
					e.Linkname = strings.ReplaceAll(e.Linkname, "@OUT@", out)
					es = append(es, e)
				}
				dirs, err := layersOf(t, s, plain(tarOf(t, es...)))
				if err != nil && !errors.Is(err, ErrInvalid) {
					t.Errorf("refused with %v, which is not ErrInvalid", err)
				}
				files, _ := os.ReadDir(out)
				if b, _ := os.ReadFile(victim); string(b) != "untouched" || len(files) != 1 {
					t.Errorf("outside now holds %v, victim %q", files, b)
				}
				var st unix.Stat_t
				if err := unix.Stat(victim, &st); err != nil || st.Nlink != 1 || st.Mode&0o777 != 0o600 {
					t.Errorf("victim: %d links, mode %o, %v", st.Nlink, st.Mode, err)
				}
				for _, p := range []string{filepath.Join(s.dir, "escaped"), filepath.Join(s.tmpDir(), "escaped"), filepath.Join(s.layerDir(), "escaped"), "/escaped"} {
					mustNotExist(t, p)
				}
				for _, d := range dirs {
					if fi, err := os.Lstat(d); err != nil || fi.Mode() != os.ModeDir|0o755 {
						t.Errorf("layer root is %v, %v", fi.Mode(), err)
					}
				}
				leftovers(t, s)
			})
		})
	}
}

func TestLayerKeepsWhatATarCanSay(t *testing.T) {
	long := strings.Repeat("n", 200)
	entries := []tarEntry{
		dir("bin/", 0o755),
		{tar.Header{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 0, Gid: 42}, "suid"},
		{tar.Header{Name: "bin/su2", Typeflag: tar.TypeLink, Linkname: "bin/su", Mode: 0o4755, Gid: 42}, ""},
		{tar.Header{Name: "bin/su3", Typeflag: tar.TypeLink, Linkname: "/bin/su", Mode: 0o4755, Gid: 42}, ""},
		dir("tmp/", 0o1777),
		symlink("bin/abs", "/does/not/exist"),
		{tar.Header{Name: "user", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 1000, Gid: 1001}, ""},
		{tar.Header{Name: "cap", Typeflag: tar.TypeReg, PAXRecords: map[string]string{
			paxXattr + "user.note":               "hi",
			paxXattr + "trusted.overlay.opaque":  "y",
			paxXattr + "user.overlay.redirect":   "/x",
			paxXattr + "trusted.overlay.whatnot": "/etc"}}, "x"},
		{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, ""},
		{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
		file(long, "long name"),
	}
	unpackers(t, func(t *testing.T, s *Store) {
		for i, l := range []layerBlob{plain(tarOf(t, entries...)), gzipped(tarOf(t, append(entries, file("gz", ""))...)), zstded(tarOf(t, append(entries, file("zst", ""))...))} {
			dirs, err := layersOf(t, s, l)
			if err != nil {
				t.Fatal(err)
			}
			at := func(name string) unix.Stat_t {
				t.Helper()
				var st unix.Stat_t
				if err := unix.Lstat(filepath.Join(dirs[0], name), &st); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				return st
			}
			su, su2, su3 := at("bin/su"), at("bin/su2"), at("bin/su3")
			if su.Mode != unix.S_IFREG|0o4755 || su.Gid != 42 || su.Nlink != 3 || su2.Ino != su.Ino || su3.Ino != su.Ino {
				t.Errorf("layer %d: setuid hardlinks: %o, gid %d, %d links", i, su.Mode, su.Gid, su.Nlink)
			}
			if st := at("user"); st.Mode != unix.S_IFDIR|0o2750 || st.Uid != 1000 || st.Gid != 1001 {
				t.Errorf("layer %d: user is %o %d:%d", i, st.Mode, st.Uid, st.Gid)
			}
			if st := at("tmp"); st.Mode != unix.S_IFDIR|0o1777 || st.Mtim.Sec != 1_000_000_000 {
				t.Errorf("layer %d: tmp is %o, mtime %d", i, st.Mode, st.Mtim.Sec)
			}
			if st := at("null"); st.Rdev != unix.Mkdev(1, 3) || st.Mode != unix.S_IFCHR|0o666 {
				t.Errorf("layer %d: null is %o, %x", i, st.Mode, st.Rdev)
			}
			if st := at("fifo"); st.Mode&unix.S_IFMT != unix.S_IFIFO {
				t.Errorf("layer %d: fifo is %o", i, st.Mode)
			}
			if target, _ := os.Readlink(filepath.Join(dirs[0], "bin/abs")); target != "/does/not/exist" {
				t.Errorf("layer %d: symlink is %q", i, target)
			}
			at(long)
			if names := xattrs(t, filepath.Join(dirs[0], "cap")); names != "user.note" {
				t.Errorf("layer %d: attributes of cap are %q, want only user.note", i, names)
			}
		}
	})
}

func xattrs(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 1024)
	n, err := unix.Llistxattr(path, b)
	if errors.Is(err, unix.ENOTSUP) {
		t.Skip("the file system of the temporary directory has no extended attributes")
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 }), " ")
}

// overlay mounts the layers in a mount namespace of its own and returns what the script prints there.
func overlay(t *testing.T, dirs []string, script string) string {
	t.Helper()
	var lowers []string
	for i := len(dirs) - 1; i >= 0; i-- {
		lowers = append(lowers, dirs[i])
	}
	if len(lowers) == 1 {
		lowers = append(lowers, t.TempDir()) // overlayfs wants two
	}
	root := t.TempDir()
	cmd := exec.Command("unshare", "-m", "sh", "-ec", "mount -t overlay none -o lowerdir="+strings.Join(lowers, ":")+" "+root+"; cd "+root+"; "+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("overlay: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestWhiteoutsHideLowerLayersOnly(t *testing.T) {
	lower := tarOf(t, dir("d", 0o755), file("d/old", "1"), file("gone", "1"), file("kept", "1"), dir("e", 0o755), file("e/old", "1"),
		dir("r", 0o755), file("r/old", "1"), dir("q", 0o755), file("q/old", "1"), file("swap", "1"), dir("i", 0o755), file("i/old", "1"))
	upper := tarOf(t,
		file(".wh.gone", ""),
		dir("d", 0o755), file("d/new", "2"), file("d/.wh..wh..opq", ""), // the marker comes last
		file("e/.wh.old", ""),
		file(".wh.r", ""), dir("r", 0o700), file("r/new", "2"), // deleted, then made again
		dir("q", 0o755), file("q/new", "2"), file(".wh.q", ""), // the same, the whiteout after
		file("swap", "2"), file(".wh.swap", ""), // hides the lower file only
		file(".wh.i", ""), file("i/new", "2"), // made again without an entry
		file(".wh..wh.plnk", ""), file(".wh.gone", ""),
	)
	unpackers(t, func(t *testing.T, s *Store) {
		dirs, err := layersOf(t, s, gzipped(lower), gzipped(upper))
		if err != nil {
			t.Fatal(err)
		}
		got := overlay(t, dirs, "find . -mindepth 1 | sort; cat swap")
		want := "./d\n./d/new\n./e\n./i\n./i/new\n./kept\n./q\n./q/new\n./r\n./r/new\n./swap\n2"
		if got != want {
			t.Errorf("merged:\n%s\nwant:\n%s", got, want)
		}
	})
}

// What `umoci repack` makes of a directory that became a link: whiteouts of all that was in it, which hide nothing where the
// link leads, in whatever order they come.
func TestWhiteoutsFollowNoLinkOfTheirLayer(t *testing.T) {
	lower := tarOf(t, dir("etc", 0o755), file("etc/with space", "1"), file("etc/sub", "1"), symlink("with space", "a/b"),
		dir("sub", 0o755), file("sub/x", "1"), dir("d", 0o755), file("d/x", "1"), dir("d/deep", 0o755), file("d/deep/x", "1"))
	links := []tarEntry{symlink("etc", "."), symlink("d", "/sub")}
	hides := []tarEntry{file("etc/.wh.with space", ""), file("etc/.wh.sub", ""), file("d/.wh.x", ""), file("d/.wh.deep", ""), file("d/deep/.wh.x", "")}
	for name, upper := range map[string][]tarEntry{
		"the links first":     slices.Concat(links, hides),
		"the whiteouts first": slices.Concat(hides, links),
	} {
		t.Run(name, func(t *testing.T) {
			unpackers(t, func(t *testing.T, s *Store) {
				dirs, err := layersOf(t, s, gzipped(lower), gzipped(tarOf(t, upper...)))
				if err != nil {
					t.Fatal(err)
				}
				got := overlay(t, dirs, "find . -mindepth 1 -printf '%p %l\\n' | sort")
				want := "./d /sub\n./etc .\n./sub \n./sub/x \n./with space a/b"
				if got != want {
					t.Errorf("merged:\n%s\nwant:\n%s", got, want)
				}
			})
		})
	}
}

func TestImplicitParentsInheritFromTheBase(t *testing.T) {
	needRoot(t)
	s := open(t)
	loose := plain(tarOf(t, file("tmp/x/file", "1"), file("etc/file", "1"))) // says nothing of tmp
	sticky := plain(tarOf(t, dir("tmp", 0o1777), dir("etc", 0o755)))
	private := plain(tarOf(t, dir("tmp", 0o700), dir("etc", 0o755)))
	modes := map[string]bool{}
	var trees []string
	for _, base := range []layerBlob{sticky, private, sticky} {
		dirs, err := layersOf(t, s, base, loose)
		if err != nil {
			t.Fatal(err)
		}
		modes[overlay(t, dirs, "stat -c %a tmp etc tmp/x | tr '\\n' ' '")] = true
		trees = append(trees, dirs[1])
	}
	if !modes["1777 755 755"] || !modes["700 755 755"] || len(modes) != 2 {
		t.Errorf("modes are %v", modes)
	}
	if trees[0] != trees[2] || trees[0] == trees[1] {
		t.Errorf("trees are %v: the same base should share, another not", trees)
	}
	alone, err := layersOf(t, s, loose)
	if err != nil || strings.Contains(filepath.Base(alone[0]), "-") {
		t.Errorf("alone: %v, %v", alone, err)
	}
}

func TestImagesShareUnpackedLayers(t *testing.T) {
	needRoot(t)
	s := open(t)
	base := tarOf(t, dir("etc", 0o755), file("etc/x", "1"))
	a, err := layersOf(t, s, gzipped(base), plain(tarOf(t, file("a", ""))))
	if err != nil {
		t.Fatal(err)
	}
	b, err := layersOf(t, s, zstded(base), plain(tarOf(t, file("b", ""))))
	if err != nil {
		t.Fatal(err)
	}
	if a[0] != b[0] || a[1] == b[1] {
		t.Errorf("layers %v and %v: the same base, packed differently, should be one tree", a, b)
	}
}

func TestLayerOfLiesIsRefused(t *testing.T) {
	unpackers(t, func(t *testing.T, s *Store) {
		for name, blob := range map[string][]byte{
			"not a tar":          []byte(strings.Repeat("no tar at all ", 100)),
			"cut":                tarOf(t, file("f", strings.Repeat("x", 5000)))[:3000],
			"unknown entry type": tarOf(t, tarEntry{tar.Header{Name: "x", Typeflag: 'Q'}, ""}),
		} {
			if _, err := layersOf(t, s, plain(blob)); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", name, err)
			}
		}
		leftovers(t, s)
	})
}

func TestDamagedLayerIsFoundAndRepaired(t *testing.T) {
	for _, at := range []string{"start", "middle", "end"} {
		t.Run(at, func(t *testing.T) {
			unpackers(t, func(t *testing.T, s *Store) {
				archive := ociArchive(t, "x", gzipped(tarOf(t, file("f", strings.Repeat("some bytes ", 10000)))))
				img := load(t, s, archive)
				path := s.blobPath(img.Layers[0].Digest)
				flip(t, path, at)
				if _, err := s.Layers(t.Context(), img); !errors.Is(err, ErrCorrupt) {
					t.Fatalf("damaged layer: %v, want ErrCorrupt", err)
				}
				mustNotExist(t, path)
				if _, err := s.Layers(t.Context(), img); !errors.Is(err, ErrCorrupt) {
					t.Fatalf("missing layer: %v, want ErrCorrupt", err)
				}
				load(t, s, archive)
				if _, err := s.Layers(t.Context(), img); err != nil {
					t.Fatalf("after repair: %v", err)
				}
			})
		})
	}
}

// flip changes one bit of a file.
func flip(t *testing.T, path, at string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := map[string]int{"start": 0, "middle": len(b) / 2, "end": len(b) - 1}[at]
	b[i] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFullDiskCorruptsNothing runs the store on a small tmpfs in a mount namespace, by running itself there.
func TestFullDiskCorruptsNothing(t *testing.T) {
	needRoot(t)
	const inside = "IMAGE_TEST_FULL_DISK"
	if os.Getenv(inside) == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		cmd := exec.Command("unshare", "-m", "sh", "-ec", `mount -t tmpfs -o size=3m none "$1"; `+inside+`="$1" exec "$0" -test.run='^TestFullDiskCorruptsNothing$'`, exe, dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	dir := filepath.Join(os.Getenv(inside), "images")
	s := openAt(t, dir)
	small := load(t, s, ociArchive(t, "small", plain(tarOf(t, file("f", "x")))))
	big := ociArchive(t, "big", plain(tarOf(t, file("f", strings.Repeat("0123456789abcdef", 2<<20/16)+"x"), file("g", strings.Repeat("y", 2<<20)))))
	_, err := s.Load(t.Context(), bytes.NewReader(big), LoadOptions{})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "full") || errors.Is(err, ErrInvalid) {
		t.Fatalf("load of 4 MiB on 3: %v", err)
	}
	leftovers(t, s)
	packed := load(t, s, ociArchive(t, "packed", gzipped(tarOf(t, file("f", strings.Repeat("z", 8<<20))))))
	if _, err := s.Layers(t.Context(), packed); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrCorrupt) {
		t.Fatalf("unpack of 8 MiB on 3: %v", err)
	}
	leftovers(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir)
	if _, err := s.Get("big"); !errors.Is(err, ErrNotFound) {
		t.Errorf("big: %v", err)
	}
	if _, err := s.Layers(t.Context(), small); err != nil {
		t.Errorf("small: %v", err)
	}
}

func TestLimitsOfALayer(t *testing.T) {
	a := &applier{}
	for name, h := range map[string]*tar.Header{
		"long name":   {Name: strings.Repeat("x", MaxEntryNameLength+1), Typeflag: tar.TypeReg},
		"sparse size": {Name: "f", Typeflag: tar.TypeReg, Size: MaxUnpackedLayerSize + 1},
		"attributes":  {Name: "f", Typeflag: tar.TypeReg, PAXRecords: map[string]string{paxXattr + "user.x": strings.Repeat("x", MaxEntryHeaderSize)}},
	} {
		if _, err := a.check(h); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	a.entries = MaxLayerEntries
	if _, err := a.check(&tar.Header{Name: "f", Typeflag: tar.TypeReg}); !errors.Is(err, ErrInvalid) {
		t.Errorf("one entry too many: %v", err)
	}
}

func TestUnpackHelperThatDiesIsReported(t *testing.T) {
	needRoot(t)
	s, err := Open(Config{Dir: t.TempDir(), UnpackCommand: []string{"/bin/false"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = layersOf(t, s, plain(tarOf(t, file("f", ""))))
	if err == nil || errors.Is(err, ErrInvalid) || errors.Is(err, ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "/bin/false") {
		t.Errorf("dead helper: %v", err)
	}
}

// A helper that says more than it may is ended, and so is what it was asked: nothing hangs, and nobody tries again.
func TestUnpackHelperThatSaysTooMuch(t *testing.T) {
	needRoot(t)
	defer func(limit int64) { maxChildReport = limit }(maxChildReport)
	maxChildReport = 1 << 20
	s, err := Open(Config{Dir: t.TempDir(), UnpackCommand: []string{"yes"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	img := load(t, s, ociArchive(t, "", plain(tarOf(t, file("f", "")))))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.Layers(ctx, img); !errors.Is(err, ErrInvalid) {
		t.Errorf("endless report: %v, want ErrInvalid", err)
	}
	for _, c := range childrenOf(t) {
		if strings.HasPrefix(c, "yes\x00") {
			t.Errorf("still there: %q", c)
		}
	}
}

// childrenOf are the command lines of this process's children.
func childrenOf(t *testing.T) (out []string) {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lists {
		pids, _ := os.ReadFile(l)
		for pid := range strings.FieldsSeq(string(pids)) {
			b, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			out = append(out, string(b))
		}
	}
	return out
}

// Directories that a tar uses and does not describe are reported by name. A layer whose report would be too long is refused.
func TestLimitOfImplicitDirectories(t *testing.T) {
	needRoot(t)
	defer func(limit int64) { maxImplicitBytes = limit }(maxImplicitBytes)
	maxImplicitBytes = 1 << 10
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var entries []tarEntry
	for i := range 100 {
		entries = append(entries, dir(fmt.Sprintf("described-%d", i), 0o755), file(fmt.Sprintf("described-%d/f", i), ""))
	}
	if _, err := layersOf(t, s, plain(tarOf(t, entries...))); err != nil {
		t.Errorf("a layer that describes all: %v", err)
	}
	for i := range 200 {
		entries = append(entries, file(fmt.Sprintf("used-%d/f", i), ""))
	}
	if _, err := layersOf(t, s, plain(tarOf(t, entries...))); !errors.Is(err, ErrInvalid) {
		t.Errorf("a layer that uses more than it may: %v", err)
	}
}

// What the applier counts is never less than what is written, whatever the names.
func TestImplicitDirectoriesAreCountedAsReported(t *testing.T) {
	a := &applier{implicit: map[string]bool{}, explicit: map[string]bool{}, hollow: map[string]bool{}}
	for b := range 256 {
		name := strings.Repeat(string([]byte{byte(b), 'x'}), 1+b%7)
		a.noteParents(name+"/later/f", false, b%2 == 0)
		a.noteParents(name+"/later", b%3 == 0, false)
	}
	a.noteParents("\u2028\u2029/\u00e4/\U0001f600/f", false, false)
	raw, err := json.Marshal(a.implicitDirs())
	if err != nil {
		t.Fatal(err)
	}
	if n := int64(len(raw)); n > a.implicitBytes+2 {
		t.Errorf("counted as %d bytes, written as %d", a.implicitBytes, n)
	}
	if room := int64(1 << 20); maxChildReport-maxImplicitBytes < room {
		t.Errorf("a report has less than %d bytes for all else", room)
	}
}
