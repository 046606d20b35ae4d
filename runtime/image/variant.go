package image

import (
	"strconv"
	"strings"
)

// baseVariant is the variant that every processor of an architecture has, and that an empty one stands for; 0 elsewhere.
var baseVariant = map[string]int{"amd64": 1, "arm64": 8}

const (
	farAbove   = 1_000 // its instructions may be missing
	farUnknown = 2_000
)

// variantDistance tells how badly a variant of an architecture does where another is wanted; empty is the base. Best is the
// same, then the nearest below it, which any such processor runs; then the nearest above, since an image may exist in
// nothing else; then what is no "v" and a number.
func variantDistance(arch, offered, wanted string) int {
	if offered == wanted {
		return 0
	}
	o, oOK := variantLevel(arch, offered)
	w, wOK := variantLevel(arch, wanted)
	switch {
	case !oOK || !wOK:
		return farUnknown
	case o > w:
		return min(farAbove+o-w, farUnknown-1)
	}
	return min(w-o, farAbove-1)
}

func variantLevel(arch, variant string) (int, bool) {
	if variant == "" {
		return baseVariant[arch], true
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(variant, "v"), 10, 16)
	return int(n), err == nil && variant[0] == 'v'
}
