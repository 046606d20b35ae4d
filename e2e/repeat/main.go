// Command repeat runs the tests of packages again and again and counts which of them fail how often. It knows nothing of
// what they test.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

const tags = "netgo osusergo seccomp"

// suite is the tests of a package, linked once.
type suite struct {
	pkg, dir, binary string
	runs, failures   int
	took             time.Duration
}

// repeat is one run of all.
type repeat struct {
	ctx     context.Context
	out     string
	only    string
	timeout time.Duration
	failed  map[string][]string // package and test to the logs of the runs in which it failed
}

func main() {
	var (
		rounds   = flag.Int("n", 100, "`ROUNDS` through all packages")
		out      = flag.String("out", "build/repeat", "the `DIRECTORY` for the logs of runs that failed")
		only     = flag.String("run", "", "only tests that match this `REGEXP`")
		budget   = flag.Duration("for", 0, "begin no round after this `TIME`; 0: all of them")
		timeout  = flag.Duration("timeout", 20*time.Minute, "of one package in one round")
		packages = []string{"./..."}
	)
	flag.Parse()
	if flag.NArg() > 0 {
		packages = flag.Args()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r := &repeat{ctx: ctx, only: *only, timeout: *timeout, failed: map[string][]string{}}
	suites, err := r.build(*out, packages)
	if err != nil {
		fmt.Fprintln(os.Stderr, "repeat:", err)
		os.Exit(2)
	}
	begun, done := time.Now(), 0
	for done < *rounds && ctx.Err() == nil && (*budget == 0 || time.Since(begun) < *budget) {
		done++
		for _, s := range suites {
			if ctx.Err() == nil {
				r.round(s, done)
			}
		}
		fmt.Fprintf(os.Stderr, "%s  round %d of %d, %d tests have failed so far\n", time.Now().Format(time.TimeOnly), done, *rounds, len(r.failed))
	}
	fmt.Print(r.table(suites))
	if len(r.failed) > 0 {
		os.Exit(1)
	}
}

// build links the tests of each package that has some.
func (r *repeat) build(out string, patterns []string) ([]*suite, error) {
	var err error
	if r.out, err = filepath.Abs(out); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return nil, err
	}
	list := exec.CommandContext(r.ctx, "go", append([]string{"list", "-tags", tags, "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}"}, patterns...)...)
	list.Stderr = os.Stderr
	b, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var suites []*suite
	for line := range strings.Lines(string(b)) {
		pkg, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		s := &suite{pkg: pkg, dir: dir, binary: filepath.Join(r.out, strings.ReplaceAll(pkg, "/", "-")+".test")}
		if out, err := exec.CommandContext(r.ctx, "go", "test", "-c", "-tags", tags, "-o", s.binary, pkg).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("link the tests of %s: %w\n%s", pkg, err, out)
		}
		suites = append(suites, s)
	}
	if len(suites) == 0 {
		return nil, errors.New("no package has tests")
	}
	return suites, nil
}

// round runs the tests of a package once; the log stays if one failed.
func (r *repeat) round(s *suite, number int) {
	cmd := exec.CommandContext(r.ctx, s.binary, "-test.v", "-test.timeout", r.timeout.String(), "-test.run", r.only)
	cmd.Dir = s.dir
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	begun := time.Now()
	err := cmd.Run()
	if r.ctx.Err() != nil {
		return
	}
	s.runs++
	s.took += time.Since(begun)
	if err == nil {
		return
	}
	s.failures++
	path := filepath.Join(r.out, fmt.Sprintf("%s.%d.log", strings.ReplaceAll(s.pkg, "/", "-"), number))
	if err := os.WriteFile(path, log.Bytes(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "repeat:", err)
	}
	for _, name := range failures(log.Bytes(), err) {
		r.failed[s.pkg+" "+name] = append(r.failed[s.pkg+" "+name], path)
	}
}

// failures names the tests that failed, the outermost of nested ones; what ended without naming one is named by its end.
func failures(log []byte, end error) []string {
	var names []string
	in := bufio.NewScanner(bytes.NewReader(log))
	in.Buffer(nil, 1<<24)
	last := ""
	for in.Scan() {
		line := in.Text()
		if name, ok := strings.CutPrefix(line, "=== RUN   "); ok && !strings.Contains(name, "/") {
			last = name
		}
		if rest, ok := strings.CutPrefix(line, "--- FAIL: "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
		}
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			names = append(names, fmt.Sprintf("(%.80s, in or after %s)", line, last))
		}
	}
	if len(names) == 0 {
		names = append(names, fmt.Sprintf("(%v, in or after %s)", end, last))
	}
	return names
}

// table tells what was run, and which tests failed how often.
func (r *repeat) table(suites []*suite) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "package\truns\tfailed\tmean")
	for _, s := range suites {
		mean := time.Duration(0)
		if s.runs > 0 {
			mean = (s.took / time.Duration(s.runs)).Round(10 * time.Millisecond)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%v\n", s.pkg, s.runs, s.failures, mean)
	}
	fmt.Fprintln(w)
	for _, name := range slices.Sorted(maps.Keys(r.failed)) {
		logs := r.failed[name]
		fmt.Fprintf(w, "FLAKE %s\t%d\t\t%s\n", name, len(logs), logs[0])
	}
	if len(r.failed) == 0 {
		fmt.Fprintln(w, "no test failed")
	}
	_ = w.Flush() // into memory
	return b.String()
}
