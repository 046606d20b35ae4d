package machines

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"shoal/runtime/image"
)

// DebianImage writes an image archive of Debian packages, of the libraries that they need, and of busybox for a shell
// and tools where the packages bring none; cfg says how it runs, and extra files lie above all. Packages are downloaded
// once, into the build directory of the repository; nothing is installed.
func DebianImage(name string, cfg image.RunConfig, extra image.Tree, packages ...string) ([]byte, error) {
	root, err := DebianTree(packages...)
	if err != nil {
		return nil, err
	}
	debian, err := image.DirTree(root)
	if err != nil {
		return nil, err
	}
	debian = slices.DeleteFunc(debian, func(f image.File) bool { return strings.HasPrefix(f.Path, "usr/share/") })
	there := map[string]bool{}
	for _, f := range debian {
		there[f.Path] = true
	}
	tools, err := busyboxTree()
	if err != nil {
		return nil, err
	}
	tools = slices.DeleteFunc(tools, func(f image.File) bool {
		base := filepath.Base(f.Path)
		return there["bin/"+base] || there["usr/bin/"+base] || there["usr/sbin/"+base] || there["sbin/"+base]
	})
	cfg.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, cfg.Env...)
	var b bytes.Buffer
	if err := image.WriteArchive(&b, name, cfg, debian, tools, extra); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// DebianTree unpacks Debian packages, with the libraries that they need, into a directory that it gives. The caller must
// not change what is in there: later runs use it again.
func DebianTree(packages ...string) (string, error) {
	build, err := buildDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(strings.Join(packages, " ")))
	root := filepath.Join(build, "debian", packages[0]+"-"+hex.EncodeToString(sum[:4]))
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(root), ".unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := unpackDebian(tmp, packages); err != nil {
		return "", fmt.Errorf("unpack Debian packages %s: %w", strings.Join(packages, ", "), err)
	}
	err = os.Rename(filepath.Join(tmp, "root"), root)
	if errors.Is(err, os.ErrExist) {
		err = nil // another run was faster
	}
	return root, err
}

func unpackDebian(tmp string, packages []string) error {
	all, err := withLibraries(packages)
	if err != nil {
		// A fresh machine may never have heard what its archive has.
		if err := aptGet(tmp, "update", "-qq"); err != nil {
			return err
		}
		if all, err = withLibraries(packages); err != nil {
			return err
		}
	}
	download := append([]string{"download", "-qq", "-o", "APT::Sandbox::User=root"}, all...)
	if aptGet(tmp, download...) != nil { // a list that is too old names files that are gone
		if err := aptGet(tmp, "update", "-qq"); err != nil {
			return err
		}
		if err := aptGet(tmp, download...); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) < len(all) {
		return fmt.Errorf("apt-get gave %d of %d packages: %w", len(debs), len(all), err)
	}
	root := filepath.Join(tmp, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	for _, d := range debs {
		if err := run("dpkg", "-x", d, root); err != nil {
			return err
		}
	}
	return nil
}

func aptGet(dir string, args ...string) error {
	cmd := exec.Command("apt-get", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s (these tests need a Debian or Ubuntu that reaches its package archive)",
			strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

var packageName = regexp.MustCompile(`[a-z0-9][a-z0-9+.-]+`)

// withLibraries adds to packages the libraries that they depend on, and these in turn. Other dependencies (scripts of
// the installation, daemons) are left out: an image does without them.
func withLibraries(packages []string) ([]string, error) {
	known := map[string]bool{}
	for _, p := range packages {
		known[p] = true
	}
	all, fresh := slices.Clone(packages), packages
	for named := true; len(fresh) > 0; named = false {
		records, err := aptShow(fresh)
		if err != nil && named {
			return nil, err
		}
		var next []string
		for _, r := range records {
			if !named && r["Section"] != "libs" {
				continue
			}
			if name := r["Package"]; !slices.Contains(all, name) {
				all = append(all, name)
			}
			for _, d := range strings.Split(r["Pre-Depends"]+","+r["Depends"], ",") {
				if name := packageName.FindString(d); name != "" && !known[name] { // the first of alternatives
					known[name] = true
					next = append(next, name)
				}
			}
		}
		fresh = next
	}
	slices.Sort(all)
	return all, nil
}

// aptShow gives the control fields of those of the packages that are no virtual ones.
func aptShow(packages []string) ([]map[string]string, error) {
	cmd := exec.Command("apt-cache", append([]string{"show", "--no-all-versions"}, packages...)...)
	out, err := cmd.Output()
	var records []map[string]string
	for _, block := range strings.Split(string(out), "\n\n") {
		r := map[string]string{}
		for line := range strings.Lines(block) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, " ") {
				r[k] = v
			}
		}
		if r["Package"] != "" {
			records = append(records, r)
		}
	}
	if err != nil {
		err = fmt.Errorf("apt-cache show %s: %w", strings.Join(packages, " "), err)
	}
	return records, err
}

// buildDir is the repository's directory for what building makes.
func buildDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "build"), nil
		}
	}
	return "", errors.New("no go.mod above the working directory: run this inside of the repository")
}
