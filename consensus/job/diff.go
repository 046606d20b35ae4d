package job

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ChangeKind is what happens to a service.
type ChangeKind string

// Kinds of changes.
const (
	ServiceAdded   ChangeKind = "added"
	ServiceRemoved ChangeKind = "removed"
	ServiceScaled  ChangeKind = "scaled"  // only the number of replicas differs: running tasks stay
	ServiceChanged ChangeKind = "changed" // its Digest differs: all its tasks are replaced; it may be scaled as well
	// ServiceTuned: only how it is to be updated differs, and perhaps the number of replicas; running tasks stay.
	ServiceTuned ChangeKind = "tuned"
	// ServiceInPlace: its Digest differs but not its Shape: running tasks stay and take the change over.
	ServiceInPlace ChangeKind = "in-place"
)

// Changes is what differs between two specs of a job. The zero value means nothing.
type Changes struct {
	Services []ServiceChange `json:"services,omitempty"` // sorted by name, only those that differ
	Volumes  []VolumeChange  `json:"volumes,omitempty"`  // sorted by name
}

// ServiceChange is what differs in one service.
type ServiceChange struct {
	Name string     `json:"name"`
	Kind ChangeKind `json:"kind"`
	// From and To are replicas; 0 where the service is not there, or global (then Global tells).
	From   int  `json:"from"`
	To     int  `json:"to"`
	Global bool `json:"global,omitempty"` // the new service, or the removed one, has a task on each node
	// Replace: running tasks end and new ones take their place.
	Replace bool `json:"replace,omitempty"`
	// Batch: its tasks are meant to end, and a change of its content is another run.
	Batch bool   `json:"batch,omitempty"`
	Image string `json:"image"` // of the new service, or the removed one
	// Renewed: a restart of all tasks was asked for.
	Renewed bool `json:"renewed,omitempty"`
	// Fields are what differs, sorted by path; not for services that are added, removed or only scaled.
	Fields []FieldChange `json:"fields,omitempty"`
}

// FieldChange is one value that differs, as text for people. Old or New is nil where the field is not set; it is empty for
// a port or a constraint, whose path says all.
type FieldChange struct {
	Path string  `json:"path"` // as in the spec's JSON, elements by name: "env.PORT", "mounts./data.readOnly", "ports.80:8080/tcp"
	Old  *string `json:"old"`
	New  *string `json:"new"`
}

// VolumeChange is a volume that the job begins or ends to mention. Data of a volume that is no longer mentioned stays.
type VolumeChange struct {
	Name string     `json:"name"`
	Kind ChangeKind `json:"kind"` // ServiceAdded or ServiceRemoved
}

// shortDigests cuts the digest behind an image's name to the 12 digits that people compare.
func shortDigests(s string) string {
	const mark, shown = "@sha256:", 12
	if i := strings.Index(s, mark); i >= 0 && len(s) >= i+len(mark)+shown {
		return s[:i+len(mark)+shown]
	}
	return s
}

// Diff tells what submitting updated in place of old changes; either may be nil for "no job". Both must be normalized.
func Diff(old, updated *Spec) Changes {
	var c Changes
	if old == nil {
		old = &Spec{}
	}
	if updated == nil {
		updated = &Spec{}
	}
	for i := range old.Services {
		if o := &old.Services[i]; updated.Service(o.Name) == nil {
			c.Services = append(c.Services, ServiceChange{Name: o.Name, Kind: ServiceRemoved, From: o.Replicas, Global: o.Mode.PerNode(), Batch: o.IsBatch(),
				Replace: false, Image: o.Image})
		}
	}
	for i := range updated.Services {
		u := &updated.Services[i]
		if s, differs := diffService(old.Service(u.Name), u); differs {
			c.Services = append(c.Services, s)
		}
	}
	slices.SortFunc(c.Services, func(a, b ServiceChange) int { return strings.Compare(a.Name, b.Name) })
	c.Volumes = diffVolumes(old.Volumes, updated.Volumes)
	return c
}

