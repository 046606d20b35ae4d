package reconciler

// saysQueued is said of a task whose image is not here while as many are pulled as may be.
const saysQueued = "waits until fewer images are pulled on this node"

// looked takes what Present said. Whatever kept it from an answer, Pull will say it better.
func (t *task) looked(res result) {
	t.absent = res.err != nil
	if !t.absent {
		t.image = &res.image
		t.unsay(saysQueued)
	}
}

// lookAgain has those look again that wait to pull an image; "": any.
func (r *Reconciler) lookAgain(ref string) {
	for _, t := range r.tasks {
		if t.absent && t.busy == opNone && (ref == "" || t.Service.Image == ref) {
			t.absent = false
		}
	}
}
