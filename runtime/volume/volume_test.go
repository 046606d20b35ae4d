package volume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, name, job string) Volume {
	t.Helper()
	v, err := s.Create(name, job, Options{Labels: map[string]string{"for": job}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func names(t *testing.T, s *Store) []string {
	t.Helper()
	vs, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range vs {
		got = append(got, v.Name)
	}
	return got
}

func TestVolumeOutlivesTheAgent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	v := create(t, s, "shop_data", "shop")
	if err := os.WriteFile(filepath.Join(v.Path, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(v.Path)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("data directory: %v, %v", info.Mode(), err)
	}

	s = open(t, dir)
	again := create(t, s, "shop_data", "another") // one that exists stays as it is
	if again.Job != "shop" || again.Labels["for"] != "shop" || !again.Created.Equal(v.Created) || again.Path != v.Path {
		t.Errorf("opened again: %+v, want %+v", again, v)
	}
	path, err := s.Path("shop_data")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "f")); string(b) != "kept" {
		t.Errorf("data: %q, %v", b, err)
	}
	create(t, s, "a", "")
	if got := names(t, s); !slices.Equal(got, []string{"a", "shop_data"}) {
		t.Errorf("list: %v", got)
	}
}

func TestVolumeNames(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"", ".", "..", ".new-x", "a/b", "../x", "-a", "a b", "ä", "a\x00", strings.Repeat("a", maxName+1)} {
		_, createErr := s.Create(name, "", Options{})
		_, pathErr := s.Path(name)
		_, useErr := s.Use(name, "c")
		for _, err := range []error{createErr, pathErr, useErr, s.Remove(name)} {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%q: got %v, want %v", name, err, ErrInvalid)
			}
		}
	}
	for _, name := range []string{"a", "shop_data", "A.b-c_1", strings.Repeat("a", maxName)} {
		create(t, s, name, "")
	}
	for _, user := range []string{"", ".", "..", "a/b", "../../volume.json"} {
		if _, err := s.Use("a", user); !errors.Is(err, ErrInvalid) {
			t.Errorf("user %q: got %v, want %v", user, err, ErrInvalid)
		}
	}
}

func TestVolumeInUseIsNotRemoved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	v := create(t, s, "data", "shop")
	for _, user := range []string{"web.1", "web.2", "web.2"} {
		if path, err := s.Use("data", user); err != nil || path != v.Path {
			t.Fatalf("use: %q, %v", path, err)
		}
	}
	refused := func(who string) {
		t.Helper()
		if err := s.Remove("data"); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), who) {
			t.Errorf("got %v, want %v by %s", err, ErrInUse, who)
		}
	}
	refused("web.1, web.2")
	s = open(t, dir) // the agent was started anew
	refused("web.1, web.2")
	if err := s.Adopt([]string{"web.2", "unknown"}); err != nil {
		t.Fatal(err)
	}
	refused("(web.2)")
	for range 2 {
		if err := s.Release("web.2"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove("data"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.Path); !os.IsNotExist(err) {
		t.Errorf("data is still there: %v", err)
	}
	_, useErr := s.Use("data", "web.1")
	for _, err := range []error{s.Remove("data"), useErr} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, want %v", err, ErrNotFound)
		}
	}
}

// A crash can stop Create and Remove on either side of their rename.
func TestOpenEndsWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	create(t, s, "kept", "")
	create(t, s, "going", "")
	if err := os.Rename(filepath.Join(dir, "going"), filepath.Join(dir, gonePrefix+"going")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, newPrefix+"coming", dataDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("before open: %v", got)
	}
	s = open(t, dir)
	if got := names(t, s); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("after open: %v", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	create(t, s, "coming", "")
}

func TestBrokenVolumeHidesNoOther(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	create(t, s, "good", "")
	bad := create(t, s, "bad", "")
	if err := os.WriteFile(filepath.Join(filepath.Dir(bad.Path), metaFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	vs, err := s.List()
	if len(vs) != 1 || vs[0].Name != "good" || err == nil || !strings.Contains(err.Error(), "volume bad") {
		t.Errorf("got %v, %v", vs, err)
	}
	// Above all it is not made anew over somebody's data.
	if _, err := s.Create("bad", "", Options{}); err == nil {
		t.Error("a broken volume was created again")
	}
}

// What is wrong with one volume, or is no volume at all, is nobody's business who releases another.
func TestBrokenVolumeHoldsNobody(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for name, damage := range map[string]func(root string) error{
		"good":  func(string) error { return nil },
		"meta":  func(root string) error { return os.WriteFile(filepath.Join(root, metaFile), []byte("{"), 0o600) },
		"users": func(root string) error { return os.RemoveAll(filepath.Join(root, usersDir)) },
		"file": func(root string) error {
			return errors.Join(os.RemoveAll(filepath.Join(root, usersDir)), os.WriteFile(filepath.Join(root, usersDir), nil, 0o600))
		},
	} {
		create(t, s, name, "")
		for _, user := range []string{"gone", "removed", "lives"} {
			if _, err := s.Use(name, user); err != nil {
				t.Fatal(err)
			}
		}
		if err := damage(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	stray := filepath.Join(dir, "backup", usersDir, "gone")
	if err := errors.Join(os.MkdirAll(filepath.Dir(stray), 0o755), os.WriteFile(stray, []byte("a user's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if err := s.Adopt([]string{"removed", "lives"}); err != nil {
		t.Errorf("adopt: %v", err)
	}
	if err := s.Release("removed"); err != nil {
		t.Errorf("release: %v", err)
	}
	for _, name := range []string{"good", "meta"} {
		if left, err := os.ReadDir(filepath.Join(dir, name, usersDir)); err != nil || len(left) != 1 || left[0].Name() != "lives" {
			t.Errorf("users of %s: %v, %v", name, left, err)
		}
	}
	if _, err := os.Stat(stray); err != nil {
		t.Errorf("a file in a directory that is no volume: %v", err)
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		bind Bind
		want string
		kind error
	}{
		{Bind{Source: dir}, dir, nil},
		{Bind{Source: dir + "/./x/../file"}, file, nil},
		{Bind{Source: dir + "/new/deep", CreateHostPath: true}, dir + "/new/deep", nil},
		{Bind{Source: file, CreateHostPath: true}, file, nil},
		{Bind{Source: dir + "/missing"}, "", ErrNotFound},
		{Bind{Source: "data", CreateHostPath: true}, "", ErrInvalid},
		{Bind{Source: "./data"}, "", ErrInvalid},
		{Bind{}, "", ErrInvalid},
	} {
		got, err := Resolve(tc.bind)
		if got != tc.want || !errors.Is(err, tc.kind) {
			t.Errorf("%+v: got %q, %v; want %q, %v", tc.bind, got, err, tc.want, tc.kind)
		}
	}
	if info, err := os.Stat(dir + "/new/deep"); err != nil || !info.IsDir() {
		t.Errorf("created path: %v", err)
	}
	if _, err := Resolve(Bind{Source: file + "/below", CreateHostPath: true}); err == nil {
		t.Error("a path below a file cannot be made")
	}
}
