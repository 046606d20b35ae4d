package container

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

const (
	// followEvery is how often a follower looks for more. Looking costs some microseconds; waking up by inotify would
	// cost one of the 128 instances that a user has.
	followEvery = 50 * time.Millisecond
	tailBlock   = 32 << 10
	maxRawLine  = 32 << 10 // a monitor cuts lines at half of that
)

// Logs calls line for each selected line, oldest first. With Tail, a line that was cut into pieces counts as several.
func (r *Runtime) Logs(ctx context.Context, id runtime.ID, q runtime.LogQuery, line func(runtime.LogLine) error) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	if c.rec.Spec.Log.None {
		return stage.Invalidf("container %s keeps no log: its logging driver is none", id)
	}
	lr := &logReader{dir: filepath.Join(c.dir, stage.DirLog)}
	defer lr.close()
	if err := lr.seek(q.Tail); err != nil {
		return fmt.Errorf("read the log of container %s: %w", id, err)
	}
	for {
		l, err := lr.next()
		switch {
		case err == nil:
			if l.Time.Before(q.Since) {
				continue
			}
			if c.rec.Spec.TTY && !l.Partial { // a terminal ends lines with both
				l.Text = bytes.TrimSuffix(l.Text, []byte("\r"))
			}
			if err := line(l); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		case !errors.Is(err, io.EOF):
			return fmt.Errorf("read the log of container %s: %w", id, err)
		case !q.Follow:
			return nil
		}
		c.mu.Lock()
		removed := c.removed
		c.mu.Unlock()
		if removed {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(followEvery):
		}
	}
}

func logPath(dir string, n int64) string { return filepath.Join(dir, fmt.Sprintf("%010d", n)) }

// logReader reads the files of a log one after the other, while they are written and the oldest are deleted. The monitor
// never writes to a file again once the next one exists; that is what makes leaving a file safe.
type logReader struct {
	dir    string
	number int64 // of file; 0 before the first
	file   *os.File
	buf    *bufio.Reader
	part   []byte // of a line whose end is not written yet
	// skipping: the line is longer than any that a monitor writes; what follows up to its end is left out too.
	skipping bool
}

func (l *logReader) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// open goes to an offset in a file.
func (l *logReader) open(number, offset int64) error {
	f, err := os.Open(logPath(l.dir, number))
	if err != nil {
		return err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return err
	}
	l.close()
	l.file, l.number, l.part, l.skipping = f, number, nil, false
	l.buf = bufio.NewReaderSize(f, maxRawLine)
	return nil
}

// next gives the next complete line, io.EOF if there is none yet.
func (l *logReader) next() (runtime.LogLine, error) {
	for {
		raw, err := l.rawLine()
		if errors.Is(err, io.EOF) {
			err = l.advance()
			if err == nil {
				continue
			}
		}
		if err != nil {
			return runtime.LogLine{}, err
		}
		if line, ok := parseLogLine(raw); ok {
			return line, nil
		}
	}
}

// rawLine gives a line without its newline; nothing for one that is too long to be a monitor's, such as the zeros that a
// power cut leaves behind.
func (l *logReader) rawLine() ([]byte, error) {
	if l.file == nil {
		return nil, io.EOF
	}
	b, err := l.buf.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || len(l.part)+len(b) > maxRawLine {
		l.part, l.skipping = nil, true
	}
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, nil
	case err != nil:
		if !l.skipping {
			l.part = append(l.part, b...)
		}
		return nil, err
	case l.skipping:
		l.skipping = false
		return nil, nil
	}
	if len(l.part) > 0 {
		b = append(l.part, b...)
		l.part = nil
	}
	return b[:len(b)-1], nil
}

// advance goes to the next file, which must exist; io.EOF if it does not. What was written to the present file until the
// next one appeared is read first.
func (l *logReader) advance() error {
	numbers, err := stage.LogNumbers(l.dir)
	if err != nil {
		return err
	}
	i, _ := slices.BinarySearch(numbers, l.number+1)
	if i == len(numbers) {
		return io.EOF
	}
	if l.file != nil {
		if _, err := l.buf.Peek(1); err == nil {
			return nil // more came before the next file was made
		}
	}
	if err := l.open(numbers[i], 0); !isAbsent(err) {
		return err
	}
	return l.advance() // deleted since we listed it; the list changes, so this ends
}

// seek goes to where the last tail lines begin; 0: the beginning, -1: the end.
func (l *logReader) seek(tail int) error {
	if tail == 0 {
		return nil
	}
	numbers, err := stage.LogNumbers(l.dir)
	if err != nil {
		return err
	}
	want := max(tail, 0)
	for _, n := range slices.Backward(numbers) {
		offset, found, err := tailOffset(logPath(l.dir, n), want)
		if isAbsent(err) {
			break
		}
		if err != nil {
			return err
		}
		want -= found
		if want == 0 || n == numbers[0] {
			return l.open(n, offset)
		}
	}
	return nil
}

// tailOffset is where the last want lines of a file begin, and how many there are at most.
func tailOffset(path string, want int) (offset int64, found int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	// A line ends with its newline: the want lines begin behind the newline that is want+1 from the end.
	block := make([]byte, tailBlock)
	newlines := 0
	for end := st.Size(); end > 0; {
		begin := max(0, end-tailBlock)
		b := block[:end-begin]
		if _, err := f.ReadAt(b, begin); err != nil {
			return 0, 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' {
				continue
			}
			if newlines == want {
				return begin + int64(i) + 1, want, nil
			}
			newlines++
		}
		end = begin
	}
	return 0, newlines, nil
}

// parseLogLine reads "TIME STREAM TAG TEXT". What is not of that form was not written by a monitor, and is left out.
func parseLogLine(b []byte) (runtime.LogLine, bool) {
	at, rest, ok1 := bytes.Cut(b, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return runtime.LogLine{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(at))
	if err != nil {
		return runtime.LogLine{}, false
	}
	return runtime.LogLine{Time: t, Stream: runtime.Stream(stream), Partial: string(tag) == "P", Text: text}, true
}
