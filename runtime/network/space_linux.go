package network

import "github.com/vishvananda/netns"

// spaces are the network namespaces of attached containers, by id, kept open. With a container's last process its
// namespace would go, and its link with it, before we hear of the end: what is sent to the address then is lost without
// a word, and a client that was led there waits (3 s for who has the address, much longer with a connection). As long as
// the namespace is there, its kernel ends the connections that the container had, and refuses new ones.
type spaces map[string]netns.NsHandle

// keepSpace keeps a container's namespace open until Detach, and takes the handle.
func (n *Network) keepSpace(id string, ns netns.NsHandle) {
	n.mu.Lock()
	before, had := n.spaces[id]
	n.spaces[id] = ns
	n.mu.Unlock()
	if had {
		before.Close()
	}
}

// leaveSpace lets go of a container's namespace.
func (n *Network) leaveSpace(id string) {
	n.mu.Lock()
	ns, had := n.spaces[id]
	delete(n.spaces, id)
	n.mu.Unlock()
	if had {
		ns.Close()
	}
}

// leaveSpaces lets go of all.
func (n *Network) leaveSpaces() {
	n.mu.Lock()
	all := n.spaces
	n.spaces = spaces{}
	n.mu.Unlock()
	for _, ns := range all {
		ns.Close()
	}
}
