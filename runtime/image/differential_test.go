//go:build linux

package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime/step/disk"
)

// Random images, made by umoci and packed by skopeo, must unpack to the same tree as `umoci unpack` makes of them.
// SHOAL_SEED repeats one, SHOAL_SEEDS does so many.
func TestUnpackMakesWhatUmociMakes(t *testing.T) {
	needRoot(t)
	if at := os.Getenv("SHOAL_TREE"); at != "" { // inside of a mount namespace of its own
		fmt.Print("\n<tree>\n" + describeTree(t, at) + "</tree>\n")
		return
	}
	for _, tool := range []string{"umoci", "skopeo"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing: packaging/deps.sh test installs it", tool)
		}
	}
	seeds, count := []uint64{}, 12
	if n, err := strconv.Atoi(os.Getenv("SHOAL_SEEDS")); err == nil {
		count = n
	}
	if n, err := strconv.ParseUint(os.Getenv("SHOAL_SEED"), 10, 64); err == nil {
		seeds = append(seeds, n)
	}
	for len(seeds) < count && os.Getenv("SHOAL_SEED") == "" {
		seeds = append(seeds, rand.Uint64()>>12)
	}
	for i, seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { compareWithUmoci(t, seed, i) })
	}
}

func compareWithUmoci(t *testing.T, seed uint64, nth int) {
	base := disk.InMemory(t)
	r := rand.New(rand.NewPCG(seed, 1))
	layout := filepath.Join(base, "layout")
	runTool(t, "umoci", "init", "--layout", layout)
	runTool(t, "umoci", "new", "--image", layout+":x")
	for layer := range 2 + r.IntN(3) {
		if layer > 0 && r.IntN(2) == 0 {
			path := filepath.Join(base, fmt.Sprintf("layer%d.tar", layer))
			if err := os.WriteFile(path, randomTar(r), 0o600); err != nil {
				t.Fatal(err)
			}
			runTool(t, "umoci", "raw", "add-layer", "--image", layout+":x", path)
			continue
		}
		bundle := filepath.Join(base, "bundle")
		runTool(t, "umoci", "unpack", "--image", layout+":x", bundle)
		changeTree(t, r, filepath.Join(bundle, "rootfs"))
		runTool(t, "umoci", "repack", "--image", layout+":x", bundle)
		if err := os.RemoveAll(bundle); err != nil {
			t.Fatal(err)
		}
	}
	want := filepath.Join(base, "want")
	runTool(t, "umoci", "unpack", "--image", layout+":"+withoutWhiteoutsBehindLinks(t, layout), want)
	// Each way that an image comes: skopeo's archives, and its layers packed anew.
	format := []string{"oci-archive", "docker-archive", "zstd"}[nth%3]
	archive := filepath.Join(base, "archive.tar")
	switch format {
	case "zstd":
		zstd := filepath.Join(base, "zstd")
		runTool(t, "skopeo", "copy", "--insecure-policy", "--dest-compress-format", "zstd", "--dest-compress", "oci:"+layout+":x", "oci:"+zstd+":x")
		runTool(t, "tar", "-C", zstd, "-cf", archive, ".")
	default:
		runTool(t, "skopeo", "copy", "--insecure-policy", "oci:"+layout+":x", format+":"+archive+":x:1")
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Dir: filepath.Join(base, "store"), UnpackCommand: []string{exe, "unpack-helper"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	images, err := s.Load(t.Context(), f, LoadOptions{Unpack: nth%2 == 0})
	if err != nil {
		t.Fatal(err)
	}
	trees, err := s.Layers(t.Context(), images[0])
	if err != nil {
		t.Fatal(err)
	}
	got, expected := mergedTree(t, exe, trees), describeTree(t, filepath.Join(want, "rootfs"))
	got, expected = withoutLiveTimes(got, expected)
	if got != expected {
		t.Errorf("%s of %d layers, repeat with SHOAL_SEED=%d:\n%s", format, len(trees), seed, difference(got, expected))
	}
}

// withoutLiveTimes takes the times of directories out that the topmost layer uses without an entry: overlayfs shows when they
// were unpacked, which has nanoseconds, and umoci's times have none.
func withoutLiveTimes(got, want string) (string, string) {
	live := regexp.MustCompile(`(?m)^("(?:[^"\\\\]|\\\\.)*" 4\d+ \d+:\d+ at )\d+\.(\d+)`)
	for _, m := range live.FindAllStringSubmatch(got, -1) {
		if m[2] == "000000000" {
			continue
		}
		one := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(m[1]) + `\d+\.\d+`)
		got, want = one.ReplaceAllString(got, m[1]+"some time"), one.ReplaceAllString(want, m[1]+"some time")
	}
	return got, want
}

func runTool(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

// mergedTree describes what overlayfs makes of unpacked layers.
func mergedTree(t *testing.T, exe string, trees []string) string {
	t.Helper()
	top := slices.Clone(trees)
	slices.Reverse(top)
	at, empty := t.TempDir(), t.TempDir()
	script := `mount -t overlay overlay -o "lowerdir=$1" "$2" && SHOAL_TREE="$2" exec "$0" -test.run='^TestUnpackMakesWhatUmociMakes$'`
	out, err := exec.Command("unshare", "-m", "sh", "-ec", script, exe, strings.Join(append(top, empty), ":"), at).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, tree, ok := strings.Cut(string(out), "\n<tree>\n")
	tree, _, ok2 := strings.Cut(tree, "</tree>\n")
	if !ok || !ok2 {
		t.Fatalf("no tree in %s", out)
	}
	return tree
}

// describeTree is a line a file: type, mode, owner, device, size and digest, target, attributes, time, and the first name
// of a file with several.
func describeTree(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	firstName := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil && !errors.Is(err, fs.ErrNotExist) || p == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err == unix.ENOENT {
			return nil // overlayfs lists, and denies, a whiteout that hides nothing
		} else if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		fmt.Fprintf(&b, "%q %o %d:%d at %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d bytes %.8x", st.Size, sha256.Sum256(raw))
		case unix.S_IFLNK:
			l, _ := os.Readlink(p)
			fmt.Fprintf(&b, " -> %q", l)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first, ok := firstName[st.Ino]; ok {
				fmt.Fprintf(&b, " same as %q", first)
			} else {
				firstName[st.Ino] = name
			}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			b.WriteString(" " + keptXattrs(p))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// keptXattrs are those that unpacking keeps.
func keptXattrs(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return ""
	}
	var out []string
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != "security.capability" {
			continue
		}
		v := make([]byte, 4<<10)
		if n, err := unix.Lgetxattr(path, name, v); err == nil {
			out = append(out, fmt.Sprintf("%s=%x", name, v[:n]))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// difference lists the lines that only one has.
func difference(got, want string) string {
	has := func(s string) map[string]bool {
		m := map[string]bool{}
		for l := range strings.Lines(s) {
			m[l] = true
		}
		return m
	}
	g, w := has(got), has(want)
	var b strings.Builder
	for l := range strings.Lines(want) {
		if !g[l] {
			b.WriteString("umoci: " + l)
		}
	}
	for l := range strings.Lines(got) {
		if !w[l] {
			b.WriteString("shoal: " + l)
		}
	}
	if b.Len() == 0 {
		return "the same lines in another order"
	}
	return b.String()
}

var randomNames = []string{"a", "b", "c", "dir", "etc", "file", "ünï", "with space", "x.y", "-dash", "long" + strings.Repeat("g", 120)}

// changeTree changes a root file system at random: what umoci repacks becomes the next layer.
func changeTree(t *testing.T, r *rand.Rand, root string) {
	t.Helper()
	for range 40 + r.IntN(60) {
		dirs, files := listTree(t, root)
		p := filepath.Join(dirs[r.IntN(len(dirs))], randomNames[r.IntN(len(randomNames))])
		if r.IntN(5) == 0 && len(files) > 0 { // something goes, or becomes something else
			p = files[r.IntN(len(files))]
			if err := os.RemoveAll(p); err != nil {
				t.Fatal(err)
			}
			if r.IntN(2) == 0 {
				continue
			}
		}
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		mode := []uint32{0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o444}[r.IntN(8)]
		var err error
		link := false
		switch r.IntN(9) {
		case 0, 1:
			err = os.Mkdir(p, 0o755)
		case 2:
			link = true
			err = os.Symlink([]string{"/etc/passwd", "../x", "nowhere", ".", "a/b"}[r.IntN(5)], p)
		case 3:
			if len(files) > 0 {
				if fi, e := os.Lstat(files[r.IntN(len(files))]); e == nil && fi.Mode().IsRegular() {
					f := files[r.IntN(len(files))]
					if fi, e := os.Lstat(f); e == nil && fi.Mode().IsRegular() {
						err = os.Link(f, p)
						break
					}
				}
			}
			fallthrough
		case 4:
			err = unix.Mknod(p, []uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK}[r.IntN(3)]|0o600, int(unix.Mkdev(1+uint32(r.IntN(300)), uint32(r.IntN(70000)))))
		default:
			err = os.WriteFile(p, randomBytes(r), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Lchown(p, r.IntN(3)*1000, r.IntN(3)*500); err != nil {
			t.Fatal(err)
		}
		if !link {
			if err := unix.Chmod(p, mode); err != nil {
				t.Fatal(err)
			}
			if r.IntN(3) == 0 {
				if err := unix.Lsetxattr(p, "user.test", randomBytes(r)[:r.IntN(3)], 0); err != nil && err != syscall.EPERM {
					t.Fatal(err)
				}
			}
			if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() && r.IntN(4) == 0 { // cap_net_bind_service
				cap := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
				if err := unix.Lsetxattr(p, "security.capability", cap, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		ts := unix.NsecToTimespec(int64(r.IntN(2_000_000_000)) * 1e9)
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}

func randomBytes(r *rand.Rand) []byte {
	b := make([]byte, []int{3, 100, 5000, 200_000}[r.IntN(4)])
	if r.IntN(4) != 0 { // else zeros
		for i := range b {
			b[i] = byte(r.UintN(256))
		}
	}
	return b
}

// listTree lists directories, root included, and all else and them but the root.
func listTree(t *testing.T, root string) (dirs, all []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		if p != root {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs, all
}

// randomTar is a layer with what repack does not make: opaque directories, whiteouts before and after what comes anew,
// entries twice, links over directories and back. Each directory has an entry, whose time is then known.
func randomTar(r *rand.Rand) []byte {
	var entries []tarEntry
	at := func(e tarEntry) {
		e.ModTime, e.Uid, e.Gid = time.Unix(int64(r.IntN(2_000_000_000)), 0), r.IntN(2)*100, r.IntN(2)*100
		entries = append(entries, e)
	}
	dirs := []string{""}
	pick := func() string { return dirs[r.IntN(len(dirs))] + randomNames[r.IntN(6)] }
	taken := map[string]bool{}
	var regular []string
	for range 15 + r.IntN(30) {
		p := pick()
		if taken[p] {
			continue
		}
		taken[p] = true
		switch r.IntN(7) {
		case 0, 1:
			at(dir(p, []int64{0o755, 0o700, 0o1777, 0o2775}[r.IntN(4)]))
			dirs = append(dirs, p+"/")
			if r.IntN(3) == 0 {
				at(file(p+"/.wh..wh..opq", ""))
			}
		case 2:
			at(symlink(p, "somewhere/else"))
		case 3:
			if len(regular) > 0 {
				at(hardlink(p, regular[r.IntN(len(regular))]))
				continue
			}
			fallthrough
		case 4:
			dirName, base := splitName(p)
			if dirName != "" {
				dirName += "/"
			}
			at(file(dirName+".wh."+base, ""))
		default:
			at(file(p, string(randomBytes(r))))
			if r.IntN(4) == 0 { // a second time, the last counts
				at(file(p, "again"))
			}
			regular = append(regular, p)
		}
	}
	for i := range entries {
		if entries[i].Mode == 0 {
			entries[i].Mode = 0o644
		}
	}
	return writeTar(entries)
}

func writeTar(entries []tarEntry) []byte {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.body))
		if err := tw.WriteHeader(&h); err != nil {
			panic(err) // the names are ours
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			panic(err)
		}
	}
	if err := tw.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}
