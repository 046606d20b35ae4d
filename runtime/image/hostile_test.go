//go:build linux

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime/step/disk"
)

// hostileWant is how many hostile layers issue 3 asks for, at least.
const hostileWant = 150

// Limits of one hostile layer: most take milliseconds.
const (
	hostileTime = 30 * time.Second
	hostileHeap = 512 << 20
)

// canary is a tree outside of what is unpacked. No archive may change anything of it.
type canary struct{ root string }

func newCanary(t *testing.T, at string) canary {
	t.Helper()
	c := canary{filepath.Join(at, "canary")}
	for _, d := range []string{"dir/sub", "empty", "opaque"} {
		if err := os.MkdirAll(filepath.Join(c.root, d), 0o751); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"file", "dir/file", "dir/sub/deep", "opaque/below"} {
		if err := os.WriteFile(filepath.Join(c.root, f), []byte("do not touch "+f), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("file", filepath.Join(c.root, "link")); err != nil {
		t.Fatal(err)
	}
	return c
}

// look is all there is to see of a tree: names, types, modes, owners, links, times of change, content.
func look(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d links %d mtime %v ctime %v %s", p, fi.Mode(), st.Uid, st.Gid, st.Nlink, st.Mtim, st.Ctim, xattrs(t, p))
		switch {
		case fi.Mode().IsRegular():
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %x", sha256.Sum256(raw))
		case fi.Mode()&fs.ModeSymlink != 0:
			l, _ := os.Readlink(p)
			fmt.Fprintf(&b, " -> %s", l)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// hostileLayers is a table of ways in times what is done there. out is the canary's absolute path; root's parent holds it.
func hostileLayers(out string) map[string][]tarEntry {
	up := strings.Repeat("../", 40)
	outRel := strings.TrimPrefix(out, "/")
	all := map[string][]tarEntry{}
	// Ways to a directory outside: entries that prepare it, and the name that then stands for it.
	ways := map[string]struct {
		prepare []tarEntry
		dir     string
	}{
		"absolute link":         {[]tarEntry{symlink("l", out)}, "l"},
		"relative link":         {[]tarEntry{symlink("l", up+outRel)}, "l"},
		"near relative link":    {[]tarEntry{symlink("l", "../canary")}, "l"},
		"chain of links":        {[]tarEntry{symlink("a", "b"), symlink("b", "c/"), symlink("c", out)}, "a"},
		"link in a directory":   {[]tarEntry{dir("d", 0o755), symlink("d/l", "../../canary")}, "d/l"},
		"link to the parent":    {[]tarEntry{symlink("l", "..")}, "l/canary"},
		"link to /":             {[]tarEntry{symlink("l", "/")}, "l/" + outRel},
		"link by way of proc":   {[]tarEntry{symlink("l", "/proc/self/cwd/../../../../../.."+out)}, "l"},
		"magic link":            {[]tarEntry{symlink("l", "/proc/self/root"+out)}, "l"},
		"link replaced":         {[]tarEntry{dir("l", 0o755), file("l/x", "x"), symlink("l", out)}, "l"},
		"whiteout then link":    {[]tarEntry{file("l/.wh.file", ""), symlink("l", out)}, "l"},
		"hard link to a link":   {[]tarEntry{symlink("s", out), hardlink("l", "s")}, "l"},
		"dot dot":               {nil, "../canary"},
		"dot dot in the middle": {[]tarEntry{dir("a", 0o755)}, "a/../../canary"},
		"many dot dots":         {nil, up + outRel},
		"dot dot behind dots":   {nil, "./.././..//../" + outRel},
		"absolute name":         {nil, out},
		"double slash":          {nil, "//" + outRel},
		"dot dot behind a link": {[]tarEntry{symlink("l", "/")}, "l/../" + outRel},
		"link over a directory": {[]tarEntry{dir("l", 0o755), dir("l/dir", 0o755), symlink("l", out), dir("l/dir", 0o777)}, "l"},
	}
	// What is done in that directory.
	deeds := map[string]func(dir string) []tarEntry{
		"new file":        func(d string) []tarEntry { return []tarEntry{file(d+"/escaped", "x")} },
		"old file":        func(d string) []tarEntry { return []tarEntry{file(d+"/file", "x")} },
		"file in new dir": func(d string) []tarEntry { return []tarEntry{file(d+"/n/e/w", "x")} },
		"directory mode":  func(d string) []tarEntry { return []tarEntry{dir(d+"/dir", 0o4777)} },
		"itself":          func(d string) []tarEntry { return []tarEntry{dir(d, 0o777)} },
		"itself slash":    func(d string) []tarEntry { return []tarEntry{dir(d+"/", 0o777)} },
		"itself dot":      func(d string) []tarEntry { return []tarEntry{dir(d+"/.", 0o777)} },
		"link":            func(d string) []tarEntry { return []tarEntry{symlink(d+"/link", "/etc")} },
		"hard link to":    func(d string) []tarEntry { return []tarEntry{hardlink("h", d+"/file"), file("h", "overwritten")} },
		"hard link from":  func(d string) []tarEntry { return []tarEntry{file("own", "x"), hardlink(d+"/file", "own")} },
		"fifo":            func(d string) []tarEntry { return []tarEntry{node(d+"/fifo", tar.TypeFifo, 0, 0)} },
		"device":          func(d string) []tarEntry { return []tarEntry{node(d+"/file", tar.TypeBlock, 8, 0)} },
		"whiteout":        func(d string) []tarEntry { return []tarEntry{file(d+"/.wh.file", "")} },
		"whiteout of dir": func(d string) []tarEntry { return []tarEntry{file(d+"/.wh.dir", "")} },
		"opaque":          func(d string) []tarEntry { return []tarEntry{file(d+"/.wh..wh..opq", "")} },
		"dir over file":   func(d string) []tarEntry { return []tarEntry{dir(d+"/file", 0o755), file(d+"/file/x", "x")} },
		"file over dir":   func(d string) []tarEntry { return []tarEntry{file(d+"/dir", "x")} },
		"reopen whiteout": func(d string) []tarEntry { return []tarEntry{file(d+"/.wh.file", ""), file(d+"/file/x", "x")} },
	}
	for way, w := range ways {
		for deed, f := range deeds {
			all[way+": "+deed] = append(slices.Clone(w.prepare), f(w.dir)...)
		}
	}
	for name, entries := range hostileOdds(out) {
		all["odd: "+name] = entries
	}
	return all
}

func node(name string, kind byte, major, minor int64) tarEntry {
	return tarEntry{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o666, Devmajor: major, Devminor: minor}}
}

func pax(e tarEntry, records map[string]string) tarEntry {
	e.PAXRecords, e.Format = records, tar.FormatPAX
	return e
}

// hostileOdds are those that no table makes.
func hostileOdds(out string) map[string][]tarEntry {
	long := strings.Repeat("n", 255)
	deep := strings.Repeat("d/", 1500)
	var loop, wide, links []tarEntry
	for i := range 60 {
		loop = append(loop, symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d/x", (i+1)%60)))
	}
	for i := range 3000 {
		wide = append(wide, dir(fmt.Sprintf("w%d", i), 0o000))
	}
	links = append(links, file("f", "x"))
	for i := range 3000 {
		links = append(links, hardlink(fmt.Sprintf("h%d", i), "f"))
	}
	return map[string][]tarEntry{
		"whiteout of ..":             {file(".wh...", "")},
		"whiteout of .":              {file(".wh..", "")},
		"whiteout of nothing":        {file(".wh.", "")},
		"whiteout of .. below":       {file("d/.wh...", "")},
		"whiteout of a whiteout":     {file(".wh..wh.x", "")},
		"whiteout with a slash":      {file(".wh.a/../../canary", "")},
		"opaque root":                {file(".wh..wh..opq", "")},
		"opaque as directory":        {dir(".wh..wh..opq", 0o755), file(".wh..wh..opq/x", "x")},
		"whiteout as directory":      {dir(".wh.d", 0o755), file(".wh.d/x", "x")},
		"whiteout as link":           {symlink(".wh.d", out), file(".wh.d/x", "x")},
		"hard link to ..":            {hardlink("h", "..")},
		"hard link to /":             {hardlink("h", "/")},
		"hard link to nothing":       {hardlink("h", "missing")},
		"hard link to a directory":   {dir("d", 0o755), hardlink("h", "d")},
		"hard link to itself":        {file("f", "x"), hardlink("f", "f")},
		"hard link to missing self":  {hardlink("f", "f")},
		"hard link absolute":         {hardlink("h", out+"/file"), file("h", "overwritten")},
		"hard link then device":      {file("f", "x"), hardlink("h", "f"), node("h", tar.TypeChar, 1, 3)},
		"link to itself":             {symlink("l", "l"), file("l/x", "x")},
		"loop of links":              append(loop, file("l0/y", "x")),
		"empty link":                 {symlink("l", "")},
		"long link":                  {symlink("l", strings.Repeat("x/", 2000)), file("l/x", "x")},
		"too long link":              {symlink("l", strings.Repeat("x", 5000))},
		"root as file":               {file("/", "x")},
		"root as dot":                {file(".", "x")},
		"root as link":               {symlink("./", out), file("escaped", "x")},
		"root as hard link":          {file("f", "x"), hardlink("/", "f")},
		"root as device":             {node("/", tar.TypeBlock, 8, 0)},
		"root removed":               {file("../.wh.root", "")},
		"empty name":                 {file("", "x")},
		"name of 255":                {file(long, "x")},
		"name of 256":                {file(long+"n", "x")},
		"path of 4096":               {file(strings.Repeat("p/", 2047)+"xx", "x")},
		"path too long":              {file(strings.Repeat("p/", 2100)+"x", "x")},
		"deep":                       {file(deep+"x", "x")},
		"deep, then replaced":        {file(deep+"x", "x"), file("d", "now a file")},
		"deep, replaced, again":      {file(deep+"x", "x"), symlink("d", out), file(deep+"x", "x")},
		"wide and closed":            append(wide, file("w1/x", "x")),
		"many links":                 links,
		"file as parent":             {file("f", "x"), file("f/x", "x")},
		"fifo as parent":             {node("f", tar.TypeFifo, 0, 0), file("f/x", "x")},
		"device as parent":           {node("c", tar.TypeChar, 1, 3), file("c/x", "x")},
		"whiteout device as parent":  {node("c", tar.TypeChar, 0, 0), file("c/x", "x")},
		"types in turn":              {file("t", "x"), dir("t", 0o755), symlink("t", out), node("t", tar.TypeFifo, 0, 0), hardlink("t", "t"), file("t", "y"), dir("t", 0o700), file("t/x", "x")},
		"same entry twice":           {file("f", "1"), file("f", "2"), dir("d", 0o700), dir("d", 0o755)},
		"dir over a link":            {symlink("d", out), dir("d", 0o777), file("d/x", "x")},
		"implicit dir over a link":   {symlink("d", out), file("d/x", "x")},
		"dangling link as parent":    {symlink("d", "made/here"), file("d/x", "x")},
		"dangling link to outside":   {symlink("d", "../../made/here"), file("d/x", "x")},
		"dangling link, absolute":    {symlink("d", out+"/new/er"), file("d/x", "x")},
		"setuid through a link":      {symlink("d", out), {Header: tar.Header{Name: "d/file", Typeflag: tar.TypeReg, Mode: 0o6777}}},
		"times of a replaced dir":    {dir("d", 0o755), symlink("d", out)},
		"times below a replaced dir": {dir("d", 0o755), dir("d/dir", 0o755), symlink("d", out)},
		"overlay attributes":         {pax(file("f", "x"), map[string]string{paxXattr + "trusted.overlay.redirect": out, paxXattr + "trusted.overlay.metacopy": ""})},
		"overlay attributes of user": {pax(dir("d", 0o755), map[string]string{paxXattr + "user.overlay.opaque": "y"})},
		"capability on a link":       {pax(symlink("l", out), map[string]string{paxXattr + "security.capability": "x"})},
		"bad capability":             {pax(file("f", "x"), map[string]string{paxXattr + "security.capability": "x"})},
		"attribute through a link":   {symlink("l", out+"/file"), pax(file("l", "x"), map[string]string{paxXattr + "user.x": "y"})},
		"acl of nonsense":            {pax(file("f", "x"), map[string]string{paxXattr + "system.posix_acl_access": "nonsense"})},
		"long attribute name":        {pax(file("f", "x"), map[string]string{paxXattr + "user." + strings.Repeat("x", 300): "y"})},
		"pax path":                   {pax(file("f", "x"), map[string]string{"path": "../../canary/file"})},
		"pax link":                   {pax(hardlink("h", "f"), map[string]string{"linkpath": out + "/file"})},
		"device numbers":             {node("d", tar.TypeBlock, 1<<11, 1<<19)},
		"negative device":            {node("d", tar.TypeChar, -1, -1)},
		"huge owner":                 {{Header: tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: 1<<32 - 1, Format: tar.FormatPAX}}},
		"negative owner":             {{Header: tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: -5, Format: tar.FormatGNU}}},
		"far future":                 {{Header: tar.Header{Name: "f", Typeflag: tar.TypeReg, ModTime: time.Unix(1<<40, 0), Format: tar.FormatPAX}}},
		"far past":                   {{Header: tar.Header{Name: "f", Typeflag: tar.TypeReg, ModTime: time.Unix(-1<<40, 0), Format: tar.FormatPAX}}},
		"disk of the host":           {node("sda", tar.TypeBlock, 8, 0), file("sda", "x")},
		"kernel memory":              {node("mem", tar.TypeChar, 1, 1), file("mem", "x"), file("mem/x", "x")},
	}
}

// hostileTar is tarOf for what archive/tar may refuse to write; nil then.
func hostileTar(entries []tarEntry) []byte {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Mode == 0 && h.Typeflag == tar.TypeReg {
			h.Mode = 0o644
		}
		h.Size = int64(len(e.body))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_000_000_000, 0)
		}
		if tw.WriteHeader(&h) != nil {
			return nil
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			return nil
		}
	}
	if tw.Close() != nil {
		return nil
	}
	return b.Bytes()
}

