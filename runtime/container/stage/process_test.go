package stage

import (
	"errors"
	"slices"
	"testing"

	"shoal/runtime"
)

func TestCommandCombinesAsDockerDoes(t *testing.T) {
	img := ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"default"}}
	for _, c := range []struct {
		entry, cmd []string
		img        ImageConfig
		want       []string
	}{
		{nil, nil, img, []string{"/entry", "default"}},
		{nil, []string{"mine"}, img, []string{"/entry", "mine"}},
		{[]string{"/other"}, nil, img, []string{"/other"}}, // the image's command belongs to the image's entrypoint
		{[]string{"/other"}, []string{"x"}, img, []string{"/other", "x"}},
		{[]string{}, []string{"x"}, img, []string{"x"}}, // empty, not nil: the image's is taken away
		{nil, nil, ImageConfig{}, nil},
		{nil, []string{""}, ImageConfig{}, nil},
	} {
		got, err := Command(runtime.Spec{Entrypoint: c.entry, Command: c.cmd}, c.img)
		if !slices.Equal(got, c.want) || (c.want == nil) != errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("entrypoint %q, command %q: %q, %v, want %q", c.entry, c.cmd, got, err, c.want)
		}
	}
}

func TestEnvironLaterWins(t *testing.T) {
	got := Environ([]string{"A=1", "B=2"}, []string{"B=3", "C="}, []string{"A=4=5"})
	if want := []string{"A=4=5", "B=3", "C="}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
