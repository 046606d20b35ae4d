package main

import (
	"fmt"
	"io"
	"sync"
)

// answer is standard output. It keeps its first failure, so that a program whose answer is lost does not end as if it had
// been given: what a verb prints may be there only once, as a token's secret. It is safe for concurrent use.
type answer struct {
	to io.Writer

	mu  sync.Mutex
	err error
}

func (a *answer) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := a.to.Write(p)
	if err != nil && a.err == nil {
		a.err = err
	}
	return n, err
}

func (a *answer) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		return nil
	}
	return fmt.Errorf("the answer could not be written: %w", a.err)
}
