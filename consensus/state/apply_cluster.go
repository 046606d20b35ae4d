package state

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"reflect"
	"time"

	"shoal/consensus/job"
)

func fail(k job.Kind, format string, args ...any) Result {
	return Result{Err: job.Errorf(k, format, args...)}
}

// apply carries out one command; it returns an error before it writes anything.
func (t *tx) apply(c Command) Result {
	switch c := c.(type) {
	case InitCluster:
		t.at = c.At
		return t.initCluster(c)
	case PutNode:
		t.at = c.At
		return t.putNode(c)
	case SetNodeLabels:
		t.at = c.At
		return t.setNodeLabels(c)
	case SetDrain:
		t.at = c.At
		return t.setDrain(c)
	case NodeDown:
		t.at = c.At
		return t.nodeDown(c)
	case NodeUp:
		t.at = c.At
		return t.nodeUp(c)
	case NodeLeft:
		t.at = c.At
		return t.nodeLeft(c)
	case RemoveNode:
		t.at = c.At
		return t.removeNode(c)
	case PutToken:
		t.at = c.At
		return t.putToken(c)
	case UseToken:
		t.at = c.At
		return t.useToken(c)
	case RemoveToken:
		t.at = c.At
		return t.removeToken(c)
	case SetGossipKeys:
		t.at = c.At
		return t.setGossipKeys(c)
	case PutJob:
		t.at = c.At
		return t.putJob(c)
	case ScaleJob:
		t.at = c.At
		return t.scaleJob(c)
	case StopJob:
		t.at = c.At
		return t.stopJob(c)
	case RemoveJob:
		t.at = c.At
		return t.removeJob(c)
	case StartJob:
		t.at = c.At
		return t.startJob(c)
	case RestartJob:
		t.at = c.At
		return t.restartJob(c)
	case SetCluster:
		t.at = c.At
		return t.setCluster(c)
	case RaiseRules:
		t.at = c.At
		return t.raiseRules(c)
	case SetOvercommit:
		t.at = c.At
		return t.setOvercommit(c)
	case PromoteJob:
		t.at = c.At
		return t.promoteJob(c)
	case FailJob:
		t.at = c.At
		return t.failJob(c)
	case RestartTasks:
		t.at = c.At
		return t.restartTasks(c)
	case StartRun:
		t.at = c.At
		return t.startRun(c)
	case StopRun:
		t.at = c.At
		return t.stopRun(c)
	case FireSchedule:
		t.at = c.At
		return t.fireSchedule(c)
	case Autoscale:
		t.at = c.At
		return t.autoscale(c)
	case PauseSchedule:
		t.at = c.At
		return t.pauseSchedule(c)
	case Plan:
		t.at = c.At
		return t.plan(c)
	case Report:
		t.at = c.At
		return t.report(c)
	case Release:
		t.at = c.At
		return t.release(c)
	case PutImage:
		t.at = c.At
		return t.putImage(c)
	case RemoveImage:
		t.at = c.At
		return t.removeImage(c)
	case Event:
		t.at = c.At
		t.event(c.Event)
		return Result{}
	}
	return fail(job.Invalid, "apply %T: unknown command", c)
}

func (t *tx) initCluster(c InitCluster) Result {
	if old := t.base.Cluster(); old != nil {
		if old.ID == c.Cluster.ID {
			return Result{Value: old, Unchanged: true}
		}
		return fail(job.Conflict, "init cluster %s: this is cluster %s already", c.Cluster.ID, old.ID)
	}
	if err := beyond(c.Cluster.Rules, t.s.known); err != nil {
		return Result{Err: err}
	}
	cl := c.Cluster
	if cl.SubnetBits == 0 {
		cl.SubnetBits = 24
	}
	if cl.ID == "" || !cl.Pool.IsValid() || cl.SubnetBits < cl.Pool.Bits() || cl.SubnetBits > cl.Pool.Addr().BitLen() {
		return fail(job.Invalid, "init cluster %q: pool %v with subnets of /%d cannot be", cl.ID, cl.Pool, cl.SubnetBits)
	}
	cl.Pool = cl.Pool.Masked()
	t.insert(TableCluster, &cl)
	return Result{Value: &cl}
}

