//go:build !linux

package consensus

import "os"

// allocate makes f hold size bytes of the disk.
func allocate(f *os.File, size int64) error { return writeZeros(f, size) }
