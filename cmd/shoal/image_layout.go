package main

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"shoal/consensus/job"
)

// layoutArchive streams an OCI image layout that is a directory as the archive that the agent takes. Only regular files go:
// a layout has nothing else.
func layoutArchive(dir string) (io.ReadCloser, error) {
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		return nil, job.Errorf(job.Invalid, "load image: %s is a directory, and no OCI layout: it has no index.json", dir)
	}
	r, w := io.Pipe()
	go func() { // it ends when all is read, or when the reader closes
		tw := tar.NewWriter(w)
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			return addFile(tw, dir, path)
		})
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r, nil
}

func addFile(tw *tar.Writer, dir, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o644, Size: fi.Size(), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.CopyN(tw, f, fi.Size())
	return err
}
