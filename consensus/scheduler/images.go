package scheduler

import "shoal/consensus/job"

// imageWorth is how much fuller than another a node may be for its having the image already to count more: a twentieth of
// a node. It never outweighs the number of tasks.
const imageWorth = 0.05

// Bounds of the search for a node that has the image: where fewer than imageNodes have it all of them are asked, else so
// many of the least loaded nodes.
const imageNodes = 64

// noteImage keeps which nodes have which image, as far as their tasks tell: one that was created has it.
func (p *Planner) noteImage(t *task) {
	if t.hasImage || t.info == nil || t.st == nil || t.st.At[job.Created].IsZero() && t.st.At[job.Running].IsZero() && t.st.State != job.Complete {
		return
	}
	n := p.nodes[t.Node]
	if n == nil {
		return
	}
	t.hasImage = true
	m := p.images[t.info.spec.Image]
	if m == nil {
		m = map[*node]int{}
		p.images[t.info.spec.Image] = m
	}
	m[n]++
}

// dropImage forgets what a task told of its node.
func (p *Planner) dropImage(t *task) {
	n := p.nodes[t.Node]
	if !t.hasImage || n == nil {
		return
	}
	image := t.info.spec.Image
	m := p.images[image]
	if m[n]--; m[n] <= 0 {
		delete(m, n)
	}
	if len(m) == 0 {
		delete(p.images, image)
	}
}

// dropImages forgets the images of a node that was removed.
func (p *Planner) dropImages(n *node) {
	for t := range n.tasks {
		if t.hasImage {
			t.hasImage = false
			delete(p.images[t.info.spec.Image], n)
		}
	}
}
