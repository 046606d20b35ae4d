package gameday

import (
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Times of those who hold a fault.
const (
	// lead is how long after it was promised a fault is carried out: until then the promise has reached who asked.
	lead = 250 * time.Millisecond
	// backupLate is how much later than the helper the backup would undo it.
	backupLate = 1500 * time.Millisecond
	holdPoll   = 50 * time.Millisecond
)

// Armed is what a helper says when the fault can be carried out; anything else that it says is why it cannot.
const Armed = "armed\n"

// Hold is the whole life of a helper: it carries a fault out and undoes it at its deadline. It tells the agent that began
// it how it stands, and is then on its own. Signals that end a terminal's programs do not end it.
func Hold(dir, id string, command []string, tell *os.File) error {
	goruntime.LockOSThread()         // loads die with the thread that started them
	unix.CloseOnExec(int(tell.Fd())) // its end is the end of the message, so nobody else may hold it
	ignoreSignals()
	setOOMScore(lastToBeKilled)
	f := files{dir}
	c := &carried{files: f, command: command}
	err := c.arm(id)
	if err != nil {
		fmt.Fprint(tell, err.Error())
		_ = tell.Close()
		return err
	}
	fmt.Fprint(tell, Armed)
	_ = tell.Close()
	time.Sleep(lead)
	if !c.carryOut(id) {
		return nil
	}
	for bootClock() < c.rec.DeadlineBoot {
		if r, err := read[Record](f, recordFile); err == nil && (r == nil || r.ID != id) {
			return nil // somebody has undone it
		}
		time.Sleep(min(holdPoll, max(c.rec.DeadlineBoot-bootClock(), 0)))
	}
	c.awaitDeath()
	return finish(f, id, "helper", c.proof(), nil, c.stopLoad)
}

// arm notes who holds the fault and starts the backup.
func (c *carried) arm(id string) error {
	unlock, err := c.files.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := read[Record](c.files, recordFile)
	if err != nil {
		return err
	}
	if r == nil || r.ID != id {
		return fmt.Errorf("fault %s was taken back before it began", id)
	}
	c.rec = r
	r.Helper = processOf(os.Getpid())
	backup := exec.Command(c.command[0], append(c.command[1:len(c.command):len(c.command)], "backup", c.files.dir, id)...)
	backup.Stderr = os.Stderr
	backup.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := backup.Start(); err != nil {
		return fmt.Errorf("start the backup: %w", err)
	}
	go func() { _ = backup.Wait() }()
	r.Backup = processOf(backup.Process.Pid)
	if err := c.prepare(); err != nil {
		return err
	}
	return c.files.write(recordFile, r)
}

// carryOut does it, unless it was taken back meanwhile.
func (c *carried) carryOut(id string) bool {
	unlock, err := c.files.lock()
	if err != nil {
		return false
	}
	r, err := read[Record](c.files, recordFile)
	if err != nil || r == nil || r.ID != id {
		unlock()
		return false
	}
	r.Acted, r.Began = true, time.Now()
	r.Deadline, r.DeadlineBoot = r.Began.Add(r.Hold), bootClock()+r.Hold
	c.rec = r
	if err = c.files.write(recordFile, r); err == nil {
		err = c.act()
	}
	unlock()
	if err != nil {
		_ = finish(c.files, id, "helper", "", err, c.stopLoad) // the outcome says it
		return false
	}
	return true
}

// awaitDeath waits a little for what was killed to be gone, so that the outcome can say so.
func (c *carried) awaitDeath() {
	dead := func() bool { return true }
	switch c.rec.Fault {
	case KillTask, KillMonitor:
		dead = func() bool { return begun(c.rec.Target.PID) != c.begun }
	case KillAgent:
		dead = func() bool { return !c.rec.Agent.alive() }
	}
	for end := time.Now().Add(killWait); !dead() && time.Now().Before(end); {
		time.Sleep(holdPoll)
	}
}

func (c *carried) stopLoad() {
	if c.load != nil {
		_ = c.load.Process.Kill()
		_ = c.load.Wait()
	}
}

// Backup is the whole life of the second process: it undoes the fault if the helper has not.
func Backup(dir, id string) error {
	ignoreSignals()
	setOOMScore(lastToBeKilled)
	f := files{dir}
	for {
		r, err := read[Record](f, recordFile)
		switch {
		case err == nil && (r == nil || r.ID != id):
			return nil
		case err == nil && bootClock() > r.DeadlineBoot+backupLate && !undoing(f):
			return finish(f, id, "backup", "", nil, func() { _ = r.Helper.kill() })
		}
		time.Sleep(5 * holdPoll)
	}
}

// undoing tells whether somebody has the lock, such as one who undoes the fault and waits for an agent.
func undoing(f files) bool {
	unlock, err := f.tryLock()
	if err != nil {
		return true
	}
	unlock()
	return false
}

// finish undoes the fault, notes how it ended, and forgets it. If it cannot be undone the record stays, for the next one.
func finish(f files, id, by, proof string, cause error, first func()) error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	r, err := read[Record](f, recordFile)
	if err != nil || r == nil || r.ID != id {
		return err
	}
	return finishLocked(f, r, by, proof, cause, first)
}

func finishLocked(f files, r *Record, by, proof string, cause error, first func()) error {
	if first != nil {
		first()
	}
	if err := undo(f, r); err != nil {
		return fmt.Errorf("undo %s: %w", r.Fault, err)
	}
	o := Outcome{ID: r.ID, Game: r.Game, Fault: r.Fault, Task: r.Target.Task, Began: r.Began, Undone: time.Now(), By: by, Proof: proof}
	if cause != nil {
		o.Error = cause.Error()
	}
	err := f.addOutcome(o)
	if e := f.remove(recordFile); e != nil {
		return e
	}
	return err
}
