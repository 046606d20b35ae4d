package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"shoal/runtime/step"
)

// Use notes that a container uses the volume and returns the directory to mount. The note is on disk before the
// container can be: an agent that is killed in between leaves a user too many, which Adopt drops, never one too few.
// Errors: ErrNotFound, ErrInvalid.
func (s *Store) Use(name, user string) (string, error) {
	if err := errors.Join(CheckName(name), checkUser(user)); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.read(name)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(s.dir, name, usersDir, user), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("use volume %s for container %s: %w", name, user, err)
	}
	return v.Path, errors.Join(f.Close(), step.Reach("volume use noted"))
}

// Release takes the container off all volumes. One that uses none is no error. A volume that cannot be read is passed over:
// it must not hold a container that may have nothing to do with it, and Adopt drops what is left in it.
func (s *Store) Release(user string) error {
	if err := checkUser(user); err != nil {
		return err
	}
	return s.prune(func(u string) bool { return u == user })
}

// Adopt tells, after a restart of the agent, which containers live; all others are taken off their volumes. A volume that
// cannot be read is passed over.
func (s *Store) Adopt(users []string) error {
	return s.prune(func(u string) bool { return !slices.Contains(users, u) })
}

// prune drops notes of users. What is in volume.json does not matter to it, but that there is one does: a directory that
// somebody else made here is not ours to change.
func (s *Store) prune(drop func(user string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("release volumes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if _, err := os.Lstat(filepath.Join(s.dir, name, metaFile)); err != nil || !validName.MatchString(name) {
			continue
		}
		users, _ := os.ReadDir(filepath.Join(s.dir, name, usersDir)) // as far as it can be read
		for _, u := range users {
			if !drop(u.Name()) {
				continue
			}
			if err := step.Reach("volume release begun"); err != nil {
				return err
			}
			if err := os.Remove(filepath.Join(s.dir, name, usersDir, u.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("release volume %s of container %s: %w", name, u.Name(), err))
			}
		}
	}
	return errors.Join(errs...)
}

func checkUser(user string) error {
	if !validUser.MatchString(user) {
		return fmt.Errorf("container id %q: %w", user, ErrInvalid)
	}
	return nil
}
