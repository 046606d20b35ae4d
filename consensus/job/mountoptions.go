package job

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Propagations of a bind mount (mount(8), shared subtrees). The default is rprivate.
var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// tmpfsOptions are those without a value that a tmpfs may have, beside the size and mode that have fields.
var tmpfsOptions = []string{
	"exec", "noexec", "suid", "nosuid", "dev", "nodev", "ro", "rw", "atime", "noatime", "diratime", "nodiratime", "relatime",
	"norelatime", "strictatime", "nostrictatime", "sync", "async", "dirsync", "mand", "nomand",
}

func (m *Mount) normalizeOptions() {
	if m.Propagation == "rprivate" {
		m.Propagation = ""
	}
	if m.Subpath != "" {
		m.Subpath = path.Clean(m.Subpath)
	}
	if m.Options != "" {
		list := strings.Split(m.Options, ",")
		slices.Sort(list)
		m.Options = strings.Join(slices.Compact(list), ",")
	}
}

func (m Mount) checkOptions() error {
	switch {
	case m.Propagation != "" && m.Type != MountBind:
		return fmt.Errorf("propagation is for a bind mount only; remove it")
	case m.Propagation != "" && !slices.Contains(propagations, m.Propagation):
		return fmt.Errorf("propagation %q is not known; use one of %s", shorten(m.Propagation), strings.Join(propagations, ", "))
	case m.NoRecurse && m.Type != MountBind:
		return fmt.Errorf("recursive is for a bind mount only; remove it")
	case m.Subpath != "" && (m.Type != MountVolume || m.Source == ""):
		return fmt.Errorf("a subpath is for a named volume only; remove it")
	case badPath(m.Subpath) || path.IsAbs(m.Subpath) || m.Subpath == ".." || strings.HasPrefix(m.Subpath, "../"):
		return fmt.Errorf("subpath %q does not stay in the volume; write it relative to the volume", shorten(m.Subpath))
	case m.Options == "":
		return nil
	case m.Type != MountTmpfs:
		return fmt.Errorf("options %q are for a tmpfs only; remove them", shorten(m.Options))
	}
	for o := range strings.SplitSeq(m.Options, ",") {
		if err := CheckTmpfsOption(o); err != nil {
			return err
		}
	}
	return nil
}

// CheckTmpfsOption refuses an option that a tmpfs cannot have.
func CheckTmpfsOption(o string) error {
	key, value, has := strings.Cut(o, "=")
	switch {
	case !has && slices.Contains(tmpfsOptions, o):
		return nil
	case has && (key == "uid" || key == "gid" || key == "nr_inodes"):
		if _, err := strconv.ParseUint(value, 10, 32); err == nil {
			return nil
		}
	}
	return fmt.Errorf("option %q of a tmpfs is not known; use size, mode, uid, gid, nr_inodes, %s", shorten(o), strings.Join(tmpfsOptions, ", "))
}
