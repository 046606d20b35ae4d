package image

import (
	"bytes"
	"io"

	"golang.org/x/sys/unix"
)

// fill copies a file's content. Long runs of zeros become holes, so that a sparse file stays one, and a file that claims
// to be huge costs no disk.
func (a *applier) fill(fd int, r io.Reader, size int64) error {
	var at int64
	hole := false
	for at < size {
		n, err := io.ReadFull(r, a.buf[:min(size-at, int64(len(a.buf)))])
		for done := 0; done < n; {
			end := done
			for end < n && !isHole(a.buf[end:min(end+holeChunk, n)]) {
				end = min(end+holeChunk, n)
			}
			if end > done {
				if err := pwriteAll(fd, a.buf[done:end], at+int64(done)); err != nil {
					return err
				}
				hole = false
				done = end
				continue
			}
			hole = true
			done = min(done+holeChunk, n)
		}
		at += int64(n)
		if err != nil {
			return err
		}
	}
	if hole {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

var zeros [holeChunk]byte

// isHole tells whether b is a whole chunk of zeros.
func isHole(b []byte) bool {
	return len(b) == holeChunk && b[0] == 0 && b[len(b)-1] == 0 && bytes.Equal(b, zeros[:])
}

func pwriteAll(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}
