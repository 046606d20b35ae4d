package main

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPortForwardEndsWhenALaterPortCannotBe(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	socket := logCluster().serve(t)
	for word, want := range map[string]int{"bad": exitUsage, port + ":80": exitFailed} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if code, _, errs := shoal(t, socket, "port-forward web/front.1 0:80 "+word); code != want || !strings.Contains(errs, word) {
				t.Errorf("%s: code %d, %q, want %d", word, code, errs, want)
			}
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it hangs", word)
		}
	}
}
