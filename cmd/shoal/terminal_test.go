package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestDetachKeysAreDockersWords(t *testing.T) {
	for text, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-a,d": "\x01d", "ctrl-@": "\x00", "ctrl-[": "\x1b", "ctrl-_": "\x1f", "none": "", "": "",
	} {
		if got, err := parseKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-ab", "ab", "a,,b", "ctrl-1"} {
		if _, err := parseKeys(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestWhatIsNotTheDetachKeysComesThrough(t *testing.T) {
	over := make(chan struct{})
	close(over)
	for in, want := range map[string]struct {
		out  string
		left bool
	}{
		"plain": {"plain", false}, "a\x10b": {"a\x10b", false}, "a\x10\x10b": {"a\x10\x10b", false}, "end\x10": {"end\x10", false},
		"x\x10\x10\x11y": {"x\x10", true}, "\x10\x11": {"", true},
	} {
		for _, slow := range []bool{false, true} {
			left := false
			var from io.Reader = strings.NewReader(in)
			if slow {
				from = iotest.OneByteReader(from)
			}
			k := &keyWatch{from: from, keys: []byte{0x10, 0x11}, left: func() { left = true }, over: over}
			var out bytes.Buffer
			_, _ = io.Copy(&out, k)
			if left != want.left || slow && out.String() != want.out || !left && out.String() != want.out {
				t.Errorf("%q, slow %v: %q, left %v", in, slow, out.String(), left)
			}
		}
	}
}

// The table of docker cp's documentation.
func TestWhereACopyLands(t *testing.T) {
	is := func(name string) (kind, error) {
		switch strings.TrimRight(name, "/") {
		case "", "/dir", ".":
			return isDirectory, nil
		case "/file":
			return isFile, nil
		}
		return absent, nil
	}
	for _, c := range []struct {
		dest, base     string
		isDir, content bool
		want           string // directory and name; "": refused
	}{
		{"/dir", "f", false, false, "/dir f"}, {"/dir/", "f", false, false, "/dir/ f"}, {"/dir/new", "f", false, false, "/dir/ new"},
		{"/dir/new/", "f", false, false, ""}, {"/none/new", "f", false, false, ""}, {"/file", "f", false, false, "/ file"},
		{"/dir", "d", true, false, "/dir d"}, {"/dir", "d", true, true, "/dir ."}, {"/dir/new", "d", true, false, "/dir/ new"},
		{"/dir/new/", "d", true, true, "/dir/ new"}, {"/file", "d", true, false, ""}, {"new", "f", false, false, ". new"},
	} {
		dir, name, err := landing(c.dest, c.base, c.isDir, c.content, is)
		if got := dir + " " + name; (err != nil) != (c.want == "") || err == nil && got != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}
