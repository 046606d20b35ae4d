// Package volume knows the named volumes of this machine, where their data is and who uses them, and which host paths
// may be mounted. It refuses to know how they are mounted, and what is in them.
package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"shoal/runtime/step"
)

// Steps are the moments between two changes on disk at which the store is killed by its crash test.
var Steps = []step.Name{
	"volume begun", "volume directories made", "volume written", "volume synced", "volume named",
	"volume removal begun", "volume gone", "volume removal synced", "volume use noted", "volume release begun",
}

// Kinds that a caller may test for with errors.Is.
var (
	// ErrNotFound: there is no such volume, or no such host path.
	ErrNotFound = errors.New("not found")
	// ErrInUse: a container uses the volume. Trying again helps once it is gone.
	ErrInUse = errors.New("in use")
	// ErrInvalid: a name or path can never be right; the text says what to change.
	ErrInvalid = errors.New("invalid")
)

const (
	// dataDir holds what containers see, metaFile what we know, usersDir one empty file for each container that uses
	// the volume.
	dataDir, metaFile, usersDir = "_data", "volume.json", "users"
	// newPrefix and gonePrefix mark a volume that is not there yet and one that is not there any more. Volume names
	// never begin with a dot.
	newPrefix, gonePrefix = ".new-", ".gone-"
	maxName               = 200
)

// validName is Docker's: letters, digits, and _ . - behind the first.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// validUser also takes libcontainer's "+".
var validUser = regexp.MustCompile(`^[a-zA-Z0-9_+-][a-zA-Z0-9_+.-]*$`)

// Volume is a named directory that outlives containers.
type Volume struct {
	// Name is unique on the machine: "shop_data", or what the Compose file says for an external volume.
	Name string `json:"name"`
	// Job is the one that it was created for; empty for a volume made by hand.
	Job string `json:"job,omitempty"`
	// Labels are the user's; nil if there are none.
	Labels map[string]string `json:"labels,omitempty"`
	// Created is the machine's wall clock, for people.
	Created time.Time `json:"created"`
	// Path is the host directory with the data; it is derived, never stored.
	Path string `json:"-"`
	// Users are the ids of the containers that use it, sorted.
	Users []string `json:"-"`
}

// Options of a new volume.
type Options struct {
	Labels map[string]string
}

// Store is the volumes below one directory. One process at a time may have it open. Safe for concurrent use.
type Store struct {
	dir string
	// mu orders changes. It is held over disk writes: a volume changes once in a container's life, and the order of the
	// steps is the promise.
	mu sync.Mutex
	// unsynced: a sync of dir failed, so that the name of a volume that is there may not survive a power cut.
	unsynced bool
}

// Open makes dir if it is missing and ends what a crash left half done.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	s := &Store{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) || strings.HasPrefix(e.Name(), gonePrefix) {
			// One that stays (an immutable file, a failing disk) takes space, and its name says that it is nothing.
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	// A volume whose maker was killed before it synced is returned by the next Create like any other.
	if err := s.syncNames(); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	return s, nil
}

// CheckName says whether name can be a volume's.
func CheckName(name string) error {
	if len(name) > maxName || !validName.MatchString(name) {
		return fmt.Errorf("volume name %q: %w: want a letter or digit, then letters, digits, '_', '.' or '-', at most %d", name, ErrInvalid, maxName)
	}
	return nil
}

