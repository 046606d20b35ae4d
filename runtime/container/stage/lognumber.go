package stage

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
)

// lastLogNumber is the number of the newest log file, 0 if there is none.
func lastLogNumber(dir string) (int64, error) {
	n, err := LogNumbers(dir)
	if err != nil || len(n) == 0 {
		return 0, err
	}
	return n[len(n)-1], nil
}

// LogNumbers lists the log files, oldest first. A directory that is gone has none.
func LogNumbers(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if isAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, e := range entries {
		if n, err := strconv.ParseInt(e.Name(), 10, 64); err == nil && n > 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// isAbsent says that a file or directory is not there.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
