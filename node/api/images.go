package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"shoal/consensus/job"
)

// ImageDetail is all that a node knows of an image.
type ImageDetail struct {
	Image
	Platform   string            `json:"platform"` // "linux/amd64"
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Command    []string          `json:"command,omitempty"`
	Env        []string          `json:"env,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	User       string            `json:"user,omitempty"`
	Ports      []string          `json:"ports,omitempty"`   // "80/tcp", sorted
	Volumes    []string          `json:"volumes,omitempty"` // sorted
	StopSignal string            `json:"stopSignal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	LayerList  []ImageLayer      `json:"layerList"` // lowest first
	History    []ImageStep       `json:"history"`   // oldest first
	UsedBy     []string          `json:"usedBy"`    // containers on this node, sorted
	Used       time.Time         `json:"used"`
}

// ImageLayer is one layer of an image.
type ImageLayer struct {
	Digest    string `json:"digest"` // as stored
	DiffID    string `json:"diffID"` // inflated
	SizeBytes int64  `json:"sizeBytes"`
	MediaType string `json:"mediaType"`
}

// ImageStep is one step of how an image was built.
type ImageStep struct {
	Created   time.Time `json:"created,omitzero"`
	CreatedBy string    `json:"createdBy,omitempty"`
	Comment   string    `json:"comment,omitempty"`
	SizeBytes int64     `json:"sizeBytes"`       // of its layer as stored
	Empty     bool      `json:"empty,omitempty"` // it made no layer
}

// PruneRequest says which images may go. Images that a container needs, or a name that somebody loaded or pushed, or a job
// of the cluster, always stay.
type PruneRequest struct {
	All      bool          `json:"all,omitempty"`      // images with a name, too
	Unused   time.Duration `json:"unused,omitempty"`   // only what was not used for so long
	Unpacked bool          `json:"unpacked,omitempty"` // unpacked layers that no container needs, too
	DryRun   bool          `json:"dryRun,omitempty"`
}

// PruneResult is what went, or would.
type PruneResult struct {
	Images []string `json:"images"` // names, or digests of those without
	Blobs  int      `json:"blobs"`
	Layers int      `json:"layers"` // unpacked
	Bytes  int64    `json:"bytes"`
}

// VerifyRequest says which images to read whole.
type VerifyRequest struct {
	Images []string `json:"images,omitempty"` // none: all of the node
	Repair bool     `json:"repair,omitempty"` // have again what is damaged
}

// VerifyResult is what was read, and what of it was damaged.
type VerifyResult struct {
	Images  int           `json:"images"`
	Blobs   int           `json:"blobs"`
	Layers  int           `json:"layers"` // unpacked
	Bytes   int64         `json:"bytes"`
	Damaged []ImageDamage `json:"damaged"`
}

// ImageDamage is one part of an image that is not what it was.
type ImageDamage struct {
	Image    string `json:"image,omitempty"` // a name, if it has one
	Manifest string `json:"manifest"`
	Part     string `json:"part"` // manifest, config, layer, unpacked layer
	Digest   string `json:"digest"`
	Reason   string `json:"reason"`
	Repaired bool   `json:"repaired"`
}

// DiskUsage is what shoal takes of one node's disk.
type DiskUsage struct {
	Node  string     `json:"node"`
	Parts []DiskPart `json:"parts"`
	Size  int64      `json:"size"` // of the file system, bytes
	Free  int64      `json:"free"`
}

// DiskPart is one kind of what is on disk. Sizes in bytes.
type DiskPart struct {
	Kind        string `json:"kind"` // "images", "unpacked layers", "containers", "volumes"
	Total       int    `json:"total"`
	Active      int    `json:"active"`
	Size        int64  `json:"size"`
	Reclaimable int64  `json:"reclaimable"`
}

// ImagesNeeded is what no node may forget, as the log says: images that somebody loaded or pushed, and those that versions
// of jobs are pinned to.
type ImagesNeeded struct {
	Names   []job.ImageName `json:"names"`
	Digests []string        `json:"digests"` // sorted
}

// ImageKeeper answers for one node's images; a Backend is one.
type ImageKeeper interface {
	// NodeAddr finds a node by name or id, or by a unique prefix of its id.
	NodeAddr(ctx context.Context, ref string) (addr string, self bool, err error)

	InspectImage(ctx context.Context, ref string) (ImageDetail, error)
	SaveImages(ctx context.Context, w io.Writer, refs []string) error
	TagImage(ctx context.Context, ref, name string) error
	PruneImages(ctx context.Context, r PruneRequest) (PruneResult, error)
	VerifyImages(ctx context.Context, r VerifyRequest) (VerifyResult, error)
	DiskUsage(ctx context.Context) (DiskUsage, error)
	ImagesNeeded(ctx context.Context) (ImagesNeeded, error)
}

