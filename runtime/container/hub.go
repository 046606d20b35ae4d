package container

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"shoal/runtime"
	"shoal/runtime/container/stage"
)

// hub passes the output of one run on to all who are attached. It reads the FIFOs of the container's directory, into which
// the monitor writes what it logs for as long as somebody reads there; so it can be made at any time of a run, also by an
// agent that did not start it.
type hub struct {
	c     *container
	fifos []*os.File
	over  chan struct{} // closed when all output of the run was passed on to the members' queues

	mu      sync.Mutex
	members map[*member]struct{}
	kept    *member // collects for the first caller; nil once that one is there
	closed  bool
}

// openHub makes the FIFOs anew: what an earlier reader left in them is none of ours.
func openHub(c *container, keep bool) (*hub, error) {
	h := &hub{c: c, over: make(chan struct{}), members: map[*member]struct{}{}}
	names := []string{stage.FileAttachOut, stage.FileAttachErr}
	if c.rec.Spec.TTY {
		names = names[:1]
	}
	for _, name := range names {
		path := filepath.Join(c.dir, name)
		if err := os.Remove(path); err != nil && !isAbsent(err) {
			h.close()
			return nil, err
		}
		if err := unix.Mkfifo(path, 0o600); err != nil {
			h.close()
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		// Also for writing: then it has no end of file between two writers.
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			h.close()
			return nil, err
		}
		h.fifos = append(h.fifos, f)
	}
	if keep {
		h.kept = newMember()
		h.members[h.kept] = struct{}{}
	}
	return h, nil
}

// run passes output on until the run is over or the hub is closed.
func (h *hub) run(ended <-chan struct{}) {
	var readers sync.WaitGroup
	for i, f := range h.fifos {
		readers.Go(func() { copyOutput(toMembers{h, i}, f) })
	}
	done := make(chan struct{})
	go func() {
		readers.Wait()
		close(done)
	}()
	select {
	case <-ended: // what the monitor wrote is in the FIFOs now
		for _, f := range h.fifos {
			_ = f.SetReadDeadline(time.Now())
		}
		<-done
	case <-done:
	}
	close(h.over)
	h.mu.Lock()
	defer h.mu.Unlock()
	for m := range h.members {
		m.end()
	}
	h.closeLocked()
}

// close lets the readers end.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closeLocked()
}

func (h *hub) closeLocked() {
	for _, f := range h.fifos {
		f.Close()
	}
	h.closed = true
}

// join makes the caller a member; the first one gets what was kept. false: the hub is closing.
func (h *hub) join() (*member, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.kept; m != nil {
		h.kept = nil
		return m, true
	}
	if h.closed {
		return nil, false
	}
	m := newMember()
	h.members[m] = struct{}{}
	return m, true
}

// leave closes the hub with its last member.
func (h *hub) leave(m *member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.leave()
	delete(h.members, m)
	if len(h.members) == 0 {
		h.closeLocked()
	}
}

// toMembers gives what one stream brings to all members.
type toMembers struct {
	h      *hub
	stream int
}

func (t toMembers) Write(p []byte) (int, error) {
	t.h.mu.Lock()
	members := make([]*member, 0, len(t.h.members))
	for m := range t.h.members {
		members = append(members, m)
	}
	t.h.mu.Unlock()
	data := append([]byte(nil), p...)
	for _, m := range members {
		m.put(t.stream, data)
	}
	return len(p), nil
}

// member is one who is attached: a queue between the hub and a caller's writers.
type member struct {
	room, more chan struct{} // of one: the queue got shorter, or longer

	mu     sync.Mutex
	queue  []piece
	bytes  int  // of queue, at most runtime.KeptOutput and a piece more
	slow   bool // it used up its time
	missed int  // bytes dropped since it was told
	taken  int  // pieces, ever
	over   bool // nothing more comes
	gone   bool // nobody takes any more
}

type piece struct {
	stream int
	data   []byte
}

func newMember() *member {
	return &member{room: make(chan struct{}, 1), more: make(chan struct{}, 1)}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// put queues data, which is not changed any more. It waits for room while the member takes anything at all.
func (m *member) put(stream int, data []byte) {
	for {
		m.mu.Lock()
		if m.gone {
			m.mu.Unlock()
			return
		}
		if m.bytes < runtime.KeptOutput {
			if m.missed > 0 {
				note := fmt.Sprintf("\r\n[shoal: %d bytes of output were not taken in time; the log has them]\r\n", m.missed)
				m.queue = append(m.queue, piece{1, []byte(note)})
			}
			m.queue, m.missed = append(m.queue, piece{stream, data}), 0
			m.bytes += len(data)
			m.mu.Unlock()
			poke(m.more)
			return
		}
		if m.slow {
			m.missed += len(data)
			m.mu.Unlock()
			return
		}
		before := m.taken
		m.mu.Unlock()
		timeout := time.NewTimer(runtime.AttachPatience)
		select {
		case <-m.room:
		case <-timeout.C:
			m.mu.Lock()
			m.slow = m.taken == before
			m.mu.Unlock()
		}
		timeout.Stop()
	}
}

// take gives the next piece; false when there is none now, and over when none will come.
func (m *member) take() (p piece, ok, over bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		return piece{}, false, m.over
	}
	p = m.queue[0]
	m.queue[0] = piece{}
	m.queue = m.queue[1:]
	m.bytes -= len(p.data)
	m.taken++
	if m.bytes < runtime.KeptOutput/2 {
		m.slow = false
	}
	poke(m.room)
	return p, true, false
}

func (m *member) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	poke(m.more)
}

func (m *member) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone, m.queue, m.bytes = true, nil, 0
	poke(m.room)
}

// deliver writes what comes until all of it was written or stop ends; an error is of a writer.
func (m *member) deliver(stop <-chan struct{}, to [2]io.Writer) error {
	for {
		p, ok, over := m.take()
		switch {
		case ok:
			w := to[p.stream]
			if w == nil {
				continue
			}
			if _, err := w.Write(p.data); err != nil {
				return err
			}
		case over:
			return nil
		default:
			select {
			case <-m.more:
			case <-stop:
				return nil
			}
		}
	}
}