func (t *tx) setGossipKeys(c SetGossipKeys) Result {
	old := t.base.Cluster()
	if old == nil {
		return fail(job.NotFound, "set gossip keys: there is no cluster yet")
	}
	if len(c.Keys) == 0 {
		return fail(job.Invalid, "set gossip keys: at least one key is needed")
	}
	cl := *old
	cl.GossipKeys = c.Keys
	t.insert(TableCluster, &cl)
	return Result{Value: &cl}
}

func (t *tx) putNode(c PutNode) Result {
	n := c.Node
	cl := t.base.Cluster()
	if cl == nil {
		return fail(job.NotFound, "register node %q: there is no cluster yet", n.Name)
	}
	if !goodName(string(n.ID)) || !goodName(n.Name) {
		return fail(job.Invalid, "register node %q: id and name must be 1 to %d bytes without NUL", n.Name, maxName)
	}
	if o := t.base.NodeByName(n.Name); o != nil && o.ID != n.ID {
		return fail(job.Conflict, "register node %q: the name is taken by node %.8s (%s): choose another --name, or remove that one with: shoal node rm %s",
			n.Name, string(o.ID), o.State, n.Name)
	}
	if err := n.CheckReported(); err != nil {
		return fail(job.Invalid, "register node %q: %v", n.Name, err)
	}
	if err := t.base.CheckRules(n); err != nil {
		return Result{Err: err}
	}
	old := t.base.Node(n.ID)
	if old == nil {
		return t.joinNode(cl, n)
	}
	if old.KeyPin != "" && n.KeyPin != "" && old.KeyPin != n.KeyPin {
		return fail(job.Conflict, "register node %q: its id %.8s is known with another key: a node with a new data directory must join anew under a new id",
			n.Name, string(n.ID))
	}
	up := *old
	up.Name, up.Addr, up.Voter, up.Capacity = n.Name, n.Addr, n.Voter, n.Capacity
	up.Version, up.Rules, up.OS, up.Arch, up.Kernel = n.Version, n.Rules, n.OS, n.Arch, n.Kernel
	up.Attributes, up.Generic, up.LogLife = n.Attributes, n.Generic, n.LogLife
	if n.Overcommit != nil {
		up.Overcommit = n.Overcommit
	}
	if up.KeyPin == "" {
		up.KeyPin = n.KeyPin
	}
	if len(n.Labels) > 0 {
		up.Labels = maps.Clone(old.Labels)
		if up.Labels == nil {
			up.Labels = map[string]string{}
		}
		maps.Copy(up.Labels, n.Labels)
	}
	if old.State == job.NodeLeft {
		up.State, up.Since, up.Reason = job.NodeReady, c.At, ""
		t.unrelease(n.ID)
		t.event(job.Event{Kind: job.EventNodeUp, Node: up.ID, Message: "came back after it had left"})
	}
	if reflect.DeepEqual(*old, up) {
		return Result{Value: old, Unchanged: true}
	}
	t.insert(TableNodes, &up)
	return Result{Value: &up}
}

func (t *tx) joinNode(cl *job.Cluster, n job.Node) Result {
	sub, ok := t.takeSubnet(cl)
	if !ok {
		return fail(job.Conflict, "register node %q: all /%d subnets of %v are taken: remove nodes that are gone with: shoal node rm", n.Name, cl.SubnetBits, cl.Pool)
	}
	n.Subnet, n.State, n.Drained, n.Reason = sub, job.NodeReady, false, ""
	n.Since, n.Joined = t.at, t.at
	t.insert(TableNodes, &n)
	t.event(job.Event{Kind: job.EventNodeJoined, Node: n.ID, Message: n.Name})
	return Result{Value: &n}
}

