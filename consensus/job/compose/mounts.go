package compose

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"shoal/consensus/job"

	"github.com/compose-spec/compose-go/v2/types"
)

// mounts converts `volumes` and `tmpfs` of a service, and notes the named volumes that it uses.
func (c *conversion) mounts(at string, s *types.ServiceConfig, volumes map[string]job.Volume) []job.Mount {
	var out []job.Mount
	for i, v := range s.Volumes {
		here := fmt.Sprintf("%s.volumes[%d]", at, i)
		m, err := c.mount(v, volumes)
		if err != nil {
			c.problem(here, "%v", err)
			continue
		}
		out = append(out, m)
	}
	for i, t := range s.Tmpfs {
		m, err := parseTmpfs(t)
		if err != nil {
			c.problem(fmt.Sprintf("%s.tmpfs[%d]", at, i), "%v", err)
			continue
		}
		out = append(out, m)
	}
	return out
}

func (c *conversion) mount(v types.ServiceVolumeConfig, volumes map[string]job.Volume) (job.Mount, error) {
	m := job.Mount{Type: v.Type, Source: v.Source, Target: v.Target, ReadOnly: v.ReadOnly}
	switch v.Type {
	case types.VolumeTypeBind:
		if !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(c.project.WorkingDir, m.Source)
		}
		m.CreateHostPath = v.Bind == nil || bool(v.Bind.CreateHostPath)
		if v.Bind != nil {
			m.Propagation, m.NoRecurse = v.Bind.Propagation, v.Bind.Recursive == "disabled"
		}
	case types.VolumeTypeVolume:
		if v.Source != "" {
			full := c.project.Volumes[v.Source]
			m.Source, m.External = full.Name, bool(full.External)
			volumes[full.Name] = job.Volume{Name: full.Name, External: bool(full.External)}
		}
		if v.Volume != nil {
			m.NoCopy, m.Subpath = v.Volume.NoCopy, v.Volume.Subpath
		}
	case types.VolumeTypeTmpfs:
		if v.Tmpfs != nil {
			m.SizeBytes, m.FileMode = int64(v.Tmpfs.Size), v.Tmpfs.Mode
		}
	default:
		return m, fmt.Errorf("type %q is not honoured by this version; use bind, volume or tmpfs", v.Type)
	}
	return m, nil
}

// parseTmpfs reads "/path[:option,...]" with the options of mount(8) for a tmpfs.
func parseTmpfs(s string) (job.Mount, error) {
	target, options, _ := strings.Cut(s, ":")
	m := job.Mount{Type: job.MountTmpfs, Target: target}
	var further []string
	for o := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "", "rw":
		case "size":
			n, err := job.ParseBytes(value)
			if err != nil {
				return m, err
			}
			m.SizeBytes = n
		case "mode":
			n, err := strconv.ParseUint(value, 8, 32)
			if err != nil {
				return m, fmt.Errorf("mode %.40q is not an octal number such as 1777", value)
			}
			m.FileMode = uint32(n)
		default:
			if err := job.CheckTmpfsOption(o); err != nil {
				return m, err
			}
			further = append(further, o)
		}
	}
	m.Options = strings.Join(further, ",")
	return m, nil
}
