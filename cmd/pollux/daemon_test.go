package main

import "testing"

func TestSiteURL(t *testing.T) {
	for gateway, want := range map[string]string{
		"":                      "",
		"http://127.0.0.1:8080": "http://bafyx.ipfs.localhost:8080/",
		"http://[::1]:1234":     "http://bafyx.ipfs.localhost:1234/",
	} {
		if got := siteURL(gateway, "bafyx"); got != want {
			t.Errorf("siteURL(%q) = %q, want %q", gateway, got, want)
		}
	}
}

func TestDialable(t *testing.T) {
	const (
		loopback = "/ip4/127.0.0.1/tcp/4001/p2p/x"
		local    = "/ip4/192.168.1.2/tcp/4001/p2p/x"
	)
	for _, tt := range []struct {
		addrs []string
		want  string
	}{
		{[]string{loopback, "/ip6/::1/tcp/4001/p2p/x", local}, local},
		{[]string{loopback}, loopback},
		{nil, "MULTIADDR"},
	} {
		if got := dialable(tt.addrs); got != tt.want {
			t.Errorf("dialable(%v) = %q, want %q", tt.addrs, got, tt.want)
		}
	}
}
