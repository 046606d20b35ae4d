package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// File is one entry of a layer that WriteArchive makes: a directory (Mode has fs.ModeDir), a symbolic link (Link is
// set), or a regular file with the bytes of Data or, if From is set, of that file on this machine.
type File struct {
	Path     string      // in the image; a leading slash changes nothing
	Mode     fs.FileMode // permissions, setuid, setgid, sticky and ModeDir; 0 means 0755 for directories and 0644 for files
	UID, GID int
	Data     []byte
	From     string
	Link     string
}

// Tree is one layer to make. Parents that it does not list are added as root's with mode 0755.
type Tree []File

// Program is the tree of one static binary: the file from on this machine at path in the image, mode 0755.
func Program(path, from string) Tree { return Tree{{Path: path, From: from, Mode: 0o755}} }

// DirTree lists the regular files, directories and symbolic links under dir as a tree owned by root.
func DirTree(dir string) (Tree, error) {
	var t Tree
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		f := File{Path: filepath.ToSlash(rel), Mode: fi.Mode() & (fs.ModePerm | fs.ModeDir | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)}
		switch {
		case fi.Mode().IsRegular():
			f.From = p
		case fi.Mode()&fs.ModeSymlink != 0:
			if f.Link, err = os.Readlink(p); err != nil {
				return err
			}
		case !fi.IsDir():
			return fmt.Errorf("%s: neither file, directory nor symbolic link", p)
		}
		t = append(t, f)
		return nil
	})
	return t, err
}

// WriteArchive makes an image of linux and this program's architecture and writes it as an archive that Load, docker and
// podman take: name may be "", layers come lowest first. It is reproducible: no times, fixed order, no compression, so the
// same input makes the same bytes and digests. Files named by From are read twice.
func WriteArchive(w io.Writer, name string, cfg RunConfig, layers ...Tree) error {
	if err := writeArchive(w, name, cfg, layers); err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	return nil
}

func writeArchive(w io.Writer, name string, cfg RunConfig, layers []Tree) error {
	var blobs []blobSource
	var descs []ocispec.Descriptor
	img := archived{}
	epoch := time.Unix(0, 0).UTC()
	c := configFile{
		Created: &epoch, Platform: ocispec.Platform{OS: "linux", Architecture: goruntime.GOARCH},
		Config: cfg, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	for _, t := range layers {
		b, err := t.blob()
		if err != nil {
			return err
		}
		img.layers = append(img.layers, b.digest)
		descs = append(descs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: b.digest, Size: b.size})
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, b.digest)
		if !slices.ContainsFunc(blobs, func(o blobSource) bool { return o.digest == b.digest }) {
			blobs = append(blobs, b)
		}
	}
	config, err := json.Marshal(c)
	if err != nil {
		return err
	}
	manifest, err := manifestOf(config, descs)
	if err != nil {
		return err
	}
	if name != "" {
		n, err := ParseName(name)
		if err != nil {
			return err
		}
		img.names = []string{n.String()}
	}
	img.config = digest.FromBytes(config)
	img.manifest = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)), Platform: &c.Platform}
	return writeLayout(w, []archived{img}, append(blobs, bytesBlob(config), bytesBlob(manifest)))
}

// blob writes the tree once to learn its digest; the archive's writer writes it again.
func (t Tree) blob() (blobSource, error) {
	var n countingWriter
	h := digest.Canonical.Digester()
	if err := t.write(io.MultiWriter(h.Hash(), &n)); err != nil {
		return blobSource{}, err
	}
	want := h.Digest()
	return blobSource{want, int64(n), func(w io.Writer) error {
		h := digest.Canonical.Digester()
		if err := t.write(io.MultiWriter(w, h.Hash())); err != nil {
			return err
		}
		if h.Digest() != want {
			return fmt.Errorf("a file changed while it was read")
		}
		return nil
	}}, nil
}

type countingWriter int64

func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}

func (t Tree) write(w io.Writer) error {
	tw := tar.NewWriter(w)
	made := map[string]bool{"": true}
	for _, f := range t {
		f.Path = strings.TrimPrefix(path.Join("/", f.Path), "/")
		if f.Path == "" {
			continue
		}
		for _, dir := range parentsOf(f.Path) {
			if !made[dir] {
				made[dir] = true
				if err := (File{Path: dir, Mode: fs.ModeDir}).write(tw); err != nil {
					return err
				}
			}
		}
		made[f.Path] = true
		if err := f.write(tw); err != nil {
			return fmt.Errorf("file %s: %w", f.Path, err)
		}
	}
	return tw.Close()
}

// parentsOf lists the directories above a clean relative path, outermost first.
func parentsOf(name string) []string {
	var dirs []string
	for i := range name {
		if name[i] == '/' {
			dirs = append(dirs, name[:i])
		}
	}
	return dirs
}

func (f File) write(tw *tar.Writer) error {
	h := &tar.Header{
		Name: f.Path, Uid: f.UID, Gid: f.GID, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		Mode: int64(f.Mode.Perm()), Typeflag: tar.TypeReg,
	}
	for bit, mode := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if f.Mode&bit != 0 {
			h.Mode |= mode
		}
	}
	var body io.Reader = bytes.NewReader(f.Data)
	h.Size = int64(len(f.Data))
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name, h.Size, body = tar.TypeDir, f.Path+"/", 0, nil
		if h.Mode == 0 {
			h.Mode = 0o755
		}
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode, h.Size, body = tar.TypeSymlink, f.Link, 0o777, 0, nil
	case f.From != "":
		in, err := os.Open(f.From)
		if err != nil {
			return err
		}
		defer in.Close()
		fi, err := in.Stat()
		if err != nil {
			return err
		}
		h.Size, body = fi.Size(), in
		fallthrough
	default:
		if h.Mode == 0 {
			h.Mode = 0o644
		}
	}
	if err := tw.WriteHeader(h); err != nil || body == nil {
		return err
	}
	_, err := io.Copy(tw, body)
	return err
}
