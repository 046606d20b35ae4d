package main

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"shoal/consensus/job"
	"shoal/node/api"
)

func cpCommand() *cli.Command {
	return &cli.Command{
		Name: "cp", Category: categoryLook,
		Usage:     "copy files between a task and here",
		ArgsUsage: "TASK:PATH DEST | SOURCE TASK:PATH",
		Description: "DEST and SOURCE are paths here, or - for a tar archive on standard output or input. As with docker: what is copied to an\n" +
			"existing directory goes into it, PATH/. means what is in a directory, and the parent of a new name must exist. The task may\n" +
			"have ended; one that is to be started again waits for the copy, 10 seconds at most, and then the copy fails. Nothing outside\n" +
			"its own files can be reached through links in it.\n\n" +
			"Examples:\n  shoal cp web/front.1:/etc/nginx/nginx.conf .\n  shoal cp site/. web/front.1:/usr/share/nginx/html\n  tar c . | shoal cp - web/front.1:/tmp",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "archive", Aliases: []string{"a"}, Usage: "keep the numbers of owners and groups"},
			&cli.BoolFlag{Name: "follow-link", Aliases: []string{"L"}, Usage: "copy what a link SOURCE points to"},
		),
		Action: asking(cp),
	}
}

func cp(c *cli.Context, s *screen, cl *api.Client) error {
	if err := wantArgs(c, 2, 2); err != nil {
		return err
	}
	from, to := c.Args().Get(0), c.Args().Get(1)
	fromTask, fromPath, out := splitTask(from)
	toTask, toPath, in := splitTask(to)
	switch {
	case in == out:
		return exitf(exitUsage, "cp %s %s: one of them, and only one, is in a task, as TASK:PATH; a path here with a colon begins with ./ or /", from, to)
	case out:
		t, err := oneTask(c.Context, cl, fromTask)
		if err != nil {
			return err
		}
		o := copyOut{c: c, cl: cl, task: string(t.ID), source: fromPath, dest: to}
		if to == "-" {
			if s.terminal {
				return exitf(exitUsage, "an archive is nothing for a terminal; name a directory, or use a pipe")
			}
			return o.read(s.out)
		}
		return o.run()
	}
	t, err := oneTask(c.Context, cl, toTask)
	if err != nil {
		return err
	}
	i := copyIn{c: c, cl: cl, task: string(t.ID), source: from, dest: toPath}
	if from == "-" {
		return cl.CopyIn(c.Context, i.task, api.CopyInRequest{Path: toPath, Owners: true, NoOverwrite: true}, c.App.Reader)
	}
	return i.run()
}

// splitTask takes TASK:PATH apart.
func splitTask(word string) (task, name string, ok bool) {
	task, name, ok = strings.Cut(word, ":")
	if !ok || task == "" || strings.HasPrefix(word, ".") || strings.HasPrefix(word, "/") {
		return "", word, false
	}
	if name == "" {
		name = "/"
	}
	return task, name, true
}

// content tells a path that means what is in a directory: DIR/. as with docker.
func content(name string) bool { return name == "." || strings.HasSuffix(name, "/.") }

// asDirectory tells a path that can only be a directory.
func asDirectory(name string) bool { return strings.HasSuffix(name, "/") || content(name) }

// copyOut copies from a task to here.
type copyOut struct {
	c                  *cli.Context
	cl                 *api.Client
	task, source, dest string
}

func (o *copyOut) read(to io.Writer) error {
	return o.cl.CopyOut(o.c.Context, o.task, api.CopyOutRequest{Path: o.source, Follow: o.c.Bool("follow-link") || asDirectory(o.source)}, to)
}

func (o *copyOut) run() error {
	st, err := o.cl.StatPath(o.c.Context, o.task, o.source)
	if err != nil {
		return err
	}
	isDir := fs.FileMode(st.Mode).IsDir() || st.IsDir() && (o.c.Bool("follow-link") || asDirectory(o.source))
	dir, name, err := landing(o.dest, path.Base(path.Clean("/"+o.source)), isDir, content(o.source), localIs)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r, w := io.Pipe()
	go func() { w.CloseWithError(o.read(w)) }()
	defer r.Close()
	x := extraction{root: root, name: name, owners: o.c.Bool("archive")}
	return x.run(tar.NewReader(r))
}

// kind of what is at a path: absent, a file or a directory.
type kind int

const (
	absent kind = iota
	isFile
	isDirectory
)

func localIs(name string) (kind, error) {
	fi, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return absent, nil
	case err != nil:
		return absent, err
	case fi.IsDir():
		return isDirectory, nil
	}
	return isFile, nil
}

// landing decides where a copy goes: into which directory, and under which name; "." is for what is in a directory. These
// are docker's rules.
func landing(dest, base string, isDir, content bool, is func(string) (kind, error)) (dir, name string, err error) {
	there, err := is(dest)
	if err != nil {
		return "", "", err
	}
	switch {
	case there == isDirectory && isDir && content, there == isDirectory && base == "/":
		return dest, ".", nil
	case there == isDirectory:
		return dest, base, nil
	case there == isFile && (isDir || asDirectory(dest)):
		return "", "", job.Errorf(job.Conflict, "%s is a file: a directory cannot be copied to it", dest)
	case there == absent && !isDir && asDirectory(dest):
		return "", "", job.Errorf(job.NotFound, "directory %s is not there", dest)
	}
	dest = strings.TrimRight(strings.TrimSuffix(dest, "/."), "/")
	dir, name = path.Split(dest)
	if dir == "" {
		dir = "."
	}
	if up, err := is(dir); err != nil || up != isDirectory {
		return "", "", errors.Join(err, job.Errorf(job.NotFound, "directory %s is not there", dir))
	}
	return dir, name, nil
}

