package chaos

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// recordReader reads what fenced writers appended to the record: "TOKEN TASK" a line, in the order in which they wrote.
type recordReader struct {
	path  string
	at    int64  // read so far
	token uint64 // of the present writer
	seen  map[uint64]string
	lines int
}

// read judges what was written since the last time: a writer that was followed by another one never writes again, and
// the later one has the higher token.
func (r *recordReader) read() (wrong []string) {
	f, err := os.Open(r.path)
	if err != nil {
		return []string{err.Error()}
	}
	defer f.Close()
	if _, err := f.Seek(r.at, io.SeekStart); err != nil {
		return []string{err.Error()}
	}
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return wrong // the last line may be on its way
		}
		r.at += int64(len(line))
		if w := r.line(strings.Fields(line)); w != "" {
			wrong = append(wrong, w)
		}
	}
}

func (r *recordReader) line(f []string) string {
	r.lines++
	if len(f) != 2 {
		return fmt.Sprintf("line %d of the record is %q", r.lines, f)
	}
	token, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return fmt.Sprintf("line %d of the record has token %q", r.lines, f[0])
	}
	if r.seen == nil {
		r.seen = map[uint64]string{}
	}
	if token == r.token {
		return ""
	}
	before := r.token
	r.token = token
	_, known := r.seen[token]
	r.seen[token] = f[1]
	switch {
	case known:
		return fmt.Sprintf("the writer with token %d (task %s) wrote line %d after one with token %d had written", token, f[1], r.lines, before)
	case token < before:
		return fmt.Sprintf("the writer with token %d (task %s) came after one with token %d", token, f[1], before)
	}
	return ""
}
