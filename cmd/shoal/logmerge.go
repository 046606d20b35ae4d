package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"shoal/consensus/job"
	"shoal/node/api"
)

// maxStreams bounds how many tasks' logs are read at once: each is a connection.
const maxStreams = 200

// mergeLogs prints the logs of tasks as they are now, ordered by time.
func mergeLogs(ctx context.Context, cl *api.Client, tasks []api.Task, q api.LogQuery, p *logPrinter) error {
	if len(tasks) > maxStreams {
		return job.Errorf(job.Invalid, "logs: %d tasks are too many to merge, at most %d are; name a service or a task", len(tasks), maxStreams)
	}
	g, ctx := errgroup.WithContext(ctx)
	sources := make([]*source, len(tasks))
	for i := range tasks {
		src := &source{task: &tasks[i], records: make(chan api.LogRecord, 64)}
		sources[i] = src
		p.expect(fullName(src.task))
		g.Go(func() error {
			defer close(src.records)
			return src.read(ctx, cl, q, len(tasks) > 1)
		})
	}
	g.Go(func() error { return printInOrder(ctx, sources, p) })
	return g.Wait()
}

// source is one task's log on its way to the merge.
type source struct {
	task    *api.Task
	records chan api.LogRecord
	head    *api.LogRecord
}

// read streams the log. Among several tasks, one that has none (it has not begun, or is cleaned up) does not matter.
func (src *source) read(ctx context.Context, cl *api.Client, q api.LogQuery, several bool) error {
	err := cl.Logs(ctx, string(src.task.ID), q, func(r api.LogRecord) error {
		if err := r.Err(); err != nil {
			return fmt.Errorf("logs of %s: %w", fullName(src.task), err)
		}
		select {
		case src.records <- r:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if several && job.KindOf(err) == job.NotFound {
		return nil
	}
	return err
}

func (src *source) next(ctx context.Context) error {
	select {
	case r, ok := <-src.records:
		src.head = &r
		if !ok {
			src.head = nil
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// printInOrder prints the oldest head until all sources are at their end. A line that goes on in the next record is
// printed whole before another task has its turn.
func printInOrder(ctx context.Context, sources []*source, p *logPrinter) error {
	for _, src := range sources {
		if err := src.next(ctx); err != nil {
			return err
		}
	}
	for {
		var oldest *source
		for _, src := range sources {
			if src.head != nil && (oldest == nil || src.head.Time.Before(oldest.head.Time)) {
				oldest = src
			}
		}
		if oldest == nil {
			return nil
		}
		for partial := true; partial && oldest.head != nil; {
			partial = oldest.head.Partial
			if err := p.print(fullName(oldest.task), oldest.head); err != nil {
				return err
			}
			if err := oldest.next(ctx); err != nil {
				return err
			}
		}
	}
}
