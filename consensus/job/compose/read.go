package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"
)

// input is all that was read before compose-go begins.
type input struct {
	dir       string // absolute
	files     []types.ConfigFile
	shown     []string // the files as the person named them
	env       types.Mapping
	name      string
	nameGiven bool // stronger than the file's own
	profiles  []string
	warnings  []Warning
	trees     []*tree // for line numbers; made on demand
}

func readInput(o Options) (*input, error) {
	if len(o.Files) == 0 {
		return nil, job.Errorf(job.Invalid, "no Compose file was given; name one with -f")
	}
	if len(o.Files) > MaxFiles {
		return nil, job.Errorf(job.Invalid, "%d Compose files are more than %d; merge some", len(o.Files), MaxFiles)
	}
	in := &input{}
	if err := in.setDir(o); err != nil {
		return nil, err
	}
	for _, name := range o.Files {
		f, err := readFile(name, o.Stdin)
		if err != nil {
			return nil, err
		}
		in.files = append(in.files, f)
		in.shown = append(in.shown, name)
	}
	if err := in.setEnv(o); err != nil {
		return nil, err
	}
	in.setName(o)
	return in, nil
}

func (in *input) setDir(o Options) error {
	dir := o.WorkingDir
	if dir == "" {
		dir = "."
		for _, f := range o.Files {
			if f != "-" {
				dir = filepath.Dir(f)
				break
			}
		}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return job.Errorf(job.Internal, "find the project directory %s: %v", dir, err)
	}
	in.dir = abs
	return nil
}

func readFile(name string, stdin io.Reader) (types.ConfigFile, error) {
	var r io.Reader
	full := name
	if name == "-" {
		if stdin == nil {
			return types.ConfigFile{}, job.Errorf(job.Invalid, "read the Compose file from standard input: there is none")
		}
		r = stdin
	} else {
		abs, err := filepath.Abs(name)
		if err != nil {
			return types.ConfigFile{}, job.Errorf(job.Internal, "find %s: %v", name, err)
		}
		full = abs
		f, err := os.Open(abs)
		if err != nil {
			return types.ConfigFile{}, fileError(name, err)
		}
		defer f.Close() // read only: nothing is lost
		if st, err := f.Stat(); err == nil && st.IsDir() {
			return types.ConfigFile{}, job.Errorf(job.Invalid, "read %s: it is a directory; name the file in it", name)
		}
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, MaxFileBytes+1))
	if err != nil {
		return types.ConfigFile{}, fileError(name, err)
	}
	if len(b) > MaxFileBytes {
		return types.ConfigFile{}, job.Errorf(job.Invalid, "read %s: it is larger than %s, the most a Compose file may be; split the job",
			name, job.FormatBytes(MaxFileBytes))
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return types.ConfigFile{}, job.Errorf(job.Invalid, "read %s: it is empty; it needs at least `services:`", name)
	}
	return types.ConfigFile{Filename: full, Content: b}, nil
}

func fileError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	kind := job.Invalid
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = job.NotFound
	case errors.Is(err, fs.ErrPermission):
		kind = job.Denied
	}
	return job.Errorf(kind, "read %s: %v", name, err)
}

// setEnv makes the variables for interpolation: those given, and below them those of the files given or of the project's .env.
func (in *input) setEnv(o Options) error {
	in.env = types.Mapping{}
	for _, kv := range o.Env {
		k, v, _ := strings.Cut(kv, "=")
		in.env[k] = v
	}
	files := o.EnvFiles
	if off, _ := strconv.ParseBool(in.env["COMPOSE_DISABLE_ENV_FILE"]); len(files) == 0 && !off {
		file := filepath.Join(in.dir, ".env")
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			files = []string{file}
		}
	}
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return fileError(file, err)
		}
		if err := checkSize(file); err != nil {
			return err
		}
	}
	more, err := dotenv.GetEnvFromFile(in.env, files)
	if err != nil {
		return job.Errorf(job.Invalid, "%v", err)
	}
	in.env.Merge(more)
	in.profiles = o.Profiles
	if len(in.profiles) == 0 {
		for p := range strings.SplitSeq(in.env["COMPOSE_PROFILES"], ",") {
			if p = strings.TrimSpace(p); p != "" {
				in.profiles = append(in.profiles, p)
			}
		}
	}
	return nil
}

