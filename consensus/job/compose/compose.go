// Package compose turns a Compose file, or the flags of one `shoal run`, into a job.Spec, and knows which keys of the
// Compose specification shoal honours (Matrix). It refuses whatever it does not honour, and knows neither the cluster
// that will run the job nor how.
package compose

import (
	"context"
	"fmt"
	"io"
	goruntime "runtime"
	"strings"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// Bounds of what is read.
const (
	MaxFileBytes = 1 << 20 // one Compose file, .env file or env_file
	MaxFiles     = 32      // Compose files on the command line
	MaxNodes     = 30_000  // values of one Compose file, counting what aliases repeat once; compose-go's time is quadratic in them
)

// Options say what to load.
type Options struct {
	// Files are paths of Compose files; a later one overrides an earlier one, as with docker compose -f. "-" is Stdin.
	// At least one is required.
	Files []string
	Stdin io.Reader
	// ProjectName names the job. "": COMPOSE_PROJECT_NAME of Env, the file's `name:`, or the name of WorkingDir.
	ProjectName string
	// WorkingDir is what relative paths are relative to. "": the directory of the first file, for "-" the current one.
	WorkingDir string
	// Env holds KEY=VALUE for interpolation, usually os.Environ(). EnvFiles fill in what is not there, of which a later one
	// overrides an earlier one, as with docker compose --env-file. None: WorkingDir's .env, if there is one.
	Env      []string
	EnvFiles []string
	// Lenient makes warnings of keys that are not honoured, instead of errors.
	Lenient bool
	// Profiles to enable. None: COMPOSE_PROFILES of Env.
	Profiles []string
	// Platform is the only value of `platform:` that is let pass. "": linux/ and the architecture of this program.
	Platform string
}

// Warning is something that the person who submits should know, but that stops nothing.
type Warning struct {
	File    string // "" when not known
	Line    int    // from 1; 0 when not known
	Path    string // the key, such as "services.web.privileged"; may be ""
	Message string
}

func (w Warning) String() string {
	var b strings.Builder
	if w.File != "" {
		b.WriteString(w.File)
		if w.Line > 0 {
			fmt.Fprintf(&b, ":%d", w.Line)
		}
		b.WriteString(": ")
	}
	if w.Path != "" {
		b.WriteString(w.Path + ": ")
	}
	return b.String() + w.Message
}

// Load reads Compose files into a spec that is normalized and valid. Errors are of kind job.Invalid (job.NotFound when a
// file does not exist) and list everything that is wrong, one a line. Files that the given ones name (include, extends,
// env_file) are read too. Nothing is written, nothing is fetched from a network.
func Load(ctx context.Context, o Options) (*job.Spec, []Warning, error) {
	if o.Platform == "" {
		o.Platform = "linux/" + goruntime.GOARCH
	}
	in, err := readInput(o)
	if err != nil {
		return nil, nil, err
	}
	var model *model
	heard, err := listen(func() (err error) {
		model, err = loadModel(ctx, o, in)
		return err
	})
	if err != nil {
		return nil, heard, invalid(in, []string{tidy(err)})
	}
	warnings := append(heard, in.warnings...)

	var problems []string
	for _, f := range model.findings {
		w := in.locate(f)
		if o.Lenient {
			w.Message = "ignored: " + f.reason
			warnings = append(warnings, w)
			continue
		}
		w.Message = fmt.Sprintf("not honoured by this version (%s); %s", f.reason, f.next)
		problems = append(problems, w.String())
	}
	if model.err != nil {
		return nil, warnings, invalid(in, append(problems, tidy(model.err)))
	}
	c := &conversion{project: model.project, dict: model.dict, platform: o.Platform, in: in}
	spec := c.spec()
	problems = append(problems, c.problems...)
	warnings = append(warnings, c.warnings...)
	if len(problems) > 0 {
		return nil, warnings, invalid(in, problems)
	}
	spec.Source = in.source()
	spec.Normalize()
	if err := spec.Validate(); err != nil {
		return nil, warnings, err
	}
	return spec, warnings, nil
}

// model is what compose-go made of the files.
type model struct {
	dict     map[string]any // before normalization: what the files say
	project  *types.Project // nil when err is set
	findings []finding      // of services that are enabled; of all when err is set
	err      error          // why there is no project
}

// loadModel runs compose-go in three steps, because the keys must be screened after merging and before compose-go adds
// keys of its own. An error means that there is no model at all.
func loadModel(ctx context.Context, o Options, in *input) (m *model, err error) {
	// compose-go asserts types that its schema should have checked. Input from outside must not end the process, should
	// one assertion have been forgotten.
	defer func() {
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("the file cannot be understood (%v)", r)
		}
	}()
	details := types.ConfigDetails{WorkingDir: in.dir, ConfigFiles: in.files, Environment: in.env}
	opts := []func(*loader.Options){
		func(l *loader.Options) {
			l.SkipNormalization = true
			l.SetProjectName(in.name, in.nameGiven)
			l.Profiles = in.profiles
			l.SkipResolveEnvironment = true
			l.SkipResolveLabels = true
			l.MaxNodeVisits = MaxNodes
			boundInterpolation(l)
			hookShortForms(l)
		},
	}
	dict, err := loader.LoadModelWithContext(ctx, details, opts...)
	if err != nil {
		return nil, err
	}
	name := in.name
	if n, ok := dict["name"].(string); ok && n != "" && !in.nameGiven {
		name = n
	}
	if !job.ValidName(name) {
		return nil, fmt.Errorf("the job's name %q (%s) must begin with a letter or digit and hold at most 63 of a-z, 0-9, _ and -; choose another with --name or `name:`", name, in.nameFrom(dict))
	}
	dict["name"] = name
	m = &model{findings: screen(dict)}
	m.dict, _ = cloneTree(dict).(map[string]any)

	dict, err = loader.Normalize(dict, in.env)
	if err != nil {
		m.err = err
		return m, nil
	}
	l := loader.ToOptions(&details, opts)
	l.SetProjectName(name, true)
	if m.project, m.err = loader.ModelToProject(dict, l, details); m.err != nil {
		return m, nil
	}
	m.onlyEnabled()
	if m.err = checkNamedFiles(m.project); m.err == nil {
		m.project, m.err = resolveNamedFiles(m.project)
	}
	return m, nil
}

