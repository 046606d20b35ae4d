package image

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
)

var errTodo = errors.New("not yet")

// LoadOptions adjust Load.
type LoadOptions struct {
	// Name is given to the image in addition to the archive's own names; only for an archive of one image.
	Name string
}

func (s *Store) Load(ctx context.Context, r io.Reader, opts LoadOptions) ([]Image, error) {
	return nil, errTodo
}

// Progress of a Pull or Fetch.
type Progress struct {
	Layers, LayersDone int
	Bytes, BytesDone   int64
}

// PullOptions adjust Pull.
type PullOptions struct {
	Progress  func(Progress)
	Keychain  authn.Keychain
	Transport http.RoundTripper
	Jobs      int
}

func (s *Store) Pull(ctx context.Context, name Name, opts PullOptions) (Image, error) {
	return Image{}, errTodo
}

// Source is a peer's store.
type Source interface {
	Manifest(ctx context.Context, ref string) (mediaType string, raw []byte, err error)
	Blob(ctx context.Context, digest string) (io.ReadCloser, error)
}

func (s *Store) Fetch(ctx context.Context, from Source, ref string) (Image, error) {
	return Image{}, errTodo
}
func (s *Store) Handler() http.Handler                                       { return http.NotFoundHandler() }
func (s *Store) Save(ctx context.Context, w io.Writer, refs ...string) error { return errTodo }
func (s *Store) Layers(ctx context.Context, img Image) ([]string, error)     { return nil, errTodo }

// PrunePolicy says what Prune may delete.
type PrunePolicy struct {
	Grace  time.Duration
	DryRun bool
}

// Freed is what Prune deleted.
type Freed struct {
	Images []digest.Digest
	Blobs  int
	Layers int
	Bytes  int64
}

func (s *Store) Prune(ctx context.Context, p PrunePolicy) (Freed, error) { return Freed{}, errTodo }

const sweepNow = time.Duration(0)

func (s *Store) sweep(ctx context.Context, grace time.Duration) (Freed, error) { return Freed{}, nil }

type uploads struct{}

func (u *uploads) closeAll() {}

// File is one entry of a layer that WriteArchive makes.
type File struct {
	Path     string
	Mode     int64
	UID, GID int
	Data     []byte
	From     string
	Link     string
}

// Tree is one layer to make.
type Tree []File

func WriteArchive(w io.Writer, name string, cfg RunConfig, layers ...Tree) error { return errTodo }
func UnpackMain() int                                                            { return 1 }