// Create makes the volume, or returns the one that exists: its job and labels stay as they are. When it returns, the
// volume survives a power cut.
func (s *Store) Create(name, job string, o Options) (Volume, error) {
	if err := CheckName(name); err != nil {
		return Volume{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.read(name)
	if err == nil && s.unsynced {
		if err = s.syncNames(); err != nil {
			return Volume{}, fmt.Errorf("create volume %s: %w", name, err)
		}
	}
	if !errors.Is(err, ErrNotFound) {
		return v, err
	}
	v = Volume{Name: name, Job: job, Labels: o.Labels, Created: time.Now().UTC()}
	if err := s.write(v); err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", name, err)
	}
	return s.read(name)
}

// write builds the volume aside and renames it into place, so that it is there wholly or not at all.
func (s *Store) write(v Volume) (err error) {
	tmp := filepath.Join(s.dir, newPrefix+v.Name)
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp)
		}
	}()
	if err := step.Reach("volume begun"); err != nil {
		return err
	}
	for _, d := range []string{tmp, filepath.Join(tmp, usersDir)} {
		if err := os.Mkdir(d, 0o711); err != nil {
			return err
		}
	}
	if err := step.Reach("volume directories made"); err != nil {
		return err
	}
	data := filepath.Join(tmp, dataDir)
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	// The umask must not decide who can enter a volume.
	if err := os.Chmod(data, 0o755); err != nil {
		return err
	}
	meta, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(tmp, metaFile), meta); err != nil {
		return err
	}
	if err := errors.Join(step.Reach("volume written"), syncDir(tmp)); err != nil {
		return err
	}
	if err := errors.Join(step.Reach("volume synced"), os.Rename(tmp, filepath.Join(s.dir, v.Name))); err != nil {
		return err
	}
	return errors.Join(step.Reach("volume named"), s.syncNames())
}

// syncNames makes the names of volumes survive a power cut.
func (s *Store) syncNames() error {
	err := syncDir(s.dir)
	s.unsynced = err != nil
	return err
}

// Get returns one volume. Errors: ErrNotFound, ErrInvalid.
func (s *Store) Get(name string) (Volume, error) {
	if err := CheckName(name); err != nil {
		return Volume{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read(name)
}

// Path returns the host directory with the volume's data. Errors: ErrNotFound, ErrInvalid.
func (s *Store) Path(name string) (string, error) {
	v, err := s.Get(name)
	return v.Path, err
}

// List returns all volumes, sorted by name. A volume that cannot be read is left out and named in the error; the others
// are returned all the same.
func (s *Store) List() ([]Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var vs []Volume
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !validName.MatchString(e.Name()) {
			continue
		}
		v, err := s.read(e.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		vs = append(vs, v)
	}
	return vs, errors.Join(errs...)
}

// Remove deletes the volume and its data. It refuses while a container uses it (ErrInUse, with the ids).
func (s *Store) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.read(name)
	if err != nil {
		return err
	}
	if len(v.Users) > 0 {
		return fmt.Errorf("remove volume %s: %w by %d containers (%s); remove them first", name, ErrInUse, len(v.Users), some(v.Users))
	}
	// After the rename the volume is gone, whenever the power goes; Open deletes what is left.
	gone := filepath.Join(s.dir, gonePrefix+name)
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := errors.Join(step.Reach("volume removal begun"), os.Rename(filepath.Join(s.dir, name), gone)); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := errors.Join(step.Reach("volume gone"), s.syncNames()); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := errors.Join(step.Reach("volume removal synced"), os.RemoveAll(gone)); err != nil {
		return fmt.Errorf("volume %s is removed, but its data takes space until the next start: %w", name, err)
	}
	return nil
}

// some joins ids for a message, the first few of them.
func some(ids []string) string {
	const most = 3
	if len(ids) <= most {
		return strings.Join(ids, ", ")
	}
	return strings.Join(ids[:most], ", ") + ", …"
}

// read must be called with mu held.
func (s *Store) read(name string) (Volume, error) {
	root := filepath.Join(s.dir, name)
	data, err := os.ReadFile(filepath.Join(root, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Volume{}, fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return Volume{}, fmt.Errorf("read volume %s: %w", name, err)
	}
	var v Volume
	if err := json.Unmarshal(data, &v); err != nil {
		return Volume{}, fmt.Errorf("read volume %s: %w", name, err)
	}
	users, err := os.ReadDir(filepath.Join(root, usersDir))
	if err != nil {
		return Volume{}, fmt.Errorf("read users of volume %s: %w", name, err)
	}
	for _, u := range users {
		v.Users = append(v.Users, u.Name())
	}
	slices.Sort(v.Users)
	v.Name, v.Path = name, filepath.Join(root, dataDir)
	return v, nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
