package chaos

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"shoal/e2e/machines"
	"shoal/node/api"
)

// lineReader follows the numbered lines of the tasks that write them, by the public API.
type lineReader struct {
	w     *World
	job   string               // whose tasks
	tasks map[string]*numbered // by task
	lossy map[string]bool      // machines whose last fault allows that lines of theirs are lost

	lines, reported, starts int
}

func newLineReader(w *World) *lineReader {
	return &lineReader{w: w, job: jobLines, tasks: map[string]*numbered{}, lossy: map[string]bool{}}
}

// allow notes that lines of machines may be lost since they were read.
func (r *lineReader) allow(a Allowance) {
	for _, m := range append(append(append([]*machines.Machine(nil), a.Restarts...), a.LogGaps...), a.Gone...) {
		r.lossy[m.Name] = true
	}
}

// read reads what came since the last time and tells what is missing without a word.
func (r *lineReader) read(ctx context.Context) (wrong []string) {
	var list api.TaskList
	err := r.w.Ask(ctx, func(ctx context.Context, c *api.Client) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		list, err = c.Tasks(ctx, api.TaskQuery{Job: r.job})
		return err
	})
	if err != nil {
		return []string{"list the tasks that write: " + err.Error()}
	}
	for _, t := range list.Tasks {
		if !t.Ready {
			continue
		}
		n := r.tasks[string(t.ID)]
		if n == nil {
			n = &numbered{next: -1}
			r.tasks[string(t.ID)] = n
		}
		n.lossy = r.lossy[t.NodeName]
		if err := r.readTask(ctx, string(t.ID), n); err != nil {
			wrong = append(wrong, fmt.Sprintf("logs of %s on %s: %v", t.ID, t.NodeName, err))
		}
		for _, w := range n.wrong {
			wrong = append(wrong, fmt.Sprintf("logs of %s on %s: %s", t.ID, t.NodeName, w))
		}
		n.wrong = nil
	}
	clear(r.lossy)
	return wrong
}

func (r *lineReader) readTask(ctx context.Context, task string, n *numbered) error {
	was := *n
	var err error
	for range 3 { // a machine that has just come back may not answer at once
		*n = was
		n.wrong = nil
		err = r.w.Ask(ctx, func(ctx context.Context, c *api.Client) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			*n = was
			return c.Logs(ctx, task, api.LogQuery{Since: n.since()}, n.record)
		})
		if err == nil {
			break
		}
	}
	r.lines += n.lines - was.lines
	r.reported += n.reported - was.reported
	r.starts += n.starts - was.starts
	return err
}

func (r *lineReader) sum() string {
	return fmt.Sprintf("%d numbered lines of %d tasks and %d starts without gap but for %d that the product reported as lost", r.lines, len(r.tasks), r.starts, r.reported)
}

// numbered is how far the lines of a task were read.
type numbered struct {
	next  int       // the next number; -1: none was read yet
	last  time.Time // of the last line read
	lossy bool      // its machine may have lost some
	gap   int       // lines that the product said it lost, not yet missed

	lines, reported, starts int
	wrong                   []string
}

// since is from when on to read: a little of what was read is read again, in case the clock of a line is coarse.
func (n *numbered) since() time.Time {
	if n.last.IsZero() {
		return time.Time{}
	}
	return n.last
}

// record takes one record of the log.
func (n *numbered) record(rec api.LogRecord) error {
	if rec.Error != "" {
		return fmt.Errorf("%s", rec.Error)
	}
	if lost := 0; strings.HasPrefix(rec.Text, "[shoal: ") {
		if _, err := fmt.Sscanf(rec.Text, "[shoal: %d lines", &lost); err == nil && (rec.Time.After(n.last)) {
			n.gap += lost
			n.reported += lost
		}
		return nil
	}
	i, err := strconv.Atoi(rec.Text)
	if err != nil {
		n.wrong = append(n.wrong, fmt.Sprintf("a line is %q", rec.Text))
		return nil
	}
	if !rec.Time.After(n.last) {
		return nil // read before
	}
	n.last = rec.Time
	n.lines++
	switch {
	case i == n.next:
	case n.next < 0 && i == 0, i == 0 && n.lossy:
		n.starts++ // the container began, or began again
	case i == n.next+n.gap && n.gap > 0:
		n.gap = 0
	case i == 0:
		n.wrong = append(n.wrong, fmt.Sprintf("its container began again after line %d, which nothing asked for", n.next-1))
	case n.next < 0:
		n.wrong = append(n.wrong, fmt.Sprintf("its first line is %d", i))
	default:
		n.wrong = append(n.wrong, fmt.Sprintf("line %d came after line %d, and %d lines were reported as lost", i, n.next-1, n.gap))
	}
	n.next = i + 1
	return nil
}
