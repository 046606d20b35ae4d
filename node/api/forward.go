package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"

	"shoal/consensus/job"
)

// leaderPatience is how long a request waits for an election to end before it fails: longer than an election takes,
// shorter than the five seconds within which a write without quorum must have failed.
const leaderPatience = 4 * time.Second

// atLeader answers here if this node leads, and passes the request on otherwise. It waits through an election.
func (s *Server) atLeader(route Route, w http.ResponseWriter, r *http.Request) {
	addr, self, err := s.awaitLeader(r.Context())
	switch {
	case err != nil:
		writeError(w, err)
	case self:
		route.handle(s, w, r)
	case r.Header.Get(headerForwarded) != "" || route.Access == NodeOnly: // a node speaks for itself, never through another
		writeError(w, job.Errorf(job.Unavailable, "the leader is at %s, not here; try again there", addr))
	default:
		s.forwardToLeader(addr, w, r)
	}
}

// leaderCheck is how often one who waits for a leader's answer looks whether it still leads.
const leaderCheck = 250 * time.Millisecond

// Deposed waits until gone says of the leader that is asked that it leads no more, twice in a row, so that an answer under way may
// still come; false when ctx ends before.
func Deposed(ctx context.Context, gone func() bool) bool {
	for missed := 0; missed < 2; missed++ {
		select {
		case <-time.After(leaderCheck):
		case <-ctx.Done():
			return false
		}
		if !gone() {
			missed = -1
		}
	}
	return true
}

// forwardToLeader passes a change on, and gives up when that node leads no more without having begun to answer: a machine
// that lost its power leaves its connections open.
func (s *Server) forwardToLeader(addr string, w http.ResponseWriter, r *http.Request) {
	over, cancel := context.WithCancel(r.Context())
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	deposed := make(chan struct{})
	watch.Go(func() {
		if Deposed(over, func() bool { now, _, _, ok := s.backend.Leader(); return !ok || now != addr }) {
			close(deposed)
		}
	})
	s.forwardUntil(deposed, addr, answerPatience, nil, w, r)
}