// onlyEnabled forgets what was found in services that a profile disables: they are not submitted.
func (m *model) onlyEnabled() {
	kept := m.findings[:0]
	for _, f := range m.findings {
		if f.service != "" {
			if _, on := m.project.Services[f.service]; !on {
				continue
			}
		}
		kept = append(kept, f)
	}
	m.findings = kept
}

func cloneTree(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = cloneTree(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = cloneTree(e)
		}
		return out
	}
	return v
}

// maxForeignBytes bounds a message of compose-go's, which repeats what it was given.
const maxForeignBytes = 4 << 10

// maxProblems is how many problems one error lists; more are counted.
const maxProblems = job.MaxProblems

func invalid(in *input, problems []string) error {
	if n := len(problems); n > maxProblems {
		problems = append(problems[:maxProblems:maxProblems], fmt.Sprintf("and %d more problems", n-maxProblems))
	}
	if len(problems) == 1 {
		return job.Errorf(job.Invalid, "%s: %s", in.label(), problems[0])
	}
	return job.Errorf(job.Invalid, "%s:\n  %s", in.label(), strings.Join(problems, "\n  "))
}

// tidy makes one line of compose-go's error, and says what its schema means by "false".
func tidy(err error) string {
	s := strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
	s = strings.ReplaceAll(s, "failed to cast to expected type: ", "")
	if len(s) > maxForeignBytes {
		s = strings.ToValidUTF8(s[:maxForeignBytes], "") + " ..."
	}
	return strings.Replace(s, " false schema", " is not a key of the Compose specification; correct or remove it", 1)
}
