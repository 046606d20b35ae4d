package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what a name or a digest resolves to on this node: one platform's manifest. A value of the caller's own.
type Image struct {
	ID       digest.Digest // of the config, as docker shows it
	Manifest digest.Digest // of the platform's single manifest
	Index    digest.Digest // of the multi-platform index it came from; "" if none
	Names    []string      // full names, "docker.io/library/nginx:1.25", sorted; empty: kept by holders only
	Platform ocispec.Platform
	Config   RunConfig
	Layers   []Layer // lowest first; empty: an image without files
	Size     int64   // bytes of config and layers as stored
	Created  time.Time
}

// Layer is one layer of an image.
type Layer struct {
	Digest    digest.Digest // of the bytes as stored and sent
	DiffID    digest.Digest // of the inflated tar
	Size      int64         // bytes as stored
	MediaType string
}

// RunConfig is what an image says about how to run it.
type RunConfig struct {
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Env          []string            `json:",omitempty"` // "K=V"
	WorkingDir   string              `json:",omitempty"`
	User         string              `json:",omitempty"` // "user[:group]", names or numbers
	ExposedPorts map[string]struct{} `json:",omitempty"` // "80/tcp"
	Volumes      map[string]struct{} `json:",omitempty"` // absolute paths
	StopSignal   string              `json:",omitempty"` // "SIGTERM", "15" or ""
	Healthcheck  *Healthcheck        `json:",omitempty"` // docker's addition; nil: none
	Labels       map[string]string   `json:",omitempty"`
}

// Healthcheck is docker's. Test is ["NONE"], ["CMD", args…], ["CMD-SHELL", command] or empty (inherit). Zero durations and
// counts mean docker's defaults.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"` // nanoseconds in JSON, as docker writes it
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// configFile is the config blob: the OCI one with docker's RunConfig.
type configFile struct {
	Created *time.Time `json:"created,omitempty"`
	ocispec.Platform
	Config  RunConfig         `json:"config"`
	RootFS  ocispec.RootFS    `json:"rootfs"`
	History []ocispec.History `json:"history,omitempty"`
}

func (i Image) clone() Image {
	i.Names = slices.Clone(i.Names)
	i.Layers = slices.Clone(i.Layers)
	c := &i.Config
	c.Entrypoint, c.Cmd, c.Env = slices.Clone(c.Entrypoint), slices.Clone(c.Cmd), slices.Clone(c.Env)
	c.ExposedPorts, c.Volumes, c.Labels = maps.Clone(c.ExposedPorts), maps.Clone(c.Volumes), maps.Clone(c.Labels)
	if c.Healthcheck != nil {
		h := *c.Healthcheck
		h.Test = slices.Clone(h.Test)
		c.Healthcheck = &h
	}
	return i
}

// manifestKind is what a manifest's bytes are.
type manifestKind int

const (
	kindImage manifestKind = iota
	kindIndex
)