// setName follows Compose: the flag, COMPOSE_PROJECT_NAME, the file's `name:` (which compose-go puts in place of a name
// that is not given), the directory.
func (in *input) setName(o Options) {
	if in.name = o.ProjectName; in.name == "" {
		in.name = in.env["COMPOSE_PROJECT_NAME"]
	}
	if in.nameGiven = in.name != ""; !in.nameGiven {
		in.name = loader.NormalizeProjectName(filepath.Base(in.dir))
	}
}

func (in *input) nameFrom(dict map[string]any) string {
	if in.nameGiven {
		return "given"
	}
	if n, _ := dict["name"].(string); n != "" {
		return "from `name:`"
	}
	return "from the directory"
}

// label names the files in an error.
func (in *input) label() string { return strings.Join(in.shown, ", ") }

// source is the text that the job came from, "" when it is too long to keep.
func (in *input) source() string {
	var b strings.Builder
	for i, f := range in.files {
		if len(in.files) > 1 {
			fmt.Fprintf(&b, "# file %d: %s\n", i+1, filepath.Base(in.shown[i]))
		}
		b.Write(f.Content)
		if n := len(f.Content); len(in.files) > 1 && f.Content[n-1] != '\n' {
			b.WriteByte('\n')
		}
	}
	if b.Len() > job.MaxSourceBytes {
		return ""
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

func checkSize(file string) error {
	st, err := os.Stat(file)
	switch {
	case err != nil:
		return nil // whoever reads it says it better
	case st.IsDir() || !st.Mode().IsRegular():
		return job.Errorf(job.Invalid, "read %s: it is not a regular file", file)
	case st.Size() > MaxFileBytes:
		return job.Errorf(job.Invalid, "read %s: it is larger than %s; make it smaller", file, job.FormatBytes(MaxFileBytes))
	}
	return nil
}

// checkNamedFiles bounds the files that compose-go is about to read for variables and labels.
func checkNamedFiles(p *types.Project) error {
	for _, s := range p.Services {
		for _, f := range s.EnvFiles {
			if err := checkSize(f.Path); err != nil {
				return err
			}
		}
		for _, f := range s.LabelFiles {
			if err := checkSize(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func resolveNamedFiles(p *types.Project) (*types.Project, error) {
	p, err := p.WithServicesEnvironmentResolved(true)
	if err != nil {
		return nil, err
	}
	return p.WithServicesLabelsResolved(true)
}

// Bounds of interpolation in one value. compose-go's time is the product of the two.
const (
	maxVariables    = 1000
	maxInterpolated = 64 << 10 // bytes of a value with variables in it, before; and of all that is put in, after
)

func boundInterpolation(l *loader.Options) {
	l.Interpolate.Substitute = func(s string, lookup template.Mapping) (string, error) {
		n := strings.Count(s, "$")
		if n == 0 {
			return s, nil
		}
		if n > maxVariables || len(s) > maxInterpolated {
			return "", fmt.Errorf("a value of %d bytes with %d dollar signs is more than %d with %d; put it into a file", len(s), n, maxInterpolated, maxVariables)
		}
		put := 0
		s, err := template.Substitute(s, func(name string) (string, bool) {
			v, ok := lookup(name)
			if put += len(v); put > maxInterpolated {
				return "", ok
			}
			return v, ok
		})
		if err == nil && put > maxInterpolated {
			return "", fmt.Errorf("its variables put in more than %d bytes; put it into a file", maxInterpolated)
		}
		return s, err
	}
}

var listening sync.Mutex

// listen collects what compose-go says by way of logrus' global logger (a variable that is not set, for example): it has
// no other way to say it. Whatever else this process logs with logrus meanwhile is collected too; only the command line
// loads Compose files.
func listen(do func() error) ([]Warning, error) {
	listening.Lock()
	defer listening.Unlock()
	l := logrus.StandardLogger()
	h := &ear{seen: map[string]bool{}}
	out, hooks := l.Out, l.ReplaceHooks(logrus.LevelHooks{})
	l.SetOutput(io.Discard)
	l.AddHook(h)
	defer func() {
		l.ReplaceHooks(hooks)
		l.SetOutput(out)
	}()
	err := do()
	return h.warnings, err
}

type ear struct {
	seen     map[string]bool
	warnings []Warning
}

func (*ear) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

func (e *ear) Fire(entry *logrus.Entry) error {
	// compose-go says this once in the life of a process, and it means nothing.
	if strings.Contains(entry.Message, "`version` is obsolete") || e.seen[entry.Message] || len(e.warnings) == maxProblems {
		return nil
	}
	e.seen[entry.Message] = true
	e.warnings = append(e.warnings, Warning{Message: entry.Message})
	return nil
}