// takeSubnet is the lowest of the pool that no node has.
func (t *tx) takeSubnet(cl *job.Cluster) (netip.Prefix, bool) {
	a := cl.Pool.Addr()
	if t.d.lowSubnet.IsValid() {
		a = t.d.lowSubnet
	}
	for ok := true; ok && cl.Pool.Contains(a); a, ok = nextSubnet(a, cl.SubnetBits) {
		if p := netip.PrefixFrom(a, cl.SubnetBits); !t.d.subnets[p] {
			t.d.subnets[p] = true
			t.d.lowSubnet = a
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// nextSubnet adds one to the network part of an address.
func nextSubnet(a netip.Addr, bits int) (netip.Addr, bool) {
	if a.Is4() {
		b := a.As4()
		n := uint64(binary.BigEndian.Uint32(b[:])) + 1<<(32-bits)
		if n > 1<<32-1 {
			return a, false
		}
		binary.BigEndian.PutUint32(b[:], uint32(n))
		return netip.AddrFrom4(b), true
	}
	b := a.As16()
	for i, add := (bits-1)/8, 1<<(7-(bits-1)%8); i >= 0; i, add = i-1, 1 {
		s := int(b[i]) + add
		b[i] = byte(s)
		if s < 256 {
			return netip.AddrFrom16(b), true
		}
	}
	return a, false
}

// changeNode writes a changed copy of a node; f says whether it changed something.
func (t *tx) changeNode(what string, id job.NodeID, f func(*job.Node) bool) Result {
	old := t.base.Node(id)
	if old == nil {
		return fail(job.NotFound, "%s node %.8s: no such node: see shoal node ls", what, string(id))
	}
	n := *old
	if !f(&n) {
		return Result{Value: old, Unchanged: true}
	}
	t.insert(TableNodes, &n)
	return Result{Value: &n}
}

func (t *tx) setNodeLabels(c SetNodeLabels) Result {
	return t.changeNode("label", c.Node, func(n *job.Node) bool {
		labels := maps.Clone(n.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		for _, k := range c.Remove {
			delete(labels, k)
		}
		maps.Copy(labels, c.Set)
		if maps.Equal(labels, n.Labels) {
			return false
		}
		if n.Labels = labels; len(labels) == 0 {
			n.Labels = nil // as a snapshot would give it back
		}
		return true
	})
}

func (t *tx) setDrain(c SetDrain) Result {
	return t.changeNode("drain", c.Node, func(n *job.Node) bool {
		if !c.Drained {
			c.By = time.Time{}
		}
		if n.Drained == c.Drained && n.DrainBy.Equal(c.By) {
			return false
		}
		n.Drained, n.DrainBy = c.Drained, c.By
		kind := job.EventNodeActive
		if c.Drained {
			kind = job.EventNodeDrained
		}
		t.event(job.Event{Kind: kind, Node: n.ID, Message: n.Name})
		return true
	})
}

func (t *tx) nodeDown(c NodeDown) Result {
	return t.changeNode("mark as down", c.Node, func(n *job.Node) bool {
		if n.State != job.NodeReady {
			return false
		}
		n.State, n.Since, n.Reason = job.NodeDown, c.At, clip(c.Reason)
		for _, e := range []struct {
			kind string
			at   time.Time
		}{{job.EventNodeSuspect, c.SuspectAt}, {job.EventNodeDead, c.DeadAt}} {
			if !e.at.IsZero() {
				t.event(job.Event{Kind: e.kind, Node: n.ID, Time: e.at, Message: n.Name})
			}
		}
		t.event(job.Event{Kind: job.EventNodeDown, Node: n.ID, Message: c.Reason})
		return true
	})
}

func (t *tx) nodeUp(c NodeUp) Result {
	return t.changeNode("mark as up", c.Node, func(n *job.Node) bool {
		if n.State != job.NodeDown {
			return false
		}
		n.State, n.Since, n.Reason = job.NodeReady, c.At, ""
		t.unrelease(n.ID)
		t.event(job.Event{Kind: job.EventNodeUp, Node: n.ID, Message: n.Name})
		return true
	})
}

func (t *tx) nodeLeft(c NodeLeft) Result {
	return t.changeNode("mark as left", c.Node, func(n *job.Node) bool {
		if n.State == job.NodeLeft {
			return false
		}
		n.State, n.Since, n.Reason = job.NodeLeft, c.At, clip(c.Reason)
		t.event(job.Event{Kind: job.EventNodeLeft, Node: n.ID, Message: c.Reason})
		return true
	})
}

func (t *tx) removeNode(c RemoveNode) Result {
	n := t.base.Node(c.Node)
	if n == nil {
		return fail(job.NotFound, "remove node %.8s: no such node: see shoal node ls", string(c.Node))
	}
	if n.State == job.NodeReady {
		return fail(job.Conflict, "remove node %s: it is still ready: stop its agent first", n.Name)
	}
	tasks := t.base.TasksOfNode(n.ID)
	running := 0
	for _, k := range tasks {
		if k.Desired == job.DesiredRun && !t.ended(k.ID) {
			running++
		}
	}
	if running > 0 && !c.Force {
		return fail(job.Conflict, "remove node %s: %d tasks are still meant to run on it: wait until they are replaced, or use --force", n.Name, running)
	}
	if held := t.heldFenced(n.ID); len(held) > 0 {
		return fail(job.Conflict, "remove node %s: fenced task %s and %d more may still run there until their leases end: try again in a moment, or answer for it with `shoal failover --force JOB`",
			n.Name, held[0], len(held)-1)
	}
	t.remove(TableNodes, n)
	t.forgetHomes(n.ID)
	delete(t.d.subnets, n.Subnet)
	t.d.lowSubnet = netip.Addr{}
	for _, k := range tasks {
		if k.Desired != job.DesiredRun || !t.ended(k.ID) {
			t.lose(k, "node "+n.Name+" was removed")
		}
		if k.Slot == 0 {
			if k = t.task(k.ID); k != nil {
				t.pruneLater(k)
			}
		}
	}
	t.event(job.Event{Kind: job.EventNodeRemoved, Node: n.ID, Message: n.Name})
	return Result{}
}

func (t *tx) putToken(c PutToken) Result {
	k := c.Token
	if !goodName(k.ID) || len(k.Verifier) == 0 || k.MaxUses < 0 {
		return fail(job.Invalid, "add token %q: it needs an id and a verifier", k.ID)
	}
	if t.base.Token(k.ID) != nil {
		return fail(job.Conflict, "add token %s: there is one already", k.ID)
	}
	t.insert(TableTokens, &k)
	return Result{Value: &k}
}

func (t *tx) useToken(c UseToken) Result {
	known, err := t.recall(c.Key, kindUseToken, c.ID)
	if err != nil {
		return Result{Err: err}
	}
	k := t.base.Token(c.ID)
	if k == nil {
		return fail(job.Denied, "join token %s is unknown: make a new one with: shoal token create", c.ID)
	}
	if known != nil {
		return Result{Value: k, Unchanged: true}
	}
	if !k.Expires.IsZero() && !c.At.Before(k.Expires) {
		return fail(job.Denied, "join token %s expired at %s: make a new one with: shoal token create", c.ID, k.Expires.UTC().Format(time.RFC3339))
	}
	if k.MaxUses > 0 && k.Uses >= k.MaxUses {
		return fail(job.Denied, "join token %s was used %d times, which is all it allows: make a new one with: shoal token create", c.ID, k.Uses)
	}
	up := *k
	up.Uses++
	t.insert(TableTokens, &up)
	t.remember(c.Key, kindUseToken, c.ID, 0, false)
	return Result{Value: &up}
}

func (t *tx) removeToken(c RemoveToken) Result {
	k := t.base.Token(c.ID)
	if k == nil {
		return fail(job.NotFound, "remove token %s: no such token: see shoal token ls", c.ID)
	}
	t.remove(TableTokens, k)
	return Result{}
}