// atNode answers on the node that the query names; without a name, here.
func (s *Server) atNode(route Route, w http.ResponseWriter, r *http.Request) {
	ref := r.URL.Query().Get("node")
	if ref == "" || r.Header.Get(headerForwarded) != "" {
		route.handle(s, w, r)
		return
	}
	addr, self, err := s.backend.NodeAddr(r.Context(), ref)
	switch {
	case err != nil:
		writeError(w, err)
	case self:
		route.handle(s, w, r)
	default:
		s.forward(addr, imagePatience, nil, w, r)
	}
}

// imagePatience is how long a node may take to begin its answer about images: a load answers when it is done.
const imagePatience = time.Hour

func (s *Server) inspectImage(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.InspectImage(r.Context(), r.URL.Query().Get("ref"))
	answer(w, v, err)
}

func (s *Server) saveImages(w http.ResponseWriter, r *http.Request) {
	out := &lateHeader{w: w}
	err := s.backend.SaveImages(r.Context(), out, r.URL.Query()["ref"])
	switch {
	case err == nil:
	case out.begun:
		panic(http.ErrAbortHandler) // the only way to tell the caller that what it has is not all
	default:
		writeError(w, err)
	}
}

// lateHeader says that an archive comes when its first byte does.
type lateHeader struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lateHeader) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-tar")
	}
	return l.w.Write(p)
}

func (s *Server) tagImage(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.TagImage(r.Context(), r.URL.Query().Get("ref"), r.URL.Query().Get("name")))
}

func (s *Server) pruneImages(w http.ResponseWriter, r *http.Request) {
	var req PruneRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.PruneImages(r.Context(), req)
	answer(w, v, err)
}

func (s *Server) verifyImages(w http.ResponseWriter, r *http.Request) {
	var req VerifyRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.VerifyImages(r.Context(), req)
	answer(w, v, err)
}

func (s *Server) diskUsage(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.DiskUsage(r.Context())
	answer(w, v, err)
}

func (s *Server) imagesNeeded(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.ImagesNeeded(r.Context())
	answer(w, v, err)
}

// OnNode is a client whose requests about images are answered by that node; "": by the asked one. It shares c's connections.
func (c *Client) OnNode(node string) *ImageClient { return &ImageClient{c, node} }

// ImageClient asks one node about its images.
type ImageClient struct {
	c    *Client
	node string
}

func (i *ImageClient) query(kv ...string) url.Values {
	q := url.Values{}
	if i.node != "" {
		q.Set("node", i.node)
	}
	for n := 0; n+1 < len(kv); n += 2 {
		q.Add(kv[n], kv[n+1])
	}
	return q
}

// List lists the node's images.
func (i *ImageClient) List(ctx context.Context) ([]Image, error) {
	return get[[]Image](ctx, i.c, "/v1/images", i.query())
}

// Inspect tells all about one image.
func (i *ImageClient) Inspect(ctx context.Context, ref string) (ImageDetail, error) {
	return get[ImageDetail](ctx, i.c, "/v1/images/inspect", i.query("ref", ref))
}

// Save streams images as one archive to w. What w has is of no use after an error.
func (i *ImageClient) Save(ctx context.Context, w io.Writer, refs ...string) error {
	q := i.query()
	for _, ref := range refs {
		q.Add("ref", ref)
	}
	resp, err := i.c.request(ctx, "GET", "/v1/images/save", q, nil, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return job.Errorf(job.Unavailable, "save images: the archive broke off: %w", err)
	}
	return nil
}

// Tag gives an image another name.
func (i *ImageClient) Tag(ctx context.Context, ref, name string) error {
	return i.c.do(ctx, "POST", "/v1/images/tag", i.query("ref", ref, "name", name), nil, nil, "")
}

// Prune deletes what nobody needs.
func (i *ImageClient) Prune(ctx context.Context, r PruneRequest) (PruneResult, error) {
	var v PruneResult
	err := i.c.do(ctx, "POST", "/v1/images/prune", i.query(), r, &v, "")
	return v, err
}

// Verify reads images of the node whole.
func (i *ImageClient) Verify(ctx context.Context, r VerifyRequest) (VerifyResult, error) {
	var v VerifyResult
	err := i.c.do(ctx, "POST", "/v1/images/verify", i.query(), r, &v, "")
	return v, err
}

// Remove removes a name or an image.
func (i *ImageClient) Remove(ctx context.Context, ref string) error {
	return i.c.do(ctx, "DELETE", "/v1/images", i.query("ref", ref), nil, nil, "")
}

// Pull brings an image to the node.
func (i *ImageClient) Pull(ctx context.Context, ref, platform string, progress func(PullProgress)) (Image, error) {
	q := i.query("ref", ref)
	if platform != "" {
		q.Set("platform", platform)
	}
	return i.c.pullImage(ctx, q, progress)
}

// DiskUsage tells what shoal takes of the node's disk.
func (i *ImageClient) DiskUsage(ctx context.Context) (DiskUsage, error) {
	return get[DiskUsage](ctx, i.c, "/v1/system/df", i.query())
}

// ImagesNeeded asks for what no node may forget.
func (c *Client) ImagesNeeded(ctx context.Context) (ImagesNeeded, error) {
	return get[ImagesNeeded](ctx, c, "/v1/imagesneeded", nil)
}
