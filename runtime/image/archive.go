package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// images reads what the archive says it holds. An OCI layout is preferred, because it keeps the digests that the image
// has elsewhere; docker's own manifest.json then only adds names.
func (a *archiveReader) images() ([]*loaded, error) {
	docker, err := a.dockerManifests()
	if err != nil {
		return nil, err
	}
	if t := a.find(ocispec.ImageIndexFile); t != nil {
		found, err := a.layoutImages(t)
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return found, addDockerNames(found, docker)
		}
	}
	if docker == nil && a.find(ocispec.ImageIndexFile) == nil {
		return nil, invalidf("neither manifest.json (docker save) nor index.json (OCI layout) is in it")
	}
	return a.dockerImages(docker)
}

func (a *archiveReader) dockerManifests() ([]dockerManifest, error) {
	t := a.find("manifest.json")
	if t == nil {
		return nil, nil
	}
	raw, err := a.bytes(t, "manifest.json", MaxManifestSize)
	if err != nil {
		return nil, err
	}
	list := []dockerManifest{}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, invalidf("manifest.json: %w", err)
	}
	if len(list) > MaxArchiveImages {
		return nil, invalidf("%d images, at most %d", len(list), MaxArchiveImages)
	}
	names := 0
	for _, dm := range list {
		names += len(dm.RepoTags)
	}
	return list, checkNames(names)
}

func checkNames(n int) error {
	if n > MaxArchiveNames {
		return invalidf("%d names of images, at most %d: save fewer images or tags at a time", n, MaxArchiveNames)
	}
	return nil
}

func addDockerNames(found []*loaded, docker []dockerManifest) error {
	for _, dm := range docker {
		names, err := dockerNames(dm)
		if err != nil {
			return err
		}
		for _, l := range found {
			if strings.TrimSuffix(path.Base(dm.Config), ".json") == digest.FromBytes(l.config).Encoded() {
				l.addNames(names)
				break
			}
		}
	}
	return nil
}

func (l *loaded) addNames(names []string) {
	for _, n := range names {
		if !slices.Contains(l.names, n) {
			l.names = append(l.names, n)
		}
	}
}

func dockerNames(dm dockerManifest) ([]string, error) {
	var names []string
	for _, tag := range dm.RepoTags {
		n, err := ParseName(tag)
		if err != nil {
			return nil, err
		}
		names = append(names, n.String())
	}
	return names, nil
}

// dockerImages makes images from manifest.json: there is no manifest in such an archive, so one is computed, with the
// layers as they are.
func (a *archiveReader) dockerImages(list []dockerManifest) ([]*loaded, error) {
	var found []*loaded
	for _, dm := range list {
		l, err := a.dockerImage(dm)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", strings.Join(dm.RepoTags, ", "), err)
		}
		found = append(found, l)
	}
	return found, nil
}

func (a *archiveReader) dockerImage(dm dockerManifest) (*loaded, error) {
	names, err := dockerNames(dm)
	if err != nil {
		return nil, err
	}
	if len(dm.Layers) > MaxLayers {
		return nil, invalidf("%d layers, at most %d", len(dm.Layers), MaxLayers)
	}
	t := a.find(dm.Config)
	if t == nil {
		return nil, invalidf("config %q is missing in the archive", dm.Config)
	}
	config, err := a.bytes(t, dm.Config, MaxConfigSize)
	if err != nil {
		return nil, err
	}
	// The file is named by its digest; where the name is one, it must be right.
	named := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(path.Base(dm.Config), ".json"))
	if checkDigest(named) == nil && named != t.digest() {
		return nil, invalidf("config %s has digest %s", dm.Config, t.digest())
	}
	l := &loaded{names: names, config: config, mediaType: ocispec.MediaTypeImageManifest, blobs: map[digest.Digest]*tempBlob{}}
	var layers []ocispec.Descriptor
	for i, file := range dm.Layers {
		t := a.find(file)
		if t == nil {
			return nil, invalidf("layer %d (%q) is missing in the archive", i, file)
		}
		mediaType, err := a.layerMediaType(t)
		if err != nil {
			return nil, err
		}
		layers = append(layers, ocispec.Descriptor{MediaType: mediaType, Digest: t.digest(), Size: t.size})
		l.blobs[t.digest()] = t
	}
	l.manifest, err = manifestOf(config, layers)
	return l, err
}

