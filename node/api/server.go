package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"shoal/consensus/job"
)

// Limits of what a request may carry and cost.
const (
	maxJobBytes    = 4 << 20  // a submit
	maxSmallBytes  = 64 << 10 // everything small
	maxReportBytes = 16 << 20 // a node's whole set of statuses
	maxErrorBytes  = 64 << 10
	maxWait        = 60 * time.Second // a read that waits for a change
	deniedLinger   = time.Second      // how long a caller who may not may go on sending
)

// Headers of ours.
const (
	headerKey       = "Idempotency-Key"
	headerForwarded = "Shoal-Forwarded" // set when a node passes a request on: it is not passed on twice; from nodes alone
	headerAccess    = "Shoal-Access"    // the access of the original caller; from nodes alone
	headerStale     = "Shoal-Stale"     // of an answer: what Meta.Stale says, also where there is no Meta
)

// Server answers the protocol for one node.
type Server struct {
	backend Backend
	blobs   http.Handler
	log     *slog.Logger
	mux     *http.ServeMux

	sessions atomic.Int64
}

// NewServer makes a handler over backend. images answers /v2/, for nodes and readers only; it may be nil.
func NewServer(b Backend, images http.Handler, log *slog.Logger) *Server {
	s := &Server{backend: b, blobs: images, log: log, mux: http.NewServeMux()}
	for _, route := range Routes {
		s.mux.HandleFunc(route.Method+" "+route.Path, func(w http.ResponseWriter, r *http.Request) { s.serve(route, w, r) })
	}
	s.mux.HandleFunc("/v2/", s.distribution)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, job.Errorf(job.NotFound, "%s %s: no such route in this version of shoal", r.Method, r.URL.Path))
	})
	return s
}

type callerKey struct{}

// WithCaller says who makes the requests of a context. Whoever accepts connections (node) calls it; a request without
// a caller may reach only what Anyone may.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(r *http.Request) Caller {
	c, _ := r.Context().Value(callerKey{}).(Caller)
	if c.Node == "" {
		return c
	}
	// A node passes on what somebody asked it: the original caller's rights count, not the node's.
	if a, err := strconv.Atoi(r.Header.Get(headerAccess)); err == nil {
		c.Access = min(c.Access, Access(a))
	}
	return c
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, _ := r.Context().Value(callerKey{}).(Caller); c.Node == "" {
		r.Header.Del(headerForwarded)
		r.Header.Del(headerAccess)
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) serve(route Route, w http.ResponseWriter, r *http.Request) {
	c := callerOf(r)
	if c.Access < route.Access {
		if r.ContentLength != 0 { // net/http waits for the body, which may never come
			w.Header().Set("Connection", "close")
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(deniedLinger))
		}
		writeError(w, job.Errorf(job.Denied, "%s %s: you may not: it takes more rights than your connection has", r.Method, r.URL.Path))
		return
	}
	switch route.Where {
	case AtLeader:
		s.atLeader(route, w, r)
	case Fresh:
		s.fresh(route, w, r)
	case AtOwner:
		s.atOwner(route, w, r)
	case AtNode:
		s.atNode(route, w, r)
	default:
		route.handle(s, w, r)
	}
}

func (s *Server) distribution(w http.ResponseWriter, r *http.Request) {
	if s.blobs == nil || callerOf(r).Access < Reader {
		writeError(w, job.Errorf(job.Denied, "images of this node are for members of its cluster"))
		return
	}
	s.blobs.ServeHTTP(w, r)
}

// answer writes v, or the error if there is one.
func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller is gone if this fails
}

func done(w http.ResponseWriter, err error) { answer(w, struct{}{}, err) }

// stream writes newline-delimited JSON, each value flushed. An error after the first value cannot change the HTTP
// status any more, so streams carry their errors themselves.
type stream struct {
	w       http.ResponseWriter
	ctx     context.Context
	enc     *json.Encoder
	started bool
}

func newStream(w http.ResponseWriter, r *http.Request) *stream {
	return &stream{w: w, ctx: r.Context(), enc: json.NewEncoder(w)}
}

func (st *stream) start() {
	if !st.started {
		st.started = true
		st.w.Header().Set("Content-Type", "application/x-ndjson")
		st.w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(st.w).Flush()
	}
}

func (st *stream) send(v any) error {
	st.start()
	if err := st.enc.Encode(v); err != nil {
		return err
	}
	return http.NewResponseController(st.w).Flush()
}

// end reports err if nothing was sent yet, and gives it back otherwise. A stream that ends because this server stops
// breaks off: its reader must not take that for the end.
func (st *stream) end(err error) error {
	if st.ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	if err == nil {
		st.start()
		return nil
	}
	if st.started {
		return err
	}
	writeError(st.w, err)
	return nil
}
