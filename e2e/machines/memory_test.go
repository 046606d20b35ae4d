package machines

import "testing"

func TestMemoryIsRead(t *testing.T) {
	m, err := parseMemory([]byte("00400000-7fff rollup\nRss:    1212 kB\nPss:      97 kB\nPrivate_Clean:  10 kB\nPrivate_Dirty:  66 kB\n"))
	if err != nil || m != (Memory{1212, 97, 76}) {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := parseMemory(nil); err == nil {
		t.Error("an empty smaps_rollup was taken")
	}
}
