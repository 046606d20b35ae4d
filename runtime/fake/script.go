package fake

import (
	"slices"
	"time"

	"shoal/runtime"
)

// SetImage adds or changes an image.
func (m *machine) SetImage(ref string, img Image) {
	if img.Ref == "" {
		img.Ref = ref
	}
	if img.Digest == "" {
		img.Digest = "sha256:" + ref
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images[ref] = img
}

// DeleteImage makes an image exist nowhere any more; containers made of it live on.
func (m *machine) DeleteImage(ref string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.images, ref)
}

// FailNext makes the next n calls fail with err; n < 0 is for ever, until Heal. id is a container, for CallPull a
// reference, and "" any. An err that wraps one of package runtime's kinds keeps its kind.
func (m *machine) FailNext(c Call, id string, n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails[c] = append(m.fails[c], failure{id, err, n})
}

// Heal forgets all scripted failures.
func (m *machine) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.fails)
}

// Exit ends a running container's program with a code; false if it does not run.
func (m *machine) Exit(id runtime.ID, code int) bool { return m.end(id, code, false) }

// OOM ends a running container as its memory limit would; false if it does not run.
func (m *machine) OOM(id runtime.ID) bool { return m.end(id, 128+9, true) }

func (m *machine) end(id runtime.ID, code int, oom bool) bool {
	p, err := m.running(id)
	if err != nil {
		return false
	}
	p.end(code, oom)
	<-p.gone
	return true
}

// Health sets what the program "check" prints and exits with in a container.
func (m *machine) Health(id runtime.ID, code int, output string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.containers[id]; c != nil {
		c.health = probe{code, output}
	}
}

// Memory sets how many bytes of memory a container is said to use.
func (m *machine) Memory(id runtime.ID, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.containers[id]; c != nil {
		c.uses = bytes
	}
}

// OnExec sets a function that answers execs in the programs' stead where it says handled; nil removes it.
func (m *machine) OnExec(f func(id runtime.ID, args []string) (code int, output string, handled bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onExec = f
}

// Calls tells the calls so far that pull or change something, such as "start web", oldest first, failed ones too.
func (m *machine) Calls() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

// Spec tells what a container was asked to be; false if there is none.
func (m *machine) Spec(id runtime.ID) (runtime.Spec, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.containers[id]
	if c == nil {
		return runtime.Spec{}, false
	}
	return c.spec, true
}

// Crash makes all containers vanish at once, without an event, as on a machine whose power and disk are lost.
func (m *machine) Crash() {
	for _, c := range m.powerCut() {
		m.mu.Lock()
		c.removeLocked()
		m.mu.Unlock()
	}
}

// PowerCut ends all programs at once, without an event, as on a machine that lost power and came back: what ran is
// Stopped, and its exit is not known.
func (m *machine) PowerCut() { m.powerCut() }

func (m *machine) powerCut() []*container {
	m.mu.Lock()
	var all []*container
	var procs []*process
	for _, c := range m.containers {
		all = append(all, c)
		if c.proc == nil {
			continue
		}
		procs = append(procs, c.proc)
		c.proc = nil
		c.info.State, c.info.PID = runtime.Stopped, 0
		c.info.ExitCode, c.info.Error, c.info.FinishedAt = 255, "its exit is not known: the machine went down", time.Now()
	}
	m.mu.Unlock()
	for _, p := range procs {
		p.kill(255)
		<-p.gone
	}
	return all
}

// Close ends all programs and forgets all containers, and returns when their goroutines have ended.
func (m *machine) Close() {
	m.Crash()
	m.programs.Wait()
}
