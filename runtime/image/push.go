package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// uploadIdle is how long an upload may rest before another one takes its place.
const uploadIdle = 10 * time.Minute

// uploads are blobs on their way in by push, by an unguessable id.
type uploads struct {
	mu   sync.Mutex
	open map[string]*upload
}

type upload struct {
	mu   sync.Mutex // held while a request writes
	blob *tempBlob  // nil once done
	used time.Time  // guarded by uploads.mu
}

func (u *uploads) add(t *tempBlob) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, up := range u.open {
		if time.Since(up.used) > uploadIdle && up.mu.TryLock() {
			up.end()
			up.mu.Unlock()
			delete(u.open, id)
		}
	}
	if len(u.open) >= maxUploads {
		return "", &kindError{ErrUnavailable, fmt.Errorf("%d uploads are open already: try again later", maxUploads)}
	}
	if u.open == nil {
		u.open = map[string]*upload{}
	}
	id := rand.Text()
	u.open[id] = &upload{blob: t, used: time.Now()}
	return id, nil
}

func (u *uploads) get(id string) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.open[id]
	if up != nil {
		up.used = time.Now()
	}
	return up
}

func (u *uploads) remove(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, id)
}

func (u *uploads) closeAll() {
	u.mu.Lock()
	all := u.open
	u.open = nil
	u.mu.Unlock()
	for _, up := range all {
		up.mu.Lock()
		up.end()
		up.mu.Unlock()
	}
}

// end throws away what was not adopted; the caller holds mu.
func (up *upload) end() {
	if up.blob != nil {
		up.blob.discard()
		up.blob = nil
	}
}

// startUpload answers POST: with a digest all of the blob is in the request, with mount it may be here already.
func (g *endpoint) startUpload(w http.ResponseWriter, r *http.Request, repo string) {
	if g.s.closed.Load() {
		refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE", ErrClosed.Error())
		return
	}
	q := r.URL.Query()
	if d := digest.Digest(q.Get("mount")); checkDigest(d) == nil {
		if f, err := g.s.openBlob(d); err == nil {
			f.Close()
			created(w, "/v2/"+repo+"/blobs/"+d.String(), d)
			return
		}
	}
	t, err := g.s.newTemp()
	if err != nil {
		g.refuse(w, err, "UNKNOWN")
		return
	}
	id, err := g.s.uploads.add(t)
	if err != nil {
		t.discard()
		refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", err.Error())
		return
	}
	if q.Get("digest") != "" {
		g.upload(w, r, repo, id)
		return
	}
	accepted(w, repo, id, 0, http.StatusAccepted)
}

// upload answers PATCH (more bytes), PUT (the last bytes and the digest), GET (how far) and DELETE.
func (g *endpoint) upload(w http.ResponseWriter, r *http.Request, repo, id string) {
	up := g.s.uploads.get(id)
	if up == nil {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload: start again")
		return
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.blob == nil {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "the upload has ended")
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		accepted(w, repo, id, up.blob.size, http.StatusNoContent)
		return
	case http.MethodDelete:
		up.end()
		g.s.uploads.remove(id)
		w.WriteHeader(http.StatusNoContent)
		return
	case http.MethodPatch, http.MethodPut, http.MethodPost:
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "not supported")
		return
	}
	if from, _, ok := strings.Cut(r.Header.Get("Content-Range"), "-"); ok && strings.TrimPrefix(from, "bytes ") != fmt.Sprint(up.blob.size) {
		accepted(w, repo, id, up.blob.size, http.StatusRequestedRangeNotSatisfiable)
		return
	}
	_, err := io.Copy(up.blob, http.MaxBytesReader(w, r.Body, MaxLayerSize-up.blob.size))
	if err == nil && r.Method == http.MethodPatch {
		accepted(w, repo, id, up.blob.size, http.StatusAccepted)
		return
	}
	defer g.s.uploads.remove(id)
	defer up.end()
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("more than %d bytes", int64(MaxLayerSize)))
		return
	case err != nil:
		g.refuse(w, g.s.explainSpace(err), "BLOB_UPLOAD_INVALID")
		return
	}
	want := digest.Digest(r.URL.Query().Get("digest"))
	if err := checkDigest(want); err != nil || up.blob.digest() != want {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", fmt.Sprintf("the blob has digest %s, not %q", up.blob.digest(), want))
		return
	}
	if err := g.s.adopt(up.blob); err != nil {
		g.refuse(w, err, "BLOB_UPLOAD_INVALID")
		return
	}
	created(w, "/v2/"+repo+"/blobs/"+want.String(), want)
}

func accepted(w http.ResponseWriter, repo, id string, size int64, status int) {
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(size-1, 0)))
	w.WriteHeader(status)
}

func created(w http.ResponseWriter, location string, d digest.Digest) {
	w.Header().Set("Location", location)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

// putManifest ends a push: what it names must be here, then the image is.
func (g *endpoint) putManifest(w http.ResponseWriter, r *http.Request, repo Name, ref string) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxManifestSize))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", err.Error())
		return
	}
	d := digest.FromBytes(raw)
	name := Name{}
	if want := digest.Digest(ref); strings.Contains(ref, ":") {
		if want != d {
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID", fmt.Sprintf("the manifest has digest %s, not %s", d, want))
			return
		}
	} else if name, err = ParseName(repo.repository + ":" + ref); err != nil {
		refuse(w, http.StatusBadRequest, "TAG_INVALID", err.Error())
		return
	}
	if err := g.acceptManifest(r, raw, name); err != nil {
		g.refuse(w, err, "MANIFEST_BLOB_UNKNOWN")
		return
	}
	created(w, "/v2/"+repo.repository+"/manifests/"+d.String(), d)
}

// acceptManifest stores a pushed manifest. An index makes an image of this node's platform; a manifest pushed by digest
// only is part of an index that comes later, and may be of another platform or no image at all.
func (g *endpoint) acceptManifest(r *http.Request, raw []byte, name Name) error {
	ctx := r.Context()
	kind, _, err := classify(raw, r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	l := g.s.newLease()
	defer l.release()
	l.pin(digest.FromBytes(raw))
	if name.IsZero() && kind == kindImage || kind == kindIndex {
		if _, err := g.s.putBlob(ctx, raw); err != nil {
			return err
		}
	}
	if name.IsZero() {
		return nil
	}
	c := &copying{s: g.s, from: noSource{}, lease: l, meter: &meter{}, jobs: 1, platform: g.s.platform}
	_, err = c.take(ctx, raw, r.Header.Get("Content-Type"), name)
	return err
}

// noSource has nothing: what a pushed manifest names must be in the store.
type noSource struct{}

// Manifest implements Source.
func (noSource) Manifest(_ context.Context, ref string) (string, []byte, error) {
	return "", nil, &kindError{ErrNotFound, fmt.Errorf("the index names manifest %s, which was not pushed", ref)}
}

// Blob implements Source.
func (noSource) Blob(_ context.Context, d string) (io.ReadCloser, error) {
	return nil, &kindError{ErrNotFound, fmt.Errorf("the manifest names blob %s, which was not pushed", d)}
}