// envelope is what tells a manifest from an index.
type envelope struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	Manifests     json.RawMessage `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

var (
	imageTypes = []string{ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json"}
	indexTypes = []string{ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json"}
)

// classify says what raw is and under which media type to keep it. A document that can be read as both, or whose own
// mediaType contradicts what it came as, is refused: two readers must never see two images in the same bytes.
func classify(raw []byte, cameAs string) (manifestKind, string, error) {
	if len(raw) > MaxManifestSize {
		return 0, "", invalidf("manifest of %d bytes, at most %d", len(raw), MaxManifestSize)
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return 0, "", invalidf("manifest: %w", err)
	}
	if e.FSLayers != nil || e.SchemaVersion == 1 {
		return 0, "", invalidf("manifest of schema 1 (docker before 1.10): push it again with a newer docker")
	}
	if e.SchemaVersion != 2 {
		return 0, "", invalidf("manifest has schemaVersion %d, want 2", e.SchemaVersion)
	}
	if cameAs, _, _ = strings.Cut(cameAs, ";"); cameAs == "application/octet-stream" || cameAs == "application/json" {
		cameAs = ""
	}
	mediaType := e.MediaType
	switch {
	case mediaType == "":
		mediaType = cameAs
	case cameAs != "" && cameAs != mediaType:
		return 0, "", invalidf("manifest came as %q and says it is %q", cameAs, mediaType)
	}
	looksImage, looksIndex := e.Config != nil || e.Layers != nil, e.Manifests != nil
	switch {
	case looksImage && looksIndex:
		return 0, "", invalidf("manifest has both layers and manifests")
	case looksImage:
		if mediaType == "" {
			mediaType = ocispec.MediaTypeImageManifest
		}
		if !slices.Contains(imageTypes, mediaType) {
			return 0, "", invalidf("image manifest has media type %q", mediaType)
		}
		return kindImage, mediaType, nil
	case looksIndex:
		if mediaType == "" {
			mediaType = ocispec.MediaTypeImageIndex
		}
		if !slices.Contains(indexTypes, mediaType) {
			return 0, "", invalidf("image index has media type %q", mediaType)
		}
		return kindIndex, mediaType, nil
	}
	return 0, "", invalidf("manifest of type %q has neither layers nor manifests", mediaType)
}

// parseManifest reads an image manifest and checks all that needs no other blob.
func parseManifest(raw []byte, mediaType string) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	kind, _, err := classify(raw, mediaType)
	if err != nil {
		return m, err
	}
	if kind != kindImage {
		return m, invalidf("an index where an image manifest was expected")
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, invalidf("manifest: %w", err)
	}
	if err := checkDigest(m.Config.Digest); err != nil {
		return m, invalidf("manifest: config: %w", err)
	}
	if m.Config.Size < 0 || m.Config.Size > MaxConfigSize {
		return m, invalidf("manifest: config of %d bytes, at most %d", m.Config.Size, MaxConfigSize)
	}
	if len(m.Layers) > MaxLayers {
		return m, invalidf("manifest: %d layers, at most %d", len(m.Layers), MaxLayers)
	}
	var total int64
	for i, l := range m.Layers {
		if err := checkLayerDescriptor(l); err != nil {
			return m, invalidf("manifest: layer %d: %w", i, err)
		}
		if total += l.Size; total > MaxImageSize {
			return m, invalidf("manifest: layers of more than %d bytes together", int64(MaxImageSize))
		}
	}
	return m, nil
}

func checkLayerDescriptor(l ocispec.Descriptor) error {
	if err := checkDigest(l.Digest); err != nil {
		return err
	}
	if l.Size < 0 || l.Size > MaxLayerSize {
		return invalidf("%d bytes, at most %d", l.Size, int64(MaxLayerSize))
	}
	// A foreign layer sends its reader, credentials and all, to a URL of the manifest's choice: never followed.
	if len(l.URLs) > 0 || strings.Contains(l.MediaType, "nondistributable") || strings.Contains(l.MediaType, ".foreign.") {
		return invalidf("foreign layers (%s) are not supported", l.MediaType)
	}
	if !strings.Contains(l.MediaType, ".tar") {
		return invalidf("media type %q is not a container image's layer", l.MediaType)
	}
	return nil
}

// parseImage joins a manifest and its config. The digests of both were verified by the caller.
func parseImage(manifest []byte, mediaType string, config []byte) (Image, error) {
	m, err := parseManifest(manifest, mediaType)
	if err != nil {
		return Image{}, err
	}
	if got := digest.FromBytes(config); got != m.Config.Digest {
		return Image{}, invalidf("config has digest %s, the manifest says %s", got, m.Config.Digest)
	}
	var c configFile
	if err := json.Unmarshal(config, &c); err != nil {
		return Image{}, invalidf("config %s: %w", m.Config.Digest, err)
	}
	if c.RootFS.Type != "layers" && len(m.Layers) > 0 {
		return Image{}, invalidf("config %s: rootfs type %q, want \"layers\" (is this a container image?)", m.Config.Digest, c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return Image{}, invalidf("config %s has %d layers, its manifest %d", m.Config.Digest, len(c.RootFS.DiffIDs), len(m.Layers))
	}
	img := Image{
		ID: m.Config.Digest, Manifest: digest.FromBytes(manifest), Platform: c.Platform, Config: c.Config,
		Layers: make([]Layer, 0, len(m.Layers)), Size: int64(len(config)),
	}
	if c.Created != nil {
		img.Created = *c.Created
	}
	for i, l := range m.Layers {
		if err := checkDigest(c.RootFS.DiffIDs[i]); err != nil {
			return Image{}, invalidf("config %s: layer %d: %w", m.Config.Digest, i, err)
		}
		img.Layers = append(img.Layers, Layer{Digest: l.Digest, DiffID: c.RootFS.DiffIDs[i], Size: l.Size, MediaType: l.MediaType})
		img.Size += l.Size
	}
	return img, nil
}

// choosePlatform picks the manifest for p from an index: same os and architecture, of the variants the one that fits best,
// the first of equals. Attestations and the like have platform "unknown" and never match.
func choosePlatform(raw []byte, mediaType string, p ocispec.Platform) (ocispec.Descriptor, error) {
	var idx ocispec.Index
	if kind, _, err := classify(raw, mediaType); err != nil {
		return ocispec.Descriptor{}, err
	} else if kind != kindIndex {
		return ocispec.Descriptor{}, invalidf("an image manifest where an index was expected")
	}
	if err := json.Unmarshal(raw, &idx); err != nil {
		return ocispec.Descriptor{}, invalidf("index: %w", err)
	}
	var offered []string
	var best *ocispec.Descriptor
	var least int
	for i, d := range idx.Manifests {
		if err := checkDigest(d.Digest); err != nil {
			return ocispec.Descriptor{}, invalidf("index: %w", err)
		}
		if d.Platform == nil {
			if len(idx.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		if d.Platform.OS != "unknown" {
			offered = append(offered, platformString(*d.Platform))
		}
		if d.Platform.OS != p.OS || d.Platform.Architecture != p.Architecture {
			continue
		}
		if far := variantDistance(p.Architecture, d.Platform.Variant, p.Variant); best == nil || far < least {
			best, least = &idx.Manifests[i], far
		}
	}
	if best != nil {
		return *best, nil
	}
	return ocispec.Descriptor{}, wrongPlatform(p, offered)
}

// runsOn is true, too, for an image that does not say what it is for.
func runsOn(img, node ocispec.Platform) bool {
	return (img.OS == "" || img.OS == node.OS) && (img.Architecture == "" || img.Architecture == node.Architecture)
}

func wrongPlatform(p ocispec.Platform, offered []string) error {
	return &kindError{ErrNotFound, fmt.Errorf("image has no manifest for %s, only for: %s", platformString(p), strings.Join(offered, ", "))}
}

func platformString(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
