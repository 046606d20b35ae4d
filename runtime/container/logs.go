package container

import (
	"os"
	"strconv"
)

// lastLogNumber is the number of the newest log file, 0 if there is none.
func lastLogNumber(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var last int64
	for _, e := range entries {
		if n, err := strconv.ParseInt(e.Name(), 10, 64); err == nil {
			last = max(last, n)
		}
	}
	return last, nil
}
