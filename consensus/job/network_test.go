package job

import (
	"slices"
	"strings"
	"testing"
)

func TestNetworkModeIsCheckedAgainstTheOtherService(t *testing.T) {
	for _, test := range []struct {
		name  string
		tweak func(vpn, app *Service)
		want  string // in the error; "" for none
	}{
		{"bridge", func(_, app *Service) { app.NetworkMode = "bridge" }, ""},
		{"none", func(_, app *Service) { app.NetworkMode = "none" }, ""},
		{"host", func(_, app *Service) { app.NetworkMode = "host" }, ""},
		{"joined", func(_, app *Service) {}, ""},
		{"fewer", func(_, app *Service) { app.Replicas = 1 }, ""},
		{"more", func(_, app *Service) { app.Replicas = 3 }, "which has 2"},
		{"unknown", func(_, app *Service) { app.NetworkMode = "container:x" }, "use bridge, none, host"},
		{"absent", func(_, app *Service) { app.NetworkMode = "service:nobody" }, `"nobody" is not in the job`},
		{"itself", func(_, app *Service) { app.NetworkMode = "service:app" }, "cannot join itself"},
		{"chain", func(vpn, _ *Service) { vpn.NetworkMode = "service:app" }, "itself joins"},
		{"mode", func(vpn, _ *Service) { vpn.Mode = Global }, "the same mode"},
		{"ports", func(_, app *Service) { app.Ports = []Port{{Target: 80}} }, "move them to service vpn"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &Spec{Name: "j", Services: []Service{
				{Name: "app", Image: "a", Replicas: 2, NetworkMode: "service:vpn"}, {Name: "vpn", Image: "a", Replicas: 2},
			}}
			test.tweak(&s.Services[1], &s.Services[0])
			s.Normalize()
			err := s.Validate()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestTogetherNamesWhatIsJoined(t *testing.T) {
	s := Service{NetworkMode: "service:vpn"}
	if got := s.Together(); !slices.Equal(got, []string{"vpn"}) || s.JoinsNetwork() != "vpn" {
		t.Fatalf("got %v", got)
	}
	if s = (Service{NetworkMode: "host"}); s.Together() != nil || s.JoinsNetwork() != "" {
		t.Fatal("the host's network is nobody's")
	}
}
