package stage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxAccountFile bounds what is read of an image's /etc/passwd and /etc/group.
const maxAccountFile = 1 << 20

// identity is who a process runs as, in numbers.
type identity struct {
	UID, GID int
	Groups   []int
	Home     string
}

func resolveUser(root string, rec Record) (identity, error) {
	name := rec.Spec.User
	if name == "" {
		name = rec.Config.User
	}
	return lookUser(root, name, isolationOf(&rec.Spec).Groups)
}

// lookUser resolves "user[:group]", names or numbers, against the account files below root, which an image wrote: no
// link in there leads outside. more are further groups of the user, names or numbers.
func lookUser(root, name string, more []string) (identity, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return identity{}, fmt.Errorf("open root file system %s: %w", root, err)
	}
	defer unix.Close(dir)
	passwd, err := openAccounts(dir, "etc/passwd")
	if err != nil {
		return identity{}, err
	}
	defer passwd.Close()
	group, err := openAccounts(dir, "etc/group")
	if err != nil {
		return identity{}, err
	}
	defer group.Close()
	who, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return identity{}, Invalidf("user %q: %v", name, err)
	}
	// The primary group is among the others too: a set-group-id program must not be able to shed it (CVE-2022-36109).
	groups := append([]int{who.Gid}, slices.DeleteFunc(who.Sgids, func(g int) bool { return g == who.Gid })...)
	if groups, err = addGroups(dir, groups, more); err != nil {
		return identity{}, err
	}
	return identity{UID: who.Uid, GID: who.Gid, Groups: groups, Home: who.Home}, nil
}

func addGroups(root int, groups []int, more []string) ([]int, error) {
	if len(more) == 0 {
		return groups, nil
	}
	if slices.Contains(more, "") { // moby/sys/user v0.5.0 panics
		return nil, Invalidf("group_add: a group without a name")
	}
	file, err := openAccounts(root, "etc/group")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	found, err := user.GetAdditionalGroups(more, file)
	if err != nil {
		return nil, Invalidf("group_add: %v", err)
	}
	for _, g := range found {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	return groups, nil
}

type accountFile struct {
	io.Reader
	io.Closer
}

// openAccounts opens a file of accounts; a missing one is empty.
func openAccounts(root int, name string) (accountFile, error) {
	at, err := openInRoot(root, name, unix.O_PATH) // opening a device does something, and a FIFO may hold us
	if isAbsent(err) || errors.Is(err, unix.ENOTDIR) {
		return accountFile{strings.NewReader(""), io.NopCloser(nil)}, nil
	}
	if err != nil {
		return accountFile{}, fmt.Errorf("open the image's /%s: %w", name, err)
	}
	defer at.Close()
	if st, err := at.Stat(); err != nil || !st.Mode().IsRegular() {
		return accountFile{}, Invalidf("the image's /%s is not a file", name)
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
	if err != nil {
		return accountFile{}, fmt.Errorf("open the image's /%s: %w", name, err)
	}
	return accountFile{io.LimitReader(f, maxAccountFile), f}, nil
}

// openInRoot opens a path as if root were the root directory: links that lead outside do not.
func openInRoot(root int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat2(root, strings.TrimLeft(name, "/"), &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
