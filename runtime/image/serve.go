package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Handler serves the store under /v2/ by the OCI distribution protocol, read-only: manifests by tag and digest, blobs,
// tags. Peers, crane, skopeo, docker and podman pull from it. A repository is a name as ParseName reads it:
// /v2/nginx/… and /v2/docker.io/library/nginx/… are the same. Every byte is verified before the last one is sent; a
// damaged blob breaks the connection and is gone afterwards. Who may ask is the caller's business.
func (s *Store) Handler() http.Handler { return &endpoint{s: s} }

// PushHandler is Handler that takes pushes, too.
func (s *Store) PushHandler() http.Handler { return &endpoint{s: s, push: true} }

// endpoint answers the distribution protocol.
type endpoint struct {
	s    *Store
	push bool
}

// ServeHTTP implements http.Handler.
func (g *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.URL.Path == "/v2" || r.URL.Path == "/v2/" {
		writeJSON(w, http.StatusOK, struct{}{})
		return
	}
	repo, kind, ref := splitPath(r.URL.Path)
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	name, err := ParseName(repo)
	switch {
	case kind == "":
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	case err != nil || name.Digest() != "" || strings.Contains(repo, ":") && !strings.Contains(repo, "/"):
		refuse(w, http.StatusBadRequest, "NAME_INVALID", "invalid repository name "+strconv.Quote(repo))
	case !read && !g.push:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this endpoint is read-only")
	case kind == "manifests" && read:
		g.manifest(w, r, name, ref)
	case kind == "manifests" && r.Method == http.MethodPut:
		g.putManifest(w, r, name, ref)
	case kind == "blobs" && read:
		g.blob(w, r, ref)
	case kind == "tags" && read && ref == "list":
		g.tags(w, name)
	case kind == "uploads" && r.Method == http.MethodPost && ref == "":
		g.startUpload(w, r, repo)
	case kind == "uploads" && ref != "":
		g.upload(w, r, repo, ref)
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "not supported")
	}
}

// splitPath takes /v2/<repository>/<kind>/<ref> apart; kind is "" for anything else.
func splitPath(p string) (repo, kind, ref string) {
	p, ok := strings.CutPrefix(p, "/v2/")
	if !ok {
		return "", "", ""
	}
	if i := strings.LastIndex(p, "/blobs/uploads/"); i > 0 {
		return p[:i], "uploads", p[i+len("/blobs/uploads/"):]
	}
	if repo, ok := strings.CutSuffix(p, "/blobs/uploads"); ok {
		return repo, "uploads", ""
	}
	i := strings.LastIndexByte(p, '/')
	if i <= 0 {
		return "", "", ""
	}
	p, ref = p[:i], p[i+1:]
	i = strings.LastIndexByte(p, '/')
	if i <= 0 {
		return "", "", ""
	}
	switch kind = p[i+1:]; kind {
	case "manifests", "blobs", "tags":
		return p[:i], kind, ref
	}
	return "", "", ""
}

func (g *endpoint) manifest(w http.ResponseWriter, r *http.Request, repo Name, ref string) {
	c := g.s.snapshot()
	d := digest.Digest(ref)
	if checkDigest(d) != nil {
		m, ok := c.names[repo.repository+":"+ref]
		if !ok {
			refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no image "+repo.repository+":"+ref+" on this node")
			return
		}
		d = m
	}
	mediaType := ""
	for m, e := range c.images {
		if m == d || e.image.Index == d {
			mediaType = e.desc.MediaType
			break
		}
	}
	raw, err := g.s.readBlob(d, MaxManifestSize)
	if err == nil && mediaType == "" && !g.push { // a config or layer is no manifest; and a push half way is nobody's yet
		err = ErrNotFound
	}
	if err == nil {
		_, mediaType, err = classify(raw, "")
	}
	if err != nil {
		g.refuse(w, err, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.Header().Set("Docker-Content-Digest", d.String())
	if r.Method == http.MethodHead {
		return
	}
	_, _ = w.Write(raw) // the client's going away is its own affair
}

func (g *endpoint) blob(w http.ResponseWriter, r *http.Request, ref string) {
	d := digest.Digest(ref)
	if err := checkDigest(d); err != nil {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	l := g.s.newLease()
	defer l.release()
	l.pin(d)
	f, err := g.s.openBlob(d)
	if err != nil {
		g.refuse(w, err, "BLOB_UNKNOWN")
		return
	}
	fi, err := f.Stat()
	f.Close()
	if err != nil {
		g.refuse(w, err, "BLOB_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Accept-Ranges", "bytes")
	offset, ok := rangeFrom(r.Header.Get("Range"), fi.Size())
	if !ok {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", fi.Size()))
		refuse(w, http.StatusRequestedRangeNotSatisfiable, "UNSUPPORTED", "a range is bytes=N- with N less than the blob's size")
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(fi.Size()-offset, 10))
	if offset > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, fi.Size()-1, fi.Size()))
		w.WriteHeader(http.StatusPartialContent)
	}
	if r.Method == http.MethodHead {
		return
	}
	if err := g.s.copyBlob(r.Context(), &skipWriter{w, offset}, d); err != nil {
		g.s.log.Debug("blob not served", "blob", d, "err", err)
		panic(http.ErrAbortHandler) // the only way to tell the client that what it has is not all
	}
}

// rangeFrom reads "bytes=N-", what a client sends that resumes. Other ranges may be answered with all of it (RFC 9110, 14.2).
func rangeFrom(header string, size int64) (offset int64, ok bool) {
	from, isOpen := strings.CutSuffix(strings.TrimPrefix(header, "bytes="), "-")
	if header == "" || !isOpen || !strings.HasPrefix(header, "bytes=") {
		return 0, true
	}
	n, err := strconv.ParseInt(from, 10, 64)
	if err != nil || n < 0 {
		return 0, true
	}
	return n, n == 0 || n < size
}

// skipWriter drops the first bytes: all of a blob is read and verified, whatever part of it is sent.
type skipWriter struct {
	w    io.Writer
	skip int64
}

func (s *skipWriter) Write(p []byte) (int, error) {
	drop := min(s.skip, int64(len(p)))
	s.skip -= drop
	if drop == int64(len(p)) {
		return len(p), nil
	}
	n, err := s.w.Write(p[drop:])
	return n + int(drop), err
}

func (g *endpoint) tags(w http.ResponseWriter, repo Name) {
	tags := []string{}
	for full := range g.s.snapshot().names {
		if n, err := ParseName(full); err == nil && n.repository == repo.repository && n.tag != "" && n.digest == "" {
			tags = append(tags, n.tag)
		}
	}
	if len(tags) == 0 {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no image "+repo.repository+" on this node")
		return
	}
	slices.Sort(tags)
	writeJSON(w, http.StatusOK, map[string]any{"name": repo.repository, "tags": tags})
}

// refuse answers with the status of an error's kind.
func (g *endpoint) refuse(w http.ResponseWriter, err error, unknown string) {
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrCorrupt):
		refuse(w, http.StatusNotFound, unknown, err.Error())
	case errors.Is(err, ErrInvalid):
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
	default:
		g.s.log.Error("image request failed", "err", err)
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
	}
}

// refuse answers in the distribution specification's error format.
func refuse(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("image: cannot marshal %T: %v", v, err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(raw)
}