// rawTars are archives that archive/tar does not write.
func rawTars(t *testing.T) map[string][]byte {
	t.Helper()
	whole := tarOf(t, file("a", strings.Repeat("x", 1000)), file("b", "y"))
	edit := func(at int, b ...byte) []byte {
		c := bytes.Clone(whole)
		copy(c[at:], b)
		return checksummed(c)
	}
	longname := func(n int) []byte { // a GNU long name of n bytes
		body := make([]byte, (n+511)/512*512)
		copy(body, bytes.Repeat([]byte("../"), n/3))
		h := tarHeader("././@LongLink", 'L', int64(n))
		return append(append(append(h, body...), tarHeader("short", '0', 0)...), make([]byte, 1024)...)
	}
	return map[string][]byte{
		"unknown type":       edit(156, 'Z'),
		"contiguous file":    edit(156, '7'),
		"multi volume":       edit(156, 'M'),
		"negative size":      edit(124, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0),
		"size beyond end":    edit(124, []byte("77777777777\x00")...),
		"huge binary size":   edit(124, 0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"cut in a header":    whole[:300],
		"cut in a file":      whole[:900],
		"cut before the end": whole[:len(whole)-1024],
		"one zero block":     append(bytes.Clone(whole[:1536]), make([]byte, 512)...),
		"wrong checksum":     append([]byte{'X'}, whole[1:]...),
		"long name dot dot":  longname(300),
		"long name of 1 MB":  longname(1 << 20),
		"long name twice":    append(longname(300)[:1024], longname(300)...),
		"garbage after":      append(bytes.Clone(whole), bytes.Repeat([]byte("garbage "), 1000)...),
		"no tar":             bytes.Repeat([]byte("not a tar "), 1000),
		"only zeros":         make([]byte, 1<<20),
		"pax of nonsense":    append(append(tarHeader("PaxHeaders/x", 'x', 512), bytes.Repeat([]byte("9"), 512)...), tarHeader("f", '0', 0)...),
		"pax huge record":    append(append(tarHeader("PaxHeaders/x", 'x', 512), append([]byte("99999999999 path=x\n"), make([]byte, 493)...)...), tarHeader("f", '0', 0)...),
		"pax sparse map":     append(append(tarHeader("PaxHeaders/x", 'x', 512), paxBody("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9999999999999999")...), append(tarHeader("f", '0', 512), bytes.Repeat([]byte("9\n"), 256)...)...),
		"sparse terabyte":    append(append(tarHeader("PaxHeaders/x", 'x', 512), paxBody("GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.size=1099511627776", "GNU.sparse.numblocks=0", "GNU.sparse.map=")...), append(tarHeader("f", '0', 0), make([]byte, 1024)...)...),
		"sparse gigabytes":   append(append(tarHeader("PaxHeaders/x", 'x', 512), paxBody("GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.size=4294967296", "GNU.sparse.numblocks=0", "GNU.sparse.map=")...), append(tarHeader("f", '0', 0), make([]byte, 1024)...)...),
	}
}

func paxBody(records ...string) []byte {
	var b []byte
	for _, r := range records {
		n := len(r) + 2
		for len(fmt.Sprint(n))+len(r)+2 != n {
			n++
		}
		b = append(b, fmt.Sprintf("%d %s\n", n, r)...)
	}
	return append(b, make([]byte, 512-len(b))...)
}

func tarHeader(name string, kind byte, size int64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	return checksummed(h)
}

// checksummed makes the first header's checksum right.
func checksummed(b []byte) []byte {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// No hostile layer changes anything outside of the directory it is unpacked into, and each ends in a tree or in an error
// within bounded time and memory. In this process, without the chroot that the agent adds.
func TestHostileLayersTouchNothing(t *testing.T) {
	needRoot(t)
	base := disk.InMemory(t)
	c := newCanary(t, base)
	before := look(t, c.root)
	tars := map[string][]byte{}
	for name, entries := range hostileLayers(c.root) {
		if raw := hostileTar(entries); raw != nil {
			tars[name] = raw
		}
	}
	for name, raw := range rawTars(t) {
		tars["raw: "+name] = raw
	}
	packed := []struct {
		name string
		pack func([]byte) []byte
	}{
		{"", func(b []byte) []byte { return b }},
		{"gzip ", func(b []byte) []byte { return gzipped(b).stored }},
		{"zstd ", func(b []byte) []byte { return zstded(b).stored }},
	}
	ran, refused := 0, 0
	names := make([]string, 0, len(tars))
	for name := range tars {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		p := packed[i%len(packed)] // each archive in one of the packings, each packing with a third of them
		root := filepath.Join(base, "root")
		if err := makeRoot(root); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
		begun := time.Now()
		_, err := extractLayer(ctx, bytes.NewReader(p.pack(tars[name])), root, false)
		cancel()
		if ctx.Err() == context.DeadlineExceeded || time.Since(begun) > hostileTime {
			t.Errorf("%s%s: took %v", p.name, name, time.Since(begun))
		}
		if err != nil {
			refused++
			if isMachineError(err) {
				t.Errorf("%s%s: %v: blamed on the machine", p.name, name, err)
			}
		}
		if after := look(t, c.root); after != before {
			t.Fatalf("%s%s (%v) changed what is outside:\n%s\nbefore:\n%s", p.name, name, err, after, before)
		}
		if others, _ := os.ReadDir(base); len(others) != 2 {
			t.Fatalf("%s%s left something beside its directory: %v", p.name, name, others)
		}
		if blocks := diskUse(t, root); blocks > 64<<20 {
			t.Errorf("%s%s: takes %d bytes of disk", p.name, name, blocks)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Fatalf("%s%s: its tree cannot be removed: %v", p.name, name, err)
		}
		ran++
	}
	if ran < hostileWant {
		t.Errorf("%d hostile layers, want at least %d", ran, hostileWant)
	}
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err == nil && use.Maxrss<<10 > hostileHeap {
		t.Errorf("the process grew to %d bytes", use.Maxrss<<10)
	}
	t.Logf("%d hostile layers: %d refused, %d unpacked inside", ran, refused, ran-refused)
}

func diskUse(t *testing.T, root string) int64 {
	t.Helper()
	var n int64
	_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a path that is too long to walk by name
		}
		if fi, err := d.Info(); err == nil {
			n += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return n
}
