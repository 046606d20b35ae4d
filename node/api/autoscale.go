package api

import (
	"context"
	"net/http"
	"time"

	"shoal/consensus/job"
)

// Bounds of asking for figures.
const (
	MaxSampled = 5_000 // tasks in one request
)

// SampleRequest asks a node for live figures of tasks that it runs, at most MaxSampled.
type SampleRequest struct {
	Tasks []SampleTask `json:"tasks"`
}

// SampleTask is a task and the metrics to ask it for.
type SampleTask struct {
	Task    job.TaskID   `json:"task"`
	Metrics []job.Metric `json:"metrics,omitempty"`
}

// SampleResult has the figures of the tasks that could give some, in no order.
type SampleResult struct {
	Samples []Sample `json:"samples"`
}

// Sample is one task's figures at a time.
type Sample struct {
	Task        job.TaskID    `json:"task"`
	Up          time.Duration `json:"up"`  // a clock of the node, of which only differences count, at the same moment as CPU
	CPU         time.Duration `json:"cpu"` // total used
	MemoryBytes int64         `json:"memoryBytes"`
	Metrics     []*float64    `json:"metrics,omitempty"` // as asked; nil: unknown
	// MetricsError says why metrics are unknown.
	MetricsError string `json:"metricsError,omitempty"`
}

func (s *Server) sample(w http.ResponseWriter, r *http.Request) {
	var req SampleRequest
	if err := decode(r, maxReportBytes, &req); err != nil {
		writeError(w, err)
		return
	}
	if len(req.Tasks) > MaxSampled {
		writeError(w, job.Errorf(job.Invalid, "sample %d tasks: at most %d at a time", len(req.Tasks), MaxSampled))
		return
	}
	v, err := s.backend.Sample(r.Context(), req)
	answer(w, v, err)
}

// Sample asks a node for live figures of its tasks.
func (c *Client) Sample(ctx context.Context, r SampleRequest) (SampleResult, error) {
	var v SampleResult
	err := c.do(ctx, "POST", "/v1/sample", nil, r, &v, "")
	return v, err
}
