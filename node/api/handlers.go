package api

import (
	"net/http"
	"strconv"
	"time"

	"shoal/consensus/job"
)

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Status(r.Context())
	answer(w, v, err)
}

func (s *Server) jobs(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Jobs(r.Context())
	v.Stale = stale(r)
	answer(w, v, err)
}

func (s *Server) job(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Job(r.Context(), r.PathValue("job"), r.URL.Query().Get("versions") != "")
	v.Stale = stale(r)
	answer(w, v, err)
}

func (s *Server) submit(w http.ResponseWriter, r *http.Request) {
	var req SubmitRequest
	if err := decode(r, maxJobBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	if req.Spec.Name != r.PathValue("job") {
		writeError(w, job.Errorf(job.Invalid, "submit: the path names job %q and the spec %q", r.PathValue("job"), req.Spec.Name))
		return
	}
	key, err := keyOf(r)
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Submit(r.Context(), key, req)
	answer(w, v, err)
}

// keyOf wants an idempotency key, because a change whose answer is lost may have happened.
func keyOf(r *http.Request) (string, error) {
	key := r.Header.Get(headerKey)
	if key == "" || len(key) > 128 {
		return "", job.Errorf(job.Invalid, "%s %s: the header %s must carry 1 to 128 characters that are new for each change", r.Method, r.URL.Path, headerKey)
	}
	return key, nil
}

func (s *Server) scale(w http.ResponseWriter, r *http.Request) {
	var req ScaleRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	key, err := keyOf(r)
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Scale(r.Context(), key, r.PathValue("job"), req)
	answer(w, v, err)
}

func (s *Server) stopJob(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.StopJob(r.Context(), r.PathValue("job")))
}

func (s *Server) startJob(w http.ResponseWriter, r *http.Request) {
	key, err := keyOf(r)
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.StartJob(r.Context(), key, r.PathValue("job"))
	answer(w, v, err)
}

func (s *Server) removeJob(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.RemoveJob(r.Context(), r.PathValue("job")))
}

func (s *Server) tasks(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	tq := TaskQuery{Job: q.Get("job"), Service: q.Get("service"), Node: job.NodeID(q.Get("node")), All: q.Get("all") != ""}
	var err error
	if tq.After, err = number(q.Get("after")); err == nil {
		tq.Wait, err = duration(q.Get("wait"))
	}
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.Tasks(r.Context(), tq)
	v.Stale = stale(r)
	answer(w, v, err)
}

func number(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, job.Errorf(job.Invalid, "%q is not a raft index", s)
	}
	return n, nil
}

func duration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, job.Errorf(job.Invalid, "%q is not a duration such as 10s", s)
	}
	return min(d, maxWait), nil
}

func (s *Server) task(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Task(r.Context(), r.PathValue("task"))
	answer(w, v, err)
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Why(r.Context(), r.PathValue("task"))
	v.Stale = stale(r)
	answer(w, v, err)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	lq := LogQuery{Follow: q.Get("follow") != ""}
	if t := q.Get("tail"); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil {
			writeError(w, job.Errorf(job.Invalid, "tail: %q is not a number of lines", t))
			return
		}
		lq.Tail = n
	}
	if t := q.Get("since"); t != "" {
		at, err := time.Parse(time.RFC3339Nano, t)
		if err != nil {
			writeError(w, job.Errorf(job.Invalid, "since: %q is not a time such as 2006-01-02T15:04:05Z", t))
			return
		}
		lq.Since = at
	}
	st := newStream(w, r)
	if lq.Follow {
		st.start()
	}
	err := s.backend.Logs(r.Context(), r.PathValue("task"), lq, func(l LogRecord) error { return st.send(l) })
	if err := st.end(err); err != nil {
		e := toWire(err)
		_ = st.send(LogRecord{Error: e.Message, Kind: e.Kind})
	}
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Stats(r.Context(), r.PathValue("task"))
	answer(w, v, err)
}

func (s *Server) nodes(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Nodes(r.Context())
	v.Stale = stale(r)
	answer(w, v, err)
}

func (s *Server) labels(w http.ResponseWriter, r *http.Request) {
	var req LabelsRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	done(w, s.backend.SetLabels(r.Context(), r.PathValue("node"), req))
}

func (s *Server) removeNode(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.RemoveNode(r.Context(), r.PathValue("node"), r.URL.Query().Get("force") != ""))
}

func (s *Server) members(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Members(r.Context())
	answer(w, v, err)
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	after, err := number(q.Get("after"))
	if err != nil {
		writeError(w, err)
		return
	}
	eq := EventQuery{Job: q.Get("job"), Task: job.TaskID(q.Get("task")), After: after, Follow: q.Get("follow") != ""}
	st := newStream(w, r)
	if eq.Follow {
		st.start()
	}
	err = s.backend.Events(r.Context(), eq, func(e job.Event) error { return st.send(e) })
	_ = st.end(err) // a broken stream: the client asks again from the last index
}

func (s *Server) tokens(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Tokens(r.Context())
	answer(w, v, err)
}

func (s *Server) createToken(w http.ResponseWriter, r *http.Request) {
	var req TokenRequest
	if err := decode(r, maxSmallBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.CreateToken(r.Context(), req)
	answer(w, v, err)
}

func (s *Server) removeToken(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.RemoveToken(r.Context(), r.PathValue("token")))
}

func (s *Server) images(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Images(r.Context())
	answer(w, v, err)
}

func (s *Server) loadImage(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.LoadImage(r.Context(), r.Body)
	answer(w, v, err)
}

func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) {
	st := newStream(w, r)
	q := r.URL.Query()
	v, err := s.backend.PullImage(r.Context(), q.Get("ref"), q.Get("platform"), func(p PullProgress) {
		_ = st.send(p) // a caller that is gone ends ctx
	})
	if err == nil {
		err = st.send(PullProgress{Image: &v})
	}
	if err := st.end(err); err != nil {
		_ = st.send(PullProgress{Error: toWire(err)})
	}
}

func (s *Server) removeImage(w http.ResponseWriter, r *http.Request) {
	done(w, s.backend.RemoveImage(r.Context(), r.URL.Query().Get("ref")))
}

func (s *Server) debug(w http.ResponseWriter, r *http.Request) {
	v, err := s.backend.Debug(r.Context())
	answer(w, v, err)
}
