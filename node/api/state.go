package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"shoal/consensus/job"
)

// StateHash tells what a log-holder's copy of the state is, so that copies can be compared: at equal indexes they have
// equal hashes.
type StateHash struct {
	Node  job.NodeID `json:"node"`
	Index uint64     `json:"index"` // of the last command in it
	Hash  string     `json:"hash"`  // SHA-256, in hex
	// Tables are the hashes of its tables, by name.
	Tables map[string]string `json:"tables"`
}

// maxStateWait bounds how long a StateHash waits for its index.
const maxStateWait = 10 * time.Second

func (s *Server) stateHash(w http.ResponseWriter, r *http.Request) {
	var index uint64
	var err error
	if text := r.URL.Query().Get("index"); text != "" {
		if index, err = strconv.ParseUint(text, 10, 64); err != nil {
			writeError(w, job.Errorf(job.Invalid, "state at index %.40q: it is no number", text))
			return
		}
	}
	wait, err := duration(r.URL.Query().Get("wait"))
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := s.backend.StateHash(r.Context(), index, min(wait, maxStateWait))
	answer(w, v, err)
}

// StateHash asks a log-holder for the hash of its state at an index, 0: the present one. It waits for a coming index for a
// while; then the answer is of the present state, as its Index says. Conflict: the index has passed already.
func (c *Client) StateHash(ctx context.Context, index uint64, wait time.Duration) (StateHash, error) {
	return get[StateHash](ctx, c, "/v1/debug/state", url.Values{"index": {strconv.FormatUint(index, 10)}, "wait": {wait.String()}})
}

// JobLocal tells a job as the asked node itself knows it, without asking the leader: the answer is marked stale. A node that
// holds no log asks one that does.
func (c *Client) JobLocal(ctx context.Context, name string) (JobDetail, error) {
	return get[JobDetail](ctx, c, "/v1/jobs/"+url.PathEscape(name), url.Values{queryLocal: {"1"}})
}

// queryLocal asks for what the asked node itself knows, on routes that are Fresh.
const queryLocal = "local"
