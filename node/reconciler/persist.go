package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"shoal/consensus/job"
)

// The files in Config.Dir. Each is replaced as a whole. assignments.json is what a node needs to go on by itself;
// statuses.json only saves it from counting and telling twice.
const (
	assignmentsFile = "assignments.json"
	statusesFile    = "statuses.json"
)

type savedAssignments struct {
	Index       uint64       `json:"index"`
	Assignments []Assignment `json:"assignments"`
}

// seqReserve is how many numbers of statuses each saving sets aside for what is reported before the next: a power cut may
// take the last savings, and the clock may be set back meanwhile, and still no number is given twice. The leader does not
// take a status whose number is no news.
const seqReserve = 1 << 20

type savedStatuses struct {
	BootID  string   `json:"bootID"`
	Seq     uint64   `json:"seq"` // above all numbers that were given
	Records []record `json:"records"`
}

// record is what a task's container alone does not tell.
type record struct {
	Status   job.Status `json:"status"`
	Starts   int        `json:"starts,omitempty"` // seen
	Exits    int        `json:"exits,omitempty"`  // seen
	Failures int        `json:"failures,omitempty"`
}

// restore reads what was saved. A file that cannot be understood is put aside: a node must go on with what it has.
func (r *Reconciler) restore() error {
	if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
		return err
	}
	var as savedAssignments
	if err := r.load(assignmentsFile, &as); err != nil {
		return err
	}
	var st savedStatuses
	if err := r.load(statusesFile, &st); err != nil {
		return err
	}
	r.index = as.Index
	for _, a := range as.Assignments {
		r.task(a.Task.ID).assign(a)
	}
	for _, rec := range st.Records {
		t := r.task(rec.Status.Task) // it may have left the set, with its end still to be told
		t.status, t.last = rec.Status, rec.Status
		t.startsSeen, t.exitsSeen, t.failures = rec.Starts, rec.Exits, rec.Failures
		t.wasHealthy = rec.Status.Health == job.Healthy
	}
	r.rebooted = st.BootID != "" && r.cfg.BootID != "" && st.BootID != r.cfg.BootID
	r.seq = uint64(r.cfg.Wall().UnixMicro())
	if st.Seq > r.seq {
		// An agent was here a moment ago, or the clock was set back: without this the next one might begin here too.
		r.seq = st.Seq
		st.Seq += seqReserve
		r.disk.put(statusesFile, st)
		r.disk.flush(r.log)
	}
	return nil
}

func (r *Reconciler) load(name string, to any) error {
	path := filepath.Join(r.cfg.Dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, to); err != nil {
		r.log.Error("put aside a file that cannot be read", "file", path, "error", err)
		if err := os.Rename(path, path+".bad"); err != nil {
			return fmt.Errorf("put aside %s: %w", path, err)
		}
	}
	return nil
}

// saveAssignments is called when a set came.
func (r *Reconciler) saveAssignments() {
	as := savedAssignments{Index: r.index}
	for _, t := range r.tasks {
		if t.assigned {
			as.Assignments = append(as.Assignments, t.Assignment)
		}
	}
	r.disk.put(assignmentsFile, as)
}

// save writes down what became of the tasks.
func (r *Reconciler) save() {
	r.saveAt = time.Time{}
	st := savedStatuses{BootID: r.cfg.BootID, Seq: r.seq + seqReserve}
	for _, t := range r.tasks {
		if t.status.Seq > 0 {
			st.Records = append(st.Records, record{t.status, t.startsSeen, t.exitsSeen, t.failures})
		}
	}
	r.disk.put(statusesFile, st)
}

// disk writes files in a goroutine of its own: a disk that stalls must not stall restarts.
type disk struct {
	dir  string
	kick chan struct{}

	mu      sync.Mutex
	pending map[string][]byte // by file, only the newest
}

func (d *disk) put(name string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("reconciler: what is saved must always encode: " + err.Error())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending == nil {
		d.pending = map[string][]byte{}
	}
	d.pending[name] = b
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// run writes what is put until ctx ends; what could not be written is tried again.
func (d *disk) run(ctx context.Context, log *slog.Logger) {
	for {
		var retryCh <-chan time.Time
		if !d.flush(log) {
			retryCh = time.After(maxRetry)
		}
		select {
		case <-d.kick:
		case <-retryCh:
		case <-ctx.Done():
			return
		}
	}
}

// flush writes what is pending; false if something could not be written.
func (d *disk) flush(log *slog.Logger) bool {
	d.mu.Lock()
	files := d.pending
	d.pending = nil
	d.mu.Unlock()
	ok := true
	for _, name := range []string{assignmentsFile, statusesFile} {
		b, there := files[name]
		if !there {
			continue
		}
		err := replaceFile(filepath.Join(d.dir, name), b)
		if err == nil {
			continue
		}
		ok = false
		log.Error("cannot save; a restart now would go by older words", "file", filepath.Join(d.dir, name), "error", err)
		d.mu.Lock()
		if d.pending == nil {
			d.pending = map[string][]byte{}
		}
		if _, newer := d.pending[name]; !newer {
			d.pending[name] = b
		}
		d.mu.Unlock()
	}
	return ok
}

// replaceFile makes b the content of a file, after a crash too: the old one or the new one, never a part.
func replaceFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// bootID names this run of the kernel; "" where there is no such thing.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