// extraction writes an archive below a directory here, under another name. The archive comes from a container: no name
// and no link of it leads outside (os.Root).
type extraction struct {
	root   *os.Root
	name   string // what the archive's first element is called here
	owners bool
	times  []entryTime
}

type entryTime struct {
	name string
	head *tar.Header
}

func (x *extraction) run(from *tar.Reader) error {
	for {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := x.entry(h, from); err != nil {
			return err
		}
	}
	for i := len(x.times) - 1; i >= 0; i-- {
		t := x.times[i]
		_ = x.root.Chmod(t.name, t.head.FileInfo().Mode()&(fs.ModePerm|fs.ModeSticky)) // of directories, which had to be writable
		_ = x.root.Chtimes(t.name, t.head.ModTime, t.head.ModTime)
	}
	return nil
}

// here makes a name in the archive one of this side.
func (x *extraction) here(name string) string {
	_, rest, _ := strings.Cut(path.Clean(name), "/")
	return path.Join(x.name, rest)
}

func (x *extraction) entry(h *tar.Header, content io.Reader) error {
	name := x.here(h.Name)
	if path.Clean(h.Name) != "." && strings.HasPrefix(path.Clean(h.Name), "..") {
		return job.Errorf(job.Invalid, "the node sent a name that leads outside: %q", h.Name)
	}
	mode := h.FileInfo().Mode()
	if h.Typeflag != tar.TypeDir {
		if fi, err := x.root.Lstat(name); err == nil && !fi.IsDir() {
			if err := x.root.Remove(name); err != nil {
				return err
			}
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if name != "." {
			if err := x.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			x.times = append(x.times, entryTime{name, h})
		}
	case tar.TypeReg:
		f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Chmod(mode&fs.ModePerm), f.Close()); err != nil {
			return err
		}
		if err := x.root.Chtimes(name, h.ModTime, h.ModTime); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := x.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
	case tar.TypeLink:
		return x.root.Link(x.here(h.Linkname), name)
	default:
		return nil // a device or a pipe is of no use here
	}
	if x.owners && os.Geteuid() == 0 {
		return x.root.Lchown(name, h.Uid, h.Gid)
	}
	return nil
}

// copyIn copies from here to a task.
type copyIn struct {
	c                  *cli.Context
	cl                 *api.Client
	task, source, dest string
}

func (i *copyIn) run() error {
	stat := os.Lstat
	if i.c.Bool("follow-link") || asDirectory(i.source) {
		stat = os.Stat
	}
	fi, err := stat(i.source)
	if err != nil {
		return err
	}
	if asDirectory(i.source) && !fi.IsDir() {
		return exitf(exitUsage, "%s is not a directory", i.source)
	}
	dest, err := i.throughLinks(i.dest)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(i.source)
	if err != nil {
		return err
	}
	dir, name, err := landing(dest, filepath.Base(abs), fi.IsDir(), content(i.source), i.is)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(pack(w, abs, name, fi.IsDir() || i.c.Bool("follow-link"))) }()
	defer r.Close()
	return i.cl.CopyIn(i.c.Context, i.task, api.CopyInRequest{Path: dir, Owners: i.c.Bool("archive"), NoOverwrite: true}, r)
}

// throughLinks follows a link at the end of a path, as docker does, so that not the link is replaced but what it names.
func (i *copyIn) throughLinks(name string) (string, error) {
	for range 8 {
		st, err := i.cl.StatPath(i.c.Context, i.task, name)
		if job.KindOf(err) == job.NotFound || err == nil && (st.Link == "" || st.IsDir()) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		if path.IsAbs(st.Link) {
			name = st.Link
		} else {
			name = path.Join(path.Dir(path.Clean("/"+name)), st.Link)
		}
	}
	return "", job.Errorf(job.Invalid, "%s: too many links", name)
}

func (i *copyIn) is(name string) (kind, error) {
	st, err := i.cl.StatPath(i.c.Context, i.task, name)
	switch {
	case job.KindOf(err) == job.NotFound:
		if _, alive := i.cl.StatPath(i.c.Context, i.task, "/"); alive != nil {
			return absent, alive // it is the task that is not there
		}
		return absent, nil
	case err != nil:
		return absent, err
	case st.IsDir():
		return isDirectory, nil
	}
	return isFile, nil
}

// pack archives a path here under another name.
func pack(to io.Writer, source, name string, follow bool) error {
	w := tar.NewWriter(to)
	if follow {
		if real, err := filepath.EvalSymlinks(source); err == nil {
			source = real
		}
	}
	links := map[any]string{}
	err := filepath.WalkDir(source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		return packOne(w, file, path.Join(name, filepath.ToSlash(rel)), links)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func packOne(w *tar.Writer, file, name string, links map[any]string) error {
	fi, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if fi.Mode()&(fs.ModeSocket|fs.ModeDevice|fs.ModeNamedPipe) != 0 {
		return nil
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX
	if fi.IsDir() {
		h.Name += "/"
	}
	if id, many := fileIdentity(fi); many && fi.Mode().IsRegular() {
		if first, ok := links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return w.WriteHeader(h)
		}
		links[id] = name
	}
	if err := w.WriteHeader(h); err != nil || !fi.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(w, f, h.Size)
	return err
}
