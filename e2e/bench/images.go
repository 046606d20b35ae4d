package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"shoal/e2e/machines"
)

// What the image of this group is: issue 3 says 250 MB in five layers.
const (
	imageLayers     = 5
	imageLayerBytes = 50_000_000 // inflated
	imageName       = "bench/big"
)

var imagesGroup = group{
	name: "images",
	how: "load and unpack of an image of 250 MB in five layers, made of this machine's /usr/lib and /usr/share (so the compression is a real one): `shoal image load` " +
		"on a node against `docker load` of the distribution's dockerd (overlay2, in namespaces of its own), the same archive, interleaved. Each load is the first on a fresh ext4 " +
		"in a file, because ext4 is slow to take inodes again that were freed in the last minutes. Both commands return when the layers are unpacked. Of ours the blobs are on disk then and the unpacked trees are synced behind; " +
		"docker's are in the page cache. Docker 20.10 has no zstd: ours with zstd is compared with docker and gzip.",
	enabled: func(b *bench) bool { return b.peers },
	run:     measureImages,
}

func measureImages(b *bench) (err error) {
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	archives := map[string]string{}
	for kind, compress := range compressions {
		archives[kind] = filepath.Join(dir, kind+".tar")
		b.progress("building the archive with %s", kind)
		if err := bigArchive(archives[kind], compress); err != nil {
			return err
		}
	}
	docker := &series{name: "docker load, gzip", unit: Seconds}
	all := []*series{docker}
	for _, kind := range []string{"gzip", "zstd"} {
		ours := &series{name: "shoal image load and unpack, " + kind, unit: Seconds}
		times := &series{name: "docker (gzip) / shoal, " + kind, unit: Times, goal: &Goal{Bound: 2, AtLeast: true}}
		for range b.samples {
			theirs, err := b.dockerLoad(dir, archives["gzip"])
			if err != nil {
				return err
			}
			took, err := b.shoalLoad(dir, archives[kind])
			if err != nil {
				return err
			}
			docker.took(theirs)
			ours.took(took)
			times.add(theirs.Seconds() / took.Seconds())
		}
		all = append(all, ours, times)
	}
	return b.keep("images", all...)
}

const diskBytes = 4 << 30 // sparse

// freshDisk makes a file with an empty ext4.
func freshDisk(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 %s: %w: %s", path, err, out)
	}
	unix.Sync()
	return nil
}

func (b *bench) dockerLoad(dir, archive string) (took time.Duration, err error) {
	disk, at := filepath.Join(dir, "docker.img"), filepath.Join(dir, "docker")
	if err := errors.Join(freshDisk(disk), os.MkdirAll(at, 0o700)); err != nil {
		return 0, err
	}
	if out, err := exec.Command("mount", "-o", "loop", disk, at).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("mount %s: %w: %s", disk, err, out)
	}
	defer func() { err = errors.Join(err, unix.Unmount(at, 0)) }()
	home := filepath.Join(at, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return 0, err
	}
	d, err := startDocker(home)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	begun := time.Now()
	err = d.do(b.ctx, nil, "load", "--quiet", "--input", archive)
	return time.Since(begun), err
}

func (b *bench) shoalLoad(dir, archive string) (took time.Duration, err error) {
	disk := filepath.Join(dir, "shoal.img")
	if err := freshDisk(disk); err != nil {
		return 0, err
	}
	err = b.withMachines(1, machines.MachineOptions{DiskImage: disk}, func(c *cluster) error {
		m := c.net.Machines()[0]
		begun := time.Now()
		if r := m.Shoal("image", "load", "--input", archive); r.Code != 0 {
			return r
		}
		took = time.Since(begun)
		trees, err := filepath.Glob(filepath.Join(m.DataDir(), "images/layers/sha256/*.json"))
		if err == nil && len(trees) != imageLayers {
			err = fmt.Errorf("%d layers are unpacked after a load, want %d", len(trees), imageLayers)
		}
		return err
	})
	return took, err
}

var compressions = map[string]func(io.Writer) (io.WriteCloser, error){
	"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, 6) },
	"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
}

// bigArchive writes an image as docker save does, with compressed layers.
func bigArchive(path string, compress func(io.Writer) (io.WriteCloser, error)) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	tw := tar.NewWriter(f)
	put := func(name string, b []byte) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := tw.Write(b)
		return err
	}
	files, err := someFiles("/usr/lib", "/usr/share")
	if err != nil {
		return err
	}
	var layers, diffIDs []string
	for i := range imageLayers {
		var raw bytes.Buffer
		if files, err = layerOf(&raw, files); err != nil {
			return err
		}
		sum := sha256.Sum256(raw.Bytes())
		diffIDs = append(diffIDs, "sha256:"+hex.EncodeToString(sum[:]))
		var packed bytes.Buffer
		z, err := compress(&packed)
		if err != nil {
			return err
		}
		if _, err := raw.WriteTo(z); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		name := fmt.Sprintf("%d/layer.tar", i)
		layers = append(layers, name)
		if err := put(name, packed.Bytes()); err != nil {
			return err
		}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{imageName + ":1"}, "Layers": layers}})
	if err != nil {
		return err
	}
	return errors.Join(put("config.json", config), put("manifest.json", manifest), tw.Close(), f.Close())
}

// someFiles lists regular files in a fixed order that mixes large and small ones.
func someFiles(dirs ...string) ([]string, error) {
	var files []string
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(files, func(a, b string) int {
		x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
		return bytes.Compare(x[:], y[:])
	})
	return files, nil
}

// layerOf writes files as a tar of imageLayerBytes and returns those that are left.
func layerOf(w *bytes.Buffer, files []string) ([]string, error) {
	tw := tar.NewWriter(w)
	made := map[string]bool{}
	for i, path := range files {
		if w.Len() >= imageLayerBytes {
			return files[i:], tw.Close()
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) > imageLayerBytes/2 {
			continue
		}
		for dir := filepath.Dir(path); dir != "/" && !made[dir]; dir = filepath.Dir(dir) {
			made[dir] = true
			if err := tw.WriteHeader(&tar.Header{Name: dir[1:] + "/", Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
				return nil, err
			}
		}
		if err := tw.WriteHeader(&tar.Header{Name: path[1:], Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg, ModTime: time.Unix(1e9, 0)}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(b); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("this machine's /usr is smaller than the %d bytes that the image is made of", imageLayers*imageLayerBytes)
}
