package container

import (
	"context"

	"shoal/runtime"
)

type oomWatch struct{}

func (r *Runtime) watchOOM(c *container) {}

func (r *Runtime) Exec(ctx context.Context, id runtime.ID, e runtime.Exec) (int, error) {
	return 0, nil
}

func (r *Runtime) Logs(ctx context.Context, id runtime.ID, q runtime.LogQuery, line func(runtime.LogLine) error) error {
	return nil
}

func (r *Runtime) Stats(ctx context.Context, id runtime.ID) (runtime.Stats, error) {
	return runtime.Stats{}, nil
}
