package image

import (
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Name is a full image name: registry, repository, and a tag or a digest or both. Comparable; the zero value is invalid.
type Name struct {
	repository string // "docker.io/library/nginx"
	tag        string // "" only if digest is set
	digest     digest.Digest
}

// ParseName reads a name as people write it: docker.io/library/ and :latest are implied. Errors are ErrInvalid.
func ParseName(s string) (Name, error) {
	if len(s) > maxNameLength {
		return Name{}, invalidf("image name of %d bytes, at most %d", len(s), maxNameLength)
	}
	if checkDigest(digest.Digest(s)) == nil { // the grammar would take it for the repository "sha256"
		return Name{}, invalidf("image name %q is a digest: write name@digest", s)
	}
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Name{}, invalidf("image name %q: %w", s, err)
	}
	// ParseDockerRef drops the tag when there is a digest too; people want to see it again.
	n := Name{repository: named.Name()}
	if full, err := reference.ParseNormalizedNamed(s); err == nil {
		if t, ok := full.(reference.Tagged); ok {
			n.tag = t.Tag()
		}
	}
	if t, ok := named.(reference.Tagged); ok {
		n.tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		n.digest = d.Digest()
		if err := checkDigest(n.digest); err != nil {
			return Name{}, invalidf("image name %q: %w", s, err)
		}
	}
	return n, nil
}

// String is the full form, "docker.io/library/nginx:1.25", with "@sha256:…" where there is a digest.
func (n Name) String() string {
	s := n.repository
	if n.tag != "" {
		s += ":" + n.tag
	}
	if n.digest != "" {
		s += "@" + n.digest.String()
	}
	return s
}

// Familiar is the short form for people: "nginx:1.25".
func (n Name) Familiar() string {
	named, err := reference.ParseNormalizedNamed(n.String())
	if err != nil {
		return n.String()
	}
	short := reference.FamiliarString(named)
	// docker.io/library.o/x would be library.o/x, and that is another registry's.
	if again, err := reference.ParseNormalizedNamed(short); err != nil || again.String() != named.String() {
		return n.String()
	}
	return short
}

// Short is Familiar with a digest cut to what tells two apart: "nginx:1.25@sha256:860c4535c820". It is for messages.
func (n Name) Short() string {
	s := n.Familiar()
	if i := strings.Index(s, "@sha256:"); i >= 0 && len(s) > i+len("@sha256:")+shortDigest {
		return s[:i+len("@sha256:")+shortDigest]
	}
	return s
}

// shortDigest is how many hex digits of a digest people are shown, as with docker.
const shortDigest = 12

// Repository is the name without tag and digest: "docker.io/library/nginx".
func (n Name) Repository() string { return n.repository }

// Tag is "" when the name has a digest only.
func (n Name) Tag() string { return n.tag }

// Digest is "" when the name has a tag only. With both, the digest decides.
func (n Name) Digest() digest.Digest { return n.digest }

// IsZero tells whether n names nothing.
func (n Name) IsZero() bool { return n.repository == "" }

// checkDigest accepts sha256 only, in its one canonical spelling, so that a digest is safe as a file name.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return invalidf("digest %q: %w", string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return invalidf("digest %q: only sha256 is supported", string(d))
	}
	return nil
}
