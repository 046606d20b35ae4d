package job

import (
	"cmp"
	"strconv"
	"strings"
)

// maxVersionParts bounds the numbers of a version that are compared.
const maxVersionParts = 8

// compareVersions compares two versions or numbers part by part: 6.10 is more than 6.9, 1.2.0-rc1 less than 1.2.0, and
// 6.1.0-13-amd64 (a kernel's name) the same as 6.1.0. With units of bytes they are amounts: 16GiB. false when one of them
// is neither.
func compareVersions(a, b string) (int, bool) {
	if hasUnit(a) || hasUnit(b) {
		x, errX := ParseBytes(a)
		y, errY := ParseBytes(b)
		return cmp.Compare(x, y), errX == nil && errY == nil
	}
	x, preX, okX := version(a)
	y, preY, okY := version(b)
	if !okX || !okY {
		return 0, false
	}
	for i := range max(len(x), len(y)) {
		if d := cmp.Compare(part(x, i), part(y, i)); d != 0 {
			return d, true
		}
	}
	switch {
	case preX == preY:
		return 0, true
	case preX == "":
		return 1, true
	case preY == "":
		return -1, true
	}
	return strings.Compare(preX, preY), true
}

func part(v []uint64, i int) uint64 {
	if i < len(v) {
		return v[i]
	}
	return 0
}

// hasUnit tells amounts such as 16GiB or 512m from versions.
func hasUnit(s string) bool {
	i := strings.LastIndexAny(s, "0123456789.") + 1
	return i > 0 && i < len(s) && strings.Contains(" b kb mb gb tb pb kib mib gib tib pib k m g t p ", " "+strings.ToLower(strings.TrimSpace(s[i:]))+" ")
}

// version reads the numbers that s begins with, and what comes before a release.
func version(s string) (parts []uint64, pre string, ok bool) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "v")
	for len(parts) < maxVersionParts {
		end := 0
		for end < len(s) && s[end] >= '0' && s[end] <= '9' {
			end++
		}
		v, err := strconv.ParseUint(s[:end], 10, 64)
		if err != nil {
			return nil, "", false
		}
		parts = append(parts, v)
		if s = s[end:]; len(s) < 2 || s[0] != '.' || s[1] < '0' || s[1] > '9' {
			break
		}
		s = s[1:]
	}
	rest := strings.ToLower(strings.TrimLeft(s, "-~."))
	for _, p := range []string{"alpha", "beta", "dev", "pre", "rc"} {
		if strings.HasPrefix(rest, p) {
			return parts, rest, true
		}
	}
	return parts, "", true
}