func (s *Server) awaitLeader(ctx context.Context) (addr string, self bool, err error) {
	deadline := time.NewTimer(leaderPatience)
	defer deadline.Stop()
	for {
		if addr, _, self, ok := s.backend.Leader(); ok {
			return addr, self, nil
		}
		select {
		case <-deadline.C:
			return "", false, job.Errorf(job.Unavailable, "no leader: the nodes that hold the log cannot reach a majority of each other; `shoal node ls` shows which are down")
		case <-ctx.Done():
			return "", false, job.Errorf(job.Unavailable, "%w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fresh answers from the leader's confirmed state, or else from what a node that holds the log last knew, marked stale.
func (s *Server) fresh(route Route, w http.ResponseWriter, r *http.Request) {
	b := s.backend
	addr, _, self, ok := b.Leader()
	forwarded := r.Header.Get(headerForwarded) != ""
	lastKnown := func() { // a reader is better served by what was known than by nothing
		switch {
		case b.HasState():
			route.handle(s, confirming(w, r), markStale(w, r))
		case !forwarded && b.Holder() != "":
			s.forward(b.Holder(), answerPatience, nil, w, r)
		default:
			writeError(w, job.Errorf(job.Unavailable, "no node that holds the log can be reached from here"))
		}
	}
	switch {
	case faultLocalRead && b.HasState():
		route.handle(s, w, r)
	case r.URL.Query().Get(queryLocal) != "":
		lastKnown()
	case ok && self:
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		err := b.Confirm(ctx)
		cancel()
		if err != nil {
			w, r = confirming(w, r), markStale(w, r)
		}
		route.handle(s, w, r)
	case ok && !forwarded && s.reachable(r.Context(), addr):
		wait, _ := duration(r.URL.Query().Get("wait")) // a wrong one is refused where it is read
		s.forward(addr, readPatience+wait, lastKnown, w, r)
	default:
		lastKnown()
	}
}

// How long a node to which a request was passed on may take to begin its answer. A machine that was paused, or cut off a
// moment ago, still takes connections.
const (
	readPatience   = 3 * time.Second
	answerPatience = 30 * time.Second
)

type staleKey struct{}

// markStale notes that the answer to a read is what this node last knew, and says so in its head, which every answer has.
func markStale(w http.ResponseWriter, r *http.Request) *http.Request {
	w.Header().Set(headerStale, "1")
	return r.WithContext(context.WithValue(r.Context(), staleKey{}, true))
}

// unconfirmed is the way to a reader who wants what is so and gets what this node last knew. There is no mark on an error,
// and that a thing is not known here does not mean that there is none: writeError says so.
type unconfirmed struct{ http.ResponseWriter }

func (u unconfirmed) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// confirming gives the way to a reader whose answer no leader confirms: those who asked for this node's own knowledge want it.
func confirming(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if r.URL.Query().Get(queryLocal) != "" {
		return w
	}
	return unconfirmed{w}
}

func stale(r *http.Request) bool { return r.Context().Value(staleKey{}) != nil }

// reachable saves a reader from hanging on a leader that was just lost.
func (s *Server) reachable(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	p, err := s.backend.Probe(ctx, addr)
	return err == nil && p.OK
}

func (s *Server) atOwner(route Route, w http.ResponseWriter, r *http.Request) {
	addr, id, self, err := s.backend.Owner(r.Context(), r.PathValue("task"))
	switch {
	case err != nil:
		writeError(w, err)
	case self:
		route.handle(s, w, r)
	case r.Header.Get(headerForwarded) != "":
		writeError(w, job.Errorf(job.Unavailable, "task %s moved to node %s while the request was on its way; try again", r.PathValue("task"), id))
	default:
		s.forward(addr, answerPatience, nil, w, r)
	}
}

// forward passes the request on to another node, with this node's certificate and the caller's rights. When that node
// cannot be reached or does not begin to answer within patience, instead answers; nil: the caller is told.
func (s *Server) forward(addr string, patience time.Duration, instead func(), w http.ResponseWriter, r *http.Request) {
	s.forwardUntil(nil, addr, patience, instead, w, r)
}

// forwardUntil is forward that gives up early when deposed is closed.
func (s *Server) forwardUntil(deposed <-chan struct{}, addr string, patience time.Duration, instead func(), w http.ResponseWriter, r *http.Request) {
	c := callerOf(r)
	const unknown = "what was asked of it may have been done or not"
	ctx, cancel := context.WithCancelCause(r.Context())
	begun := make(chan struct{})
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel(nil)
	wait.Go(func() {
		late := time.NewTimer(patience)
		defer late.Stop()
		select {
		case <-begun:
		case <-ctx.Done():
		case <-late.C:
			cancel(job.Errorf(job.Unavailable, "node %s did not answer within %v; %s", addr, patience, unknown))
		case <-deposed:
			cancel(job.Errorf(job.Unavailable, "node %s does not lead any more and did not answer; %s", addr, unknown))
		}
	})
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "https", Host: addr})
			p.Out.Header.Set(headerForwarded, "1")
			p.Out.Header.Set(headerAccess, strconv.Itoa(int(c.Access)))
		},
		Transport:      s.backend.Transport(),
		FlushInterval:  -1, // streams
		ModifyResponse: func(*http.Response) error { close(begun); return nil },
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			switch cause := context.Cause(ctx); {
			case r.Context().Err() != nil: // the caller is gone, or this node ends: to say nothing would be to say 200
				writeError(w, job.Errorf(job.Unavailable, "this node ends before node %s has answered; %s", addr, unknown))
			case instead != nil:
				instead()
			case cause != nil:
				writeError(w, cause)
			default:
				writeError(w, job.Errorf(job.Unavailable, "node %s cannot be reached: %w", addr, err))
			}
		},
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
}
