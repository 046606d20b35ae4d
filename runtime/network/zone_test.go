package network

import (
	"net/netip"
	"slices"
	"testing"
)

func TestZone(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.176.1.2"), netip.MustParseAddr("10.176.1.3"), netip.MustParseAddr("10.176.2.2")
	z := newZone(Records{Services: []Record{
		{Job: "shop", Name: "Web", Addrs: []netip.Addr{a, a, b}},
		{Job: "shop", Name: "web.1", Addrs: []netip.Addr{a}},
		{Job: "shop", Name: "front", Addrs: []netip.Addr{a}},
		{Job: "shop", Name: "front", Addrs: []netip.Addr{c}}, // two services share an alias
		{Job: "shop", Name: "down"},
		{Job: "shop", Name: "v6", Addrs: []netip.Addr{netip.MustParseAddr("fd00::1")}},
		{Job: "1", Name: "web", Addrs: []netip.Addr{c}},
		{Job: "blog", Name: "web", Addrs: []netip.Addr{c}},
	}})
	for _, tc := range []struct {
		scope, name string
		want        []netip.Addr
		known       bool
	}{
		{"shop", "web", []netip.Addr{a, b}, true},
		{"shop", "front", []netip.Addr{a, c}, true},
		{"shop", "down", nil, true},
		{"shop", "v6", nil, true},
		{"shop", "web.1", []netip.Addr{a}, true}, // the own job's task hides job 1's service
		{"blog", "web.1", []netip.Addr{c}, true},
		{"blog", "web.1.shop", []netip.Addr{a}, true},
		{"blog", "tasks.web.shop", []netip.Addr{a, b}, true},
		{"blog", "web", []netip.Addr{c}, true},
		{"blog", "front", nil, false},
		{"", "web", nil, false},
		{"", "web.shop", []netip.Addr{a, b}, true},
		{"shop", "tasks.nobody", nil, false},
		{"shop", "shop", nil, false},
		{"shop", ".shop", nil, false},
		{"shop", "web.", nil, false},
		{"shop", "", nil, false},
	} {
		got, known := z.lookup(tc.scope, tc.name)
		slices.SortFunc(got, netip.Addr.Compare)
		if known != tc.known || !slices.Equal(got, tc.want) {
			t.Errorf("lookup(%q, %q) = %v, %v; want %v, %v", tc.scope, tc.name, got, known, tc.want, tc.known)
		}
	}
	for name, want := range map[string]string{
		"2.1.176.10.in-addr.arpa": "front.shop", "3.1.176.10.in-addr.arpa": "web.shop", "9.1.176.10.in-addr.arpa": "",
		"x.in-addr.arpa": "", "in-addr.arpa": "", "web": "",
	} {
		addr, _ := reverseAddr(name)
		if got := z.reverse[addr]; got != want {
			t.Errorf("reverse of %q is %q, want %q", name, got, want)
		}
	}
}
