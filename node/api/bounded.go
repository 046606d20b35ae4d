package api

import (
	"fmt"
	"io"
)

// maxAnswerBytes bounds one JSON value of an answer, so that no server fills a client's memory: the state of a large
// cluster takes a tenth of it.
const maxAnswerBytes = 256 << 20

// bounded reads the JSON of an answer.
type bounded struct {
	r          io.Reader
	left, most int64
}

func (c *Client) bounded(r io.Reader) *bounded { return &bounded{r, c.most, c.most} }

// next begins a new value.
func (b *bounded) next() { b.left = b.most }

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("it is larger than %d MiB", b.most>>20)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
