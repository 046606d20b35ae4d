package image

import (
	"bufio"
	"bytes"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// maxZstdWindow bounds the memory that a zstd frame can ask for; the format's own recommendation for decoders is 8 MiB,
// and `zstd --ultra -22` makes 128 MiB.
const maxZstdWindow = 128 << 20

// inflate undoes gzip or zstd, told by their magic: a media type can lie, the digest of the result cannot. What it returns
// fails with ErrInvalid beyond limit bytes or MaxInflateRatio, and must be closed; closing does not close r.
func inflate(r io.Reader, limit int64) (*limitedInflater, error) {
	in := &countingReader{r: r}
	br := bufio.NewReaderSize(in, 256<<10)
	magic, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	out := &limitedInflater{in: in, limit: limit, floor: inflateFloor, close: func() {}}
	switch {
	case isGzip(magic):
		zr, err := pgzip.NewReaderN(br, 256<<10, 4)
		if err != nil {
			return nil, invalidf("gzip: %w", err)
		}
		out.r, out.format, out.close = zr, "gzip", func() { zr.Close() }
	case isZstd(magic):
		zr, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, invalidf("zstd: %w", err)
		}
		out.r, out.format, out.close = zr, "zstd", zr.Close
	case bytes.HasPrefix(magic, []byte("BZh")), bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, invalidf("compressed with bzip2 or xz: only gzip and zstd are supported")
	default:
		out.r = br
	}
	return out, nil
}

func isGzip(b []byte) bool { return bytes.HasPrefix(b, []byte{0x1f, 0x8b}) }

// isZstd is true for a skippable frame, too, with which zstd:chunked may begin.
func isZstd(b []byte) bool {
	return bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}) || len(b) >= 4 && b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], []byte{0x2a, 0x4d, 0x18})
}

// countingReader is read by a decoder's goroutine and looked at by another.
type countingReader struct {
	r io.Reader
	n atomic.Int64
	// failed is the first error of the source itself, so that a failing disk or network is not taken for a bad archive.
	failed atomic.Pointer[error]
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	if err != nil && err != io.EOF {
		c.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

type limitedInflater struct {
	r      io.Reader
	in     *countingReader
	format string // "" if not compressed
	n      int64
	limit  int64
	floor  int64 // bytes that may come whatever the ratio
	close  func()
}

func (l *limitedInflater) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.n += int64(n)
	if l.n > l.limit {
		return 0, invalidf("inflates to more than %d bytes", l.limit)
	}
	if in := l.in.n.Load(); l.n > l.floor && l.n/MaxInflateRatio > in {
		return 0, invalidf("%d bytes inflate to more than %d: over %d-fold is refused beyond %d bytes", in, l.n, MaxInflateRatio, l.floor)
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	if cause := l.in.failed.Load(); cause != nil {
		return n, *cause
	}
	if l.format != "" {
		err = invalidf("%s: %w", l.format, err)
	}
	return n, err
}

func (l *limitedInflater) Close() error {
	l.close()
	return nil
}
