package compose

import "testing"

func TestRebalanceIsForAServiceOrTheFile(t *testing.T) {
	for _, c := range []struct{ top, service, want string }{
		{"", "", "nil"}, {"x-rebalance: false\n", "", "false"}, {"", "\n    x-rebalance: false", "false"},
		{"x-rebalance: false\n", "\n    x-rebalance: true", "true"},
	} {
		spec, _, err := load(t, c.top+"services:\n  web:\n    image: busybox"+c.service+"\n")
		if err != nil {
			t.Fatal(err)
		}
		got := "nil"
		if b := spec.Services[0].Rebalance; b != nil {
			got = map[bool]string{true: "true", false: "false"}[*b]
		}
		if got != c.want {
			t.Errorf("%q and %q: %s, want %s", c.top, c.service, got, c.want)
		}
	}
	if _, _, err := load(t, "x-rebalance: sometimes\nservices:\n  web:\n    image: busybox\n"); err == nil {
		t.Error("a wrong value was taken")
	}
}
