package main

import (
	"io/fs"
	"syscall"
)

// fileIdentity tells files with several names apart; many is false for one with a single name.
func fileIdentity(fi fs.FileInfo) (id any, many bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, false
	}
	return [2]uint64{st.Dev, st.Ino}, st.Nlink > 1
}
