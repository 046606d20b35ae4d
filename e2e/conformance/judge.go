package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const programLimit = 90 * time.Second

// verdict counts what a program found, assertion by assertion.
type verdict struct {
	ok, not int
	failed  bool // it ended with an error, or not in time
}

func (v verdict) clean() bool { return v.not == 0 && !v.failed }

func (v verdict) String() string {
	s := fmt.Sprintf("%d/%d", v.ok, v.not)
	if v.failed {
		s += " failed"
	}
	return s
}

// worseThan also compares how many held: a program that ends early finds no fault.
func (v verdict) worseThan(o verdict) bool {
	return v.not > o.not || v.ok < o.ok || v.failed && !o.failed
}

type total struct{ ok, not, clean, programs int }

func (t *total) add(v verdict) {
	t.ok, t.not, t.programs = t.ok+v.ok, t.not+v.not, t.programs+1
	if v.clean() {
		t.clean++
	}
}

func (t total) String() string {
	return fmt.Sprintf("%d of %d programs all clean, %d assertions ok, %d not", t.clean, t.programs, t.ok, t.not)
}

var assertion = regexp.MustCompile(`(?m)^\s*(not )?ok\b.*$`)

// judge runs one program against a runtime, keeps its output, and clears what containers it has left.
func (b *bench) judge(ctx context.Context, name, runtime string) (verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, programLimit)
	defer cancel()
	before := cgroups()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, name))
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, &out, &out
	cmd.Env = append(os.Environ(), "RUNTIME="+filepath.Join(b.bin, runtime), "TMPDIR="+b.dir)
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return verdict{}, ctx.Err()
	}
	v := verdict{failed: err != nil}
	for _, line := range assertion.FindAllString(out.String(), -1) {
		switch line = strings.TrimSpace(line); {
		case strings.Contains(line, "# SKIP") || strings.Contains(line, "# TODO"):
		case strings.HasPrefix(line, "not"):
			v.not++
		default:
			v.ok++
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(b.bin), name+"."+runtime+".txt"), out.Bytes(), 0o644); err != nil {
		return verdict{}, err
	}
	b.clear(runtime)
	return v, clearCgroups(before)
}

// clear deletes the containers that a program has left, as it would have.
func (b *bench) clear(runtime string) {
	tool := filepath.Join(b.bin, runtime)
	ids, _ := exec.Command(tool, "list", "-q").Output() // without containers there is nothing to list
	for id := range strings.FieldsSeq(string(ids)) {
		_ = exec.Command(tool, "delete", "--force", id).Run()
	}
	left, _ := filepath.Glob(filepath.Join(b.dir, "ocitest*")) // the pattern is right
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
}

// cgroups lists all there are.
func cgroups() map[string]bool {
	all := map[string]bool{}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all[path] = true
		}
		return nil
	})
	return all
}

// clearCgroups removes the cgroups that were not there before and hold nothing any more, and whose names are the suite's.
func clearCgroups(before map[string]bool) error {
	var added []string
	for path := range cgroups() {
		if !before[path] && suiteNames.MatchString(path) {
			added = append(added, path)
		}
	}
	slices.Sort(added)
	var errs []error
	for _, path := range slices.Backward(added) { // children first
		var err error
		for wait := time.Millisecond; wait < time.Second; wait *= 2 { // the last process may still be dying
			if err = os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
				err = nil
				break
			}
			time.Sleep(wait)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// suiteNames are the cgroups that the suite's programs name, those of containers without one, which are UUIDs, and those of
// engines, which are under docker and libpod_parent or of 64 hexadecimal digits.
var suiteNames = regexp.MustCompile(`/(runtime-?tool(s)?|cgrouptest|testdir|test|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|docker|libpod_parent|(libpod-)?[0-9a-f]{64})(/|$)`)
