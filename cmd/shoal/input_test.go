package main

import (
	"io"
	"testing"
)

// What a session that is over was waiting for, or could not write any more, belongs to the next.
func TestInputGoesToTheSessionThatIsOpen(t *testing.T) {
	r, w := io.Pipe()
	in := newInput(r)
	read := func(s *sessionInput) (string, error) {
		buf := make([]byte, 4)
		n, err := s.Read(buf)
		return string(buf[:n]), err
	}
	first, ended := in.session(), make(chan error)
	go func() {
		_, err := read(first)
		ended <- err
	}()
	first.end()
	if err := <-ended; err == nil || err == io.EOF {
		t.Errorf("a session that is over reads %v", err)
	}
	go func() {
		_, _ = w.Write([]byte("one two "))
		_ = w.Close()
	}()
	if _, err := read(first); err == nil {
		t.Error("it reads on")
	}
	second := in.session()
	for _, want := range []string{"one ", "two "} {
		if got, err := read(second); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	second.end() // before the last piece was written
	third := in.session()
	if got, err := read(third); got != "two " || err != nil {
		t.Errorf("%q, %v, want what was not written", got, err)
	}
	if got, err := read(third); got != "" || err != io.EOF {
		t.Errorf("%q, %v, want the end", got, err)
	}
}
