package compose

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/loader"
	ctree "github.com/compose-spec/compose-go/v2/tree"
)

// finding is a key of the files that is not honoured.
type finding struct {
	keys    []string // the path; "[]" stands for an element of a list
	service string   // "" when the key belongs to none
	reason  string
	next    string // what to do
}

func (f finding) path() string { return strings.ReplaceAll(strings.Join(f.keys, "."), ".[]", "[]") }

// screen compares what the files say with the matrix. What the matrix does not know is refused, so that a key that a
// later compose-go learns is not silently dropped. The findings are sorted by path.
func screen(dict map[string]any) []finding {
	var out []finding
	screenMap(&out, matrixTree(), nil, dict)
	slices.SortFunc(out, func(a, b finding) int { return slices.Compare(a.keys, b.keys) })
	return slices.CompactFunc(out, func(a, b finding) bool { return slices.Equal(a.keys, b.keys) && a.reason == b.reason })
}

// branch is a node of the matrix as a tree.
type branch struct {
	key      *Key // nil for a path that is only a prefix
	children map[string]*branch
}

var matrixTree = sync.OnceValue(func() *branch {
	root := &branch{}
	for i := range Matrix {
		b := root
		for part := range strings.SplitSeq(Matrix[i].Path, ".") {
			if b.children == nil {
				b.children = map[string]*branch{}
			}
			if b.children[part] == nil {
				b.children[part] = &branch{}
			}
			b = b.children[part]
		}
		b.key = &Matrix[i]
	}
	return root
})

// child finds the branch of a key: its own, or the one for any key.
func (b *branch) child(k string) *branch {
	if b == nil {
		return nil
	}
	if c := b.children[k]; c != nil {
		return c
	}
	return b.children["*"]
}

func screenMap(out *[]finding, b *branch, at []string, m map[string]any) {
	for k, v := range m {
		here := append(slices.Clone(at), k)
		c := b.child(k)
		if strings.HasPrefix(k, "x-") && !namesItsKeys(at) {
			// Extensions are notes and fragments by definition, but for those that are shoal's own.
			if own := b.children[k]; own == nil {
				continue
			}
		}
		screenValue(out, c, here, v)
	}
}

// namesItsKeys tells whether the keys below a path are names that the user chose.
func namesItsKeys(at []string) bool {
	switch len(at) {
	case 1:
		return slices.Contains([]string{"services", "volumes", "networks", "configs", "secrets", "models", "jobs"}, at[0])
	case 3:
		return at[0] == "services" && slices.Contains([]string{"environment", "labels", "depends_on", "networks", "sysctls", "extra_hosts", "ulimits"}, at[2])
	}
	return false
}

func screenValue(out *[]finding, b *branch, at []string, v any) {
	if b == nil {
		*out = append(*out, newFinding(at, "it is not known", ""))
		return
	}
	if b.key != nil {
		switch b.key.Support {
		case Refused:
			if !b.key.harmless(v) {
				*out = append(*out, newFinding(at, b.key.Note, b.key.Next))
			}
			return
		case Partly:
			if reason := b.key.refuse(v); reason != "" {
				*out = append(*out, newFinding(at, reason, b.key.Next))
				return
			}
		}
	}
	switch v := v.(type) {
	case map[string]any:
		screenMap(out, b, at, v)
	case []any:
		for _, e := range v {
			switch e := e.(type) {
			case map[string]any:
				screenMap(out, b.items(), append(slices.Clone(at), "[]"), e)
			case []any:
				*out = append(*out, newFinding(at, "a list in a list is not known", ""))
			}
		}
	}
}

// items is the branch of a list's elements; never nil, so that keys of elements the matrix does not know are refused.
func (b *branch) items() *branch {
	if c := b.children["[]"]; c != nil {
		return c
	}
	return &branch{}
}

func newFinding(at []string, reason, next string) finding {
	f := finding{keys: at, reason: reason, next: next}
	if len(at) > 1 && at[0] == "services" {
		f.service = at[1]
	}
	if f.next == "" {
		f.next = "remove it or use --lenient"
	}
	return f
}

// hookShortForms looks at short forms before compose-go does: its parser drops options of a volume that it does not know,
// and makes of a port range whatever number of ports it says. The hooks are those with which compose-go turns strings into
// numbers, after interpolation, in every file.
func hookShortForms(l *loader.Options) {
	casts := maps.Clone(l.Interpolate.TypeCastMapping)
	casts[ctree.NewPath("services", ctree.PathMatchAll, "volumes", ctree.PathMatchList)] = checkShortVolume
	ports := 0
	casts[ctree.NewPath("services", ctree.PathMatchAll, "ports", ctree.PathMatchList)] = func(v string) (any, error) {
		n := rangeSize(v)
		if ports += n; n > job.MaxPorts || ports > maxRangedPorts {
			return nil, fmt.Errorf("port %.80q: more than %d ports of a service or %d of all; publish fewer", v, job.MaxPorts, maxRangedPorts)
		}
		return v, nil
	}
	l.Interpolate.TypeCastMapping = casts
}

// maxRangedPorts bounds the ports that all short forms of one load make.
const maxRangedPorts = 10 * job.MaxPorts

// rangeSize is how many ports a short form makes at most, 1 if it is not understood.
func rangeSize(v string) int {
	v, _, _ = strings.Cut(v, "/")
	size := 1
	for part := range strings.SplitSeq(v, ":") {
		from, to, isRange := strings.Cut(part, "-")
		a, errA := strconv.ParseUint(from, 10, 16)
		b, errB := strconv.ParseUint(to, 10, 16)
		if isRange && errA == nil && errB == nil && b >= a {
			size = max(size, int(b-a)+1)
		}
	}
	return size
}

func checkShortVolume(v string) (any, error) {
	if parts := strings.Split(v, ":"); len(parts) == 3 {
		for o := range strings.SplitSeq(parts[2], ",") {
			if !slices.Contains(shortVolumeOptions, o) {
				return nil, fmt.Errorf("volume %.80q: option %.40q is not honoured; use ro, rw or nocopy", v, o)
			}
		}
	}
	return v, nil
}

// shortVolumeOptions are those that compose-go understands; the matrix judges what they become.
var shortVolumeOptions = []string{"ro", "rw", "nocopy", "z", "Z", "private", "rprivate", "shared", "rshared", "slave", "rslave"}
