package state

import (
	"encoding/binary"

	"shoal/consensus/job"
)

// TableHomes is where data of named volumes lies. Written with placements that name volumes (job.Task.Volumes), gone with
// the node, or when there are more than KeepHomes: then the longest unused go.
const TableHomes Table = "homes" // job.VolumeHome

// KeepHomes bounds the places of volumes that the state remembers.
const KeepHomes = 10_000

// homeKey tells slots apart that share a node: each finds its own way back.
func homeKey(h *job.VolumeHome) []byte {
	return binary.BigEndian.AppendUint32(strKey(h.Volume, string(h.Node), h.Job, h.Service), uint32(h.Slot))
}

func homeAge(h *job.VolumeHome) []byte {
	return append(binary.BigEndian.AppendUint64(nil, h.Index), homeKey(h)...)
}

// Homes lists where data of a volume is, by node and slot; of all volumes when volume is "".
func (v *View) Homes(volume string) []*job.VolumeHome {
	var prefix []byte
	if volume != "" {
		prefix = strKey(volume)
	}
	return all[job.VolumeHome](v.txn, TableHomes, "id", prefix)
}

// settle notes that a task's volumes have their data on its node from now on.
func (t *tx) settle(k *job.Task) {
	for _, vol := range k.Volumes {
		if !goodName(vol) {
			continue
		}
		h := &job.VolumeHome{Volume: vol, Node: k.Node, Job: k.Job, Service: k.Service, Slot: k.Slot, Index: t.index}
		key := string(homeKey(h))
		if t.homes == nil {
			t.homes = map[string]bool{}
		}
		if !t.homes[key] && first[job.VolumeHome](t.base.txn, TableHomes, "id", []byte(key)) == nil {
			t.d.homes++
		}
		t.homes[key] = true
		t.insert(TableHomes, h)
	}
}

func (t *tx) trimHomes() {
	if len(t.homes) == 0 || t.d.homes <= KeepHomes {
		return
	}
	each(t.base.txn, TableHomes, "age", nil, func(h *job.VolumeHome) bool {
		if !t.homes[string(homeKey(h))] {
			t.remove(TableHomes, h)
			t.d.homes--
		}
		return t.d.homes > KeepHomes
	})
}

// forgetHomes drops what is known of a node's volumes.
func (t *tx) forgetHomes(id job.NodeID) {
	each(t.base.txn, TableHomes, "id", nil, func(h *job.VolumeHome) bool {
		if h.Node == id {
			t.remove(TableHomes, h)
			t.d.homes--
		}
		return true
	})
}
