package image

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// silent is a registry that falls silent when it is asked for a path, before or amid its answer.
type silent struct {
	path string
	amid bool
	host string // "": every host
}

func (s silent) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}
	switch {
	case s.host != "" && r.URL.Host != s.host:
		resp.StatusCode = http.StatusNotFound
	case !strings.Contains(r.URL.Path, s.path):
	case s.amid:
		resp.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
			<-r.Context().Done()
			return 0, r.Context().Err()
		}))
	default:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return resp, nil
}

func TestARegistryThatFallsSilentIsGivenUp(t *testing.T) {
	for name, reg := range map[string]silent{
		"at once":         {path: "/v2/"},
		"at the manifest": {path: "/manifests/"},
		"amid it":         {path: "/manifests/", amid: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				begun := time.Now()
				_, err := s.Pull(ctx, mustName(t, "registry.example/x:1"), PullOptions{Transport: reg})
				if took := time.Since(begun); !errors.Is(err, ErrUnavailable) || took != manifestLimit {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

// A mirror that falls silent takes no time from the registry behind it.
func TestASilentMirrorIsPassedOver(t *testing.T) {
	regs := &Registries{}
	if err := regs.AddMirror("registry.example=https://mirror.example"); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Dir: t.TempDir(), Registries: regs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	synctest.Test(t, func(t *testing.T) {
		reg := silent{path: "/manifests/", host: "mirror.example"}
		_, err := s.Pull(t.Context(), mustName(t, "registry.example/x:1"), PullOptions{Transport: reg})
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "mirror.example gave no manifest within") {
			t.Errorf("%v, want what the registry says, and the mirror's silence beside it", err)
		}
	})
}

func TestNoTransportWaitsForEverForAnAnswer(t *testing.T) {
	regs := &Registries{Hosts: map[string]RegistryHost{"odd.example": {Insecure: true}}}
	for _, host := range []string{"docker.io", "odd.example"} {
		rt, err := regs.transport(host)
		if err != nil {
			t.Fatal(err)
		}
		if d := rt.(*http.Transport).ResponseHeaderTimeout; d == 0 || d > blobStall {
			t.Errorf("%s: %v", host, d)
		}
	}
}