// layerMediaType looks at the first bytes.
func (a *archiveReader) layerMediaType(t *tempBlob) (string, error) {
	f, err := t.open(a.s)
	if err != nil {
		return "", err
	}
	defer f.Close()
	magic := make([]byte, 4)
	n, err := io.ReadFull(f, magic)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	switch {
	case n >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		return ocispec.MediaTypeImageLayerGzip, nil
	case n == 4 && string(magic) == "\x28\xb5\x2f\xfd":
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return ocispec.MediaTypeImageLayer, nil
}

// layoutImages reads index.json. Entries whose blobs are not in the archive (other platforms of a saved multi-platform
// image, attestations) are passed over.
func (a *archiveReader) layoutImages(t *tempBlob) ([]*loaded, error) {
	raw, err := a.bytes(t, ocispec.ImageIndexFile, MaxManifestSize)
	if err != nil {
		return nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, invalidf("index.json: %w", err)
	}
	if len(idx.Manifests) > MaxArchiveImages {
		return nil, invalidf("%d images, at most %d", len(idx.Manifests), MaxArchiveImages)
	}
	var found []*loaded
	for _, d := range idx.Manifests {
		l, err := a.layoutImage(d)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		if l == nil {
			continue
		}
		if l.names, err = layoutNames(d.Annotations); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(found, func(o *loaded) bool { return string(o.manifest) == string(l.manifest) }); i >= 0 {
			found[i].addNames(l.names)
			continue
		}
		found = append(found, l)
	}
	return found, nil
}

// layoutNames reads an image's name from its annotations: containerd's full one, or a reference name that is one.
func layoutNames(annotations map[string]string) ([]string, error) {
	name := annotations[annotationName]
	if ref := annotations[ocispec.AnnotationRefName]; name == "" && strings.ContainsAny(ref, "/:") {
		name = ref
	}
	if name == "" {
		return nil, nil // a bare tag names nothing: `--name`, or docker's manifest.json, tells the rest
	}
	n, err := ParseName(name)
	if err != nil {
		return nil, err
	}
	return []string{n.String()}, nil
}

func (a *archiveReader) layoutImage(d ocispec.Descriptor) (*loaded, error) {
	var index []byte
	for range maxIndexDepth {
		t, err := a.blob(d.Digest)
		if t == nil || err != nil {
			return nil, err
		}
		raw, err := a.bytes(t, archivePath(d.Digest), MaxManifestSize)
		if err != nil {
			return nil, err
		}
		kind, mediaType, err := classify(raw, d.MediaType)
		if err != nil {
			return nil, err
		}
		if kind == kindImage {
			return a.manifestImage(raw, mediaType, index)
		}
		if index == nil {
			index = raw
		}
		d, err = choosePlatform(raw, mediaType, a.s.platform)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, invalidf("indexes nested more than %d deep", maxIndexDepth)
}

func (a *archiveReader) manifestImage(raw []byte, mediaType string, index []byte) (*loaded, error) {
	m, err := parseManifest(raw, mediaType)
	if err != nil {
		return nil, err
	}
	t, err := a.blob(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, invalidf("config %s is missing in the archive", m.Config.Digest)
	}
	l := &loaded{manifest: raw, mediaType: mediaType, index: index, blobs: map[digest.Digest]*tempBlob{}}
	if l.config, err = a.bytes(t, "config", MaxConfigSize); err != nil {
		return nil, err
	}
	for _, layer := range m.Layers {
		if l.blobs[layer.Digest], err = a.blob(layer.Digest); err != nil {
			return nil, err
		}
	}
	return l, nil
}
