package api

import (
	"net/http"

	"shoal/consensus/job"
)

func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	var req JoinRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Join(r.Context(), req)
	answer(w, v, err)
}

func (s *Server) membership(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Membership(r.Context(), job.NodeID(r.URL.Query().Get("node")))
	answer(w, v, err)
}

func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	var req RenewRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Renew(r.Context(), callerOf(r), req)
	answer(w, v, err)
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	var req RegisterRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	done(w, s.backend.Register(r.Context(), callerOf(r), req))
}

func (s *Server) nameImages(w http.ResponseWriter, r *http.Request) {
	var req ImageNamesRequest
	if err := decode(r, maxJobBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	done(w, s.backend.NameImages(r.Context(), req))
}

func (s *Server) unnameImage(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.UnnameImage(r.Context(), r.URL.Query().Get("name")))
}

func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	var req ReportRequest
	if err := decode(r, maxReportBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	done(w, s.backend.Report(r.Context(), callerOf(r), req))
}

func (s *Server) feed(w http.ResponseWriter, r *http.Request) {
	node := job.NodeID(r.URL.Query().Get("node"))
	if c := callerOf(r); c.Node != node {
		writeError(w, job.Errorf(job.Denied, "feed: node %s may not read what is meant for node %s", c.Node, node))
		return
	}
	st := newStream(w, r)
	err := s.backend.Feed(r.Context(), node, func(f FeedFrame) error { return st.send(f) })
	_ = st.end(err) // a feed that breaks is resumed elsewhere
}

func (s *Server) probe(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Probe(r.Context(), r.URL.Query().Get("addr"))
	answer(w, v, err)
}