func diffService(o, u *Service) (ServiceChange, bool) {
	s := ServiceChange{Name: u.Name, To: u.Replicas, Global: u.Mode.PerNode(), Batch: u.IsBatch(), Image: u.Image}
	if o == nil {
		s.Kind = ServiceAdded
		return s, true
	}
	s.From = o.Replicas
	switch {
	case o.Digest() != u.Digest() && o.Shape() == u.Shape() && !u.IsBatch():
		s.Kind = ServiceInPlace
		s.Fields = diffFields(flatten(o), flatten(u))
	case o.Digest() != u.Digest():
		s.Kind, s.Replace, s.Renewed = ServiceChanged, true, o.Renewal != u.Renewal
		s.Fields = diffFields(flatten(o), flatten(u))
	case !SameUpdate(o, u):
		s.Kind = ServiceTuned
		s.Fields = diffFields(flatten(o), flatten(u))
	case o.Replicas != u.Replicas && !u.Mode.PerNode():
		s.Kind = ServiceScaled
	default:
		return s, false
	}
	return s, true
}

func diffVolumes(old, updated []Volume) []VolumeChange {
	var out []VolumeChange
	has := func(list []Volume, name string) bool {
		return slices.ContainsFunc(list, func(v Volume) bool { return v.Name == name })
	}
	for _, v := range old {
		if !has(updated, v.Name) {
			out = append(out, VolumeChange{v.Name, ServiceRemoved})
		}
	}
	for _, v := range updated {
		if !has(old, v.Name) {
			out = append(out, VolumeChange{v.Name, ServiceAdded})
		}
	}
	slices.SortFunc(out, func(a, b VolumeChange) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func diffFields(old, updated map[string]string) []FieldChange {
	var out []FieldChange
	for _, k := range sortedKeys(old) {
		o := old[k]
		if u, ok := updated[k]; !ok {
			out = append(out, FieldChange{Path: k, Old: &o})
		} else if u != o {
			out = append(out, FieldChange{Path: k, Old: &o, New: &u})
		}
	}
	for _, k := range sortedKeys(updated) {
		if u := updated[k]; !hasKey(old, k) {
			out = append(out, FieldChange{Path: k, New: &u})
		}
	}
	slices.SortFunc(out, func(a, b FieldChange) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func hasKey(m map[string]string, k string) bool { _, ok := m[k]; return ok }

// flatten turns a service into path -> text. It goes by way of JSON, so that a field that is added to Service is compared
// without anybody having to remember it here.
func flatten(s *Service) map[string]string {
	without := *s
	without.Replicas = 0
	out := map[string]string{}
	b, err := json.Marshal(without)
	if err != nil {
		panic("job: a service must always encode: " + err.Error())
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // nanoseconds and bytes do not fit a float64
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		panic("job: a service must always decode: " + err.Error())
	}
	for _, k := range []string{"name", "replicas", "renewal"} {
		delete(m, k)
	}
	flattenInto(out, "", "", m)
	return out
}

func flattenInto(out map[string]string, at, key string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			flattenInto(out, join(at, k), k, e)
		}
	case []any:
		flattenList(out, at, key, v)
	default:
		out[at] = text(key, v)
	}
}

// flattenList gives each element of a set its own path, so that adding one to the front does not look like a change of
// all. A list whose order means something (a command) stays whole.
func flattenList(out map[string]string, at, key string, list []any) {
	for i, e := range list {
		switch e := e.(type) {
		case string:
			if key != "env" {
				b, _ := json.Marshal(list) // strings always encode
				out[at] = string(b)
				return
			}
			k, v, _ := strings.Cut(e, "=")
			out[join(at, k)] = strconv.Quote(v)
		case map[string]any:
			name := elementName(key, e)
			if name == "" {
				name = strconv.Itoa(i)
			}
			if len(e) == 0 { // the name says it all
				out[join(at, name)] = ""
				continue
			}
			flattenInto(out, join(at, name), "", e)
		}
	}
}

// elementName is what identifies an element of a list of objects, and takes it out of the element.
func elementName(list string, e map[string]any) string {
	take := func(k string) string {
		v := e[k]
		delete(e, k)
		if v == nil {
			return ""
		}
		return fmt.Sprint(v)
	}
	switch list {
	case "mounts", "devices":
		return take("target")
	case "ulimits", "hosts":
		return take("name")
	case "weights", "readBps", "writeBps", "readIOps", "writeIOps":
		return take("path")
	case "dependsOn":
		return take("service")
	case "ports":
		name := cmp.Or(take("published"), "?") + ":" + take("target") + "/" + take("protocol")
		if ip := take("hostIP"); ip != "" {
			name = ip + ":" + name
		}
		return name
	case "constraints":
		return Constraint{Key: take("key"), Op: take("op"), Value: take("value")}.String()
	}
	return ""
}

// text writes one value for people; key tells its unit.
func text(key string, v any) string {
	n, isNumber := v.(json.Number)
	if !isNumber {
		if s, ok := v.(string); ok {
			return s
		}
		return fmt.Sprint(v)
	}
	i, err := n.Int64()
	if err != nil {
		return n.String()
	}
	switch key {
	case "backoff", "maxBackoff", "deadline", "ttl", "startDeadline", "cooldown", "stopGrace", "interval", "timeout", "startPeriod", "startInterval", "delay", "window", "drain", "monitor", "lease":
		return time.Duration(i).String()
	case "memoryBytes", "sizeBytes", "maxBytes", "shmBytes", "swapBytes":
		return FormatBytes(i)
	case "nanoCPUs":
		return FormatCPUs(i)
	case "fileMode":
		return fmt.Sprintf("%#o", i)
	}
	return n.String()
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

// Empty tells whether nothing differs.
func (c Changes) Empty() bool { return len(c.Services) == 0 && len(c.Volumes) == 0 }

// Replaces tells whether a running task would end to make place for another.
func (c Changes) Replaces() bool {
	return slices.ContainsFunc(c.Services, func(s ServiceChange) bool { return s.Replace })
}

// String writes the changes for a person: + for what is added, - removed, ~ changed, a line each and the changed fields
// below; it ends with a newline unless it is empty.
func (c Changes) String() string {
	var b strings.Builder
	for _, s := range c.Services {
		s.write(&b)
	}
	for _, v := range c.Volumes {
		if v.Kind == ServiceAdded {
			fmt.Fprintf(&b, "+ volume %s\n", v.Name)
		} else {
			fmt.Fprintf(&b, "- volume %s: no longer used; its data stays on the nodes\n", v.Name)
		}
	}
	return b.String()
}

func (s ServiceChange) write(b *strings.Builder) {
	switch s.Kind {
	case ServiceAdded:
		fmt.Fprintf(b, "+ %s: %s of %s\n", s.Name, s.size(s.To), shortDigests(s.Image))
	case ServiceRemoved:
		fmt.Fprintf(b, "- %s: %s of %s\n", s.Name, s.size(s.From), shortDigests(s.Image))
	case ServiceScaled:
		fmt.Fprintf(b, "~ %s: %d -> %s\n", s.Name, s.From, s.size(s.To))
	case ServiceChanged, ServiceTuned, ServiceInPlace:
		what := "every task is replaced"
		switch {
		case s.Kind == ServiceInPlace:
			what = "changed in place, running tasks stay"
		case s.Kind == ServiceTuned:
			what = "updates go another way, running tasks stay"
		case s.Renewed && len(s.Fields) == 0:
			what = "restarted, every task is replaced"
		}
		switch {
		case s.Batch && s.Kind == ServiceTuned:
			what = "its runs go another way"
		case s.Batch && s.Renewed && len(s.Fields) == 0:
			what = "runs anew"
		case s.Batch:
			what = "runs with its new content"
		}
		fmt.Fprintf(b, "~ %s: %s", s.Name, what)
		if s.From != s.To && !s.Global {
			fmt.Fprintf(b, ", %d -> %s", s.From, s.size(s.To))
		}
		b.WriteByte('\n')
		for _, f := range s.Fields {
			switch {
			case f.Old == nil:
				fmt.Fprintf(b, "    + %s%s\n", f.Path, value(*f.New))
			case f.New == nil:
				fmt.Fprintf(b, "    - %s%s\n", f.Path, value(*f.Old))
			default:
				fmt.Fprintf(b, "    ~ %s: %s -> %s\n", f.Path, shortDigests(oneLine(*f.Old)), shortDigests(oneLine(*f.New)))
			}
		}
	}
}

func value(s string) string {
	if s == "" {
		return ""
	}
	return ": " + oneLine(s)
}

func (s ServiceChange) size(replicas int) string {
	switch {
	case s.Batch && s.Global:
		return "one completion on every node"
	case s.Batch && replicas == 1:
		return "1 completion"
	case s.Batch:
		return strconv.Itoa(replicas) + " completions"
	case s.Global:
		return "one task on every node"
	case replicas == 1:
		return "1 replica"
	}
	return strconv.Itoa(replicas) + " replicas"
}

// oneLine keeps a value that came from outside from breaking the layout of a plan or writing to the terminal.
func oneLine(s string) string {
	if len(s) > 200 {
		s = s[:197] + "..."
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) {
		return strconv.Quote(s)
	}
	return s
}
