package image

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobSource is a blob that an archive will hold. write must give the same bytes each time.
type blobSource struct {
	digest digest.Digest
	size   int64
	write  func(io.Writer) error
}

func bytesBlob(b []byte) blobSource {
	return blobSource{digest.FromBytes(b), int64(len(b)), func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}}
}

// archived is one image in an archive.
type archived struct {
	names    []string
	manifest ocispec.Descriptor
	config   digest.Digest
	layers   []digest.Digest
}

// dockerManifest is one element of manifest.json in a docker-save archive.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// writeLayout writes an OCI image layout as a tar, with docker's manifest.json beside it, so that any docker, podman or
// skopeo loads it. Entries carry no time and no owner: the same images make the same bytes.
func writeLayout(w io.Writer, images []archived, blobs []blobSource) error {
	tw := tar.NewWriter(w)
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	docker := []dockerManifest{}
	for _, img := range images {
		dm := dockerManifest{Config: archivePath(img.config), RepoTags: []string{}, Layers: []string{}}
		for _, l := range img.layers {
			dm.Layers = append(dm.Layers, archivePath(l))
		}
		if len(img.names) == 0 {
			idx.Manifests = append(idx.Manifests, img.manifest)
		}
		for _, full := range img.names {
			n, err := ParseName(full)
			if err != nil {
				return err
			}
			d := img.manifest
			d.Annotations = map[string]string{annotationName: full}
			if n.Digest() == "" {
				d.Annotations[ocispec.AnnotationRefName] = n.Tag()
				dm.RepoTags = append(dm.RepoTags, n.Familiar())
			}
			idx.Manifests = append(idx.Manifests, d)
		}
		docker = append(docker, dm)
	}
	for _, b := range blobs {
		if err := writeEntry(tw, archivePath(b.digest), b); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name  string
		value any
	}{
		{ocispec.ImageIndexFile, idx},
		{"manifest.json", docker},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	} {
		raw, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		if err := writeEntry(tw, f.name, bytesBlob(raw)); err != nil {
			return err
		}
	}
	return tw.Close()
}

func archivePath(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func writeEntry(tw *tar.Writer, name string, b blobSource) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: b.size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if b.size > 8<<30-1 {
		h.Format = tar.FormatPAX
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if err := b.write(tw); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return tw.Flush()
}

// manifestOf makes an OCI manifest; the same input makes the same bytes on every node.
func manifestOf(config []byte, layers []ocispec.Descriptor) ([]byte, error) {
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	return json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: layers,
	})
}
