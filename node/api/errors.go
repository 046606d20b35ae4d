package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"shoal/consensus/job"
)

// Error is how an error travels.
type Error struct {
	Kind    job.Kind `json:"kind"`
	Message string   `json:"message"`
}

// httpStatus maps kinds to HTTP statuses; cmd/shoal has the table of exit codes.
var httpStatus = map[job.Kind]int{
	job.NotFound:    http.StatusNotFound,
	job.Conflict:    http.StatusConflict,
	job.Invalid:     http.StatusBadRequest,
	job.Denied:      http.StatusForbidden,
	job.Unavailable: http.StatusServiceUnavailable,
	job.Internal:    http.StatusInternalServerError,
}

// toWire gives every error a kind of ours: one that a newer node made up would have no status here.
func toWire(err error) *Error {
	e := &Error{Kind: job.KindOf(err), Message: err.Error()}
	if httpStatus[e.Kind] == 0 {
		e.Kind = job.Internal
	}
	return e
}

func (e *Error) err() error { return &job.Error{Kind: e.Kind, Message: e.Message} }

func writeError(w http.ResponseWriter, err error) {
	e := toWire(err)
	if _, doubtful := w.(unconfirmed); doubtful && e.Kind == job.NotFound {
		e.Kind = job.Unavailable
		e.Message = "no leader confirms what is known here, which is: " + e.Message
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus[e.Kind])
	_ = json.NewEncoder(w).Encode(e) // the caller is gone if this fails
}

// readError makes the error that an answer other than 2xx carries.
func readError(resp *http.Response) error {
	var e Error
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxErrorBytes)).Decode(&e); err != nil || e.Message == "" {
		return job.Errorf(kindOfStatus(resp.StatusCode), "%s %s: the node answered %s without an explanation", resp.Request.Method, resp.Request.URL.Path, resp.Status)
	}
	if httpStatus[e.Kind] == 0 {
		e.Kind = kindOfStatus(resp.StatusCode)
	}
	return e.err()
}

func kindOfStatus(status int) job.Kind {
	for k, s := range httpStatus {
		if s == status {
			return k
		}
	}
	if status == http.StatusBadGateway || status == http.StatusGatewayTimeout {
		return job.Unavailable
	}
	return job.Internal
}

// byPerson tells whether people wrote the body, though nodes may have passed it on. A machine that joins has no
// certificate yet, but is none of them.
func byPerson(r *http.Request) bool {
	return r.Pattern != "POST /v1/join" && (callerOf(r).Node == "" || r.Header.Get(headerForwarded) != "")
}

// decode reads a JSON body of at most limit bytes into v. People's typos are refused; nodes may be of a newer version
// and say more than this one understands.
func decode(r *http.Request, limit int64, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, limit))
	if byPerson(r) {
		d.DisallowUnknownFields()
	}
	err := d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("there is more after its end")
	}
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return job.Errorf(job.Invalid, "%s %s: the body is larger than %d bytes", r.Method, r.URL.Path, limit)
		}
		return &job.Error{Kind: job.Invalid, Message: fmt.Sprintf("%s %s: the body is not what this route takes: %v", r.Method, r.URL.Path, err)}
	}
	return nil
}
