package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bench is a directory with all that a program needs.
type bench struct {
	dir         string // programs run here: runtimetest and the root file system lie in it
	bin         string // the programs, runc and shoal-oci
	programs    []string
	runcVersion string
}

func goTool(ctx context.Context, dir string, cgo bool, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// build makes the suite's programs and a runc of the version in go.mod. The Go cache makes that quick the second time.
func build(ctx context.Context, binary, out string) (*bench, error) {
	b := &bench{dir: filepath.Join(out, "work"), bin: filepath.Join(out, "bin")}
	for _, d := range []string{b.dir, b.bin} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	raw, err := goTool(ctx, ".", false, "list", "-m", "-json", runcModule)
	if err != nil {
		return nil, err
	}
	var runc, tools struct{ Dir, Version string }
	if err := json.Unmarshal(raw, &runc); err != nil {
		return nil, err
	}
	b.runcVersion = runc.Version
	install := exec.CommandContext(ctx, "go", "install", "-tags", buildTags, "-ldflags", "-s -w -extldflags -static", runcModule+"@"+runc.Version)
	install.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=", "GOBIN="+b.bin)
	if text, err := install.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build runc %s: %w: %s", runc.Version, err, text)
	}
	if raw, err = goTool(ctx, suiteDir, false, "mod", "download", "-json", toolsModule); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &tools); err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(filepath.Join(tools.Dir, "validation"))
	if err != nil {
		return nil, err
	}
	args := []string{"build", "-o", b.bin + "/", toolsModule + "/cmd/runtimetest"}
	for _, d := range dirs {
		if name := d.Name(); d.IsDir() && name != "util" {
			b.programs = append(b.programs, name)
			args = append(args, toolsModule+"/validation/"+name)
		}
	}
	if _, err := goTool(ctx, suiteDir, false, args...); err != nil {
		return nil, err
	}
	return b, b.lay(binary, tools.Dir)
}

// lay puts what programs look for into their directory.
func (b *bench) lay(binary, tools string) error {
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("the shoal to judge: %w (make build)", err)
	}
	link := filepath.Join(b.bin, "shoal-oci")
	_ = os.Remove(link)
	if err := os.Symlink(binary, link); err != nil {
		return err
	}
	roots, err := filepath.Glob(filepath.Join(tools, "rootfs-*.tar.gz"))
	if err != nil {
		return err
	}
	for _, from := range append(roots, filepath.Join(b.bin, "runtimetest")) {
		raw, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.dir, filepath.Base(from)), raw, 0o755); err != nil {
			return err
		}
	}
	return nil
}
