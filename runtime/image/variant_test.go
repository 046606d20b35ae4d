package image

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Of an index with variants of the processor the one is taken that runs on all, or what was asked for, whatever the order.
func TestVariantOfAProcessor(t *testing.T) {
	for _, c := range []struct {
		arch, wanted string
		offered      []string // the best first
	}{
		{"amd64", "", []string{"", "v2", "v3", "v4"}},
		{"amd64", "", []string{"v1", "v2", "v3"}},
		{"amd64", "v3", []string{"v3", "v2", "", "v4"}},
		{"amd64", "v2", []string{"v2", "v1", "v3", "odd"}},
		{"arm64", "", []string{"v8", "v9"}},
		{"arm64", "", []string{"", "v9"}},
		{"arm", "", []string{"v5", "v6", "v7"}},
		{"arm", "v7", []string{"v7", "v6", "v5"}},
	} {
		for n := len(c.offered); n > 0; n-- {
			best := c.offered[len(c.offered)-n]
			for _, order := range orders(c.offered[len(c.offered)-n:]) {
				idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
				for _, v := range order {
					idx.Manifests = append(idx.Manifests, ocispec.Descriptor{
						MediaType: ocispec.MediaTypeImageManifest, Size: 2, Digest: digest.FromString(v),
						Platform: &ocispec.Platform{OS: "linux", Architecture: c.arch, Variant: v},
					})
				}
				raw, err := json.Marshal(idx)
				if err != nil {
					t.Fatal(err)
				}
				d, err := choosePlatform(raw, idx.MediaType, ocispec.Platform{OS: "linux", Architecture: c.arch, Variant: c.wanted})
				if err != nil || d.Platform.Variant != best {
					t.Errorf("%s: %q of %q, %v; want %q", fmt.Sprint(c.arch, "/", c.wanted), d.Platform, order, err, best)
				}
			}
		}
	}
}

// orders are all orders of a few words.
func orders(words []string) (out [][]string) {
	if len(words) == 0 {
		return [][]string{nil}
	}
	for i := range words {
		var rest []string
		rest = append(append(rest, words[:i]...), words[i+1:]...)
		for _, o := range orders(rest) {
			out = append(out, append([]string{words[i]}, o...))
		}
	}
	return out
}
