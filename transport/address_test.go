package transport

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
)

const anyPeer = "12D3KooWGqnRh1sHTDFCCMqPpYDKcJo4pYyVwaCUgJnJS2nKmBhQ"

func TestPublicAddresses(t *testing.T) {
	for addr, public := range map[string]bool{
		"/ip4/1.1.1.1/tcp/4001":                   true,
		"/ip4/104.131.131.82/udp/4001/quic-v1":    true,
		"/ip4/100.63.255.255/tcp/1":               true,
		"/ip4/172.32.0.1/tcp/1":                   true,
		"/ip6/2606:4700::1111/tcp/443":            true,
		"/ip6/64:ff9b::101:101/tcp/1":             true, // NAT64 of 1.1.1.1
		"/ip4/127.0.0.1/tcp/4001":                 false,
		"/ip4/127.255.255.254/tcp/4001":           false,
		"/ip4/10.0.0.1/tcp/4001":                  false,
		"/ip4/172.16.0.1/tcp/4001":                false,
		"/ip4/172.31.255.255/tcp/4001":            false,
		"/ip4/192.168.1.1/tcp/80":                 false,
		"/ip4/169.254.169.254/tcp/80":             false,
		"/ip4/100.64.0.1/tcp/1":                   false,
		"/ip4/0.0.0.0/tcp/1":                      false,
		"/ip4/192.0.2.2/tcp/1":                    false,
		"/ip4/198.18.0.1/tcp/1":                   false,
		"/ip4/224.0.0.251/udp/5353/quic-v1":       false,
		"/ip4/255.255.255.255/udp/1/quic-v1":      false,
		"/ip6/::1/tcp/1":                          false,
		"/ip6/::/tcp/1":                           false,
		"/ip6/fc00::1/tcp/1":                      false,
		"/ip6/fd12:3456::1/tcp/1":                 false,
		"/ip6/fe80::1/tcp/1":                      false,
		"/ip6zone/eth0/ip6/fe80::1/tcp/1":         false,
		"/ip6zone/eth0/ip6/2606:4700::1111/tcp/1": false,
		"/ip6/ff02::fb/udp/1/quic-v1":             false,
		"/ip6/2001:db8::1/tcp/1":                  false,
		"/ip6/2001::1/tcp/1":                      false, // Teredo
		"/ip6/2002:7f00:1::/tcp/1":                false, // 6to4 of 127.0.0.1
		"/ip6/::ffff:10.0.0.1/tcp/1":              false, // mapped
		"/ip6/::10.0.0.1/tcp/1":                   false, // the older mapping
		"/ip6/64:ff9b::a00:1/tcp/1":               false, // NAT64 of 10.0.0.1
		"/ip6/64:ff9b:1::a00:1/tcp/1":             false, // local NAT64
		"/dns4/example.com/tcp/1":                 false, // not resolved yet
	} {
		if got := isPublicAddr(ma.StringCast(addr)); got != public {
			t.Errorf("%s: public %v, want %v", addr, got, public)
		}
	}
}

func TestPolicy(t *testing.T) {
	id, err := peer.Decode(anyPeer)
	if err != nil {
		t.Fatal(err)
	}
	const (
		private = "/ip4/10.0.0.1/tcp/1"
		public  = "/ip4/1.1.1.1/tcp/1"
		relayed = public + "/p2p/" + anyPeer + "/p2p-circuit"
	)
	for _, tc := range []struct {
		network   string
		exempt    func(*addressPolicy)
		addr      string
		dialled   bool
		announced bool
	}{
		{PublicNetwork, nil, public, true, true},
		{PublicNetwork, nil, private, false, false},
		{PublicNetwork, nil, relayed, true, true},
		{PublicNetwork, func(p *addressPolicy) { p.allow("another", id) }, private, true, false},
		{PublicNetwork, func(p *addressPolicy) { p.allowLocal(id) }, private, true, false},
		{PublicNetwork, func(p *addressPolicy) { p.allow("another") }, private, false, false},
		{"lab", nil, private, true, true},
		{"lab", nil, "/ip6/::1/tcp/1", true, true},
	} {
		p := newAddressPolicy(tc.network)
		if tc.exempt != nil {
			tc.exempt(p)
		}
		addr := ma.StringCast(tc.addr)
		if got := p.InterceptAddrDial(id, addr); got != tc.dialled {
			t.Errorf("%s, %s: dialled %v, want %v", tc.network, addr, got, tc.dialled)
		}
		if got := len(p.announced([]ma.Multiaddr{addr})) == 1; got != tc.announced {
			t.Errorf("%s, %s: announced %v, want %v", tc.network, addr, got, tc.announced)
		}
	}
}

func TestPolicyForgetsLocalPeers(t *testing.T) {
	p := newAddressPolicy(PublicNetwork)
	p.allow("named")
	for i := range 2 * maxLocalPeers {
		p.allowLocal(peer.ID(fmt.Sprint(i)))
	}
	if len(p.local) != maxLocalPeers {
		t.Errorf("%d local peers remembered, want %d", len(p.local), maxLocalPeers)
	}
	if !p.exempt("named") || !p.exempt(peer.ID(fmt.Sprint(2*maxLocalPeers-1))) {
		t.Error("forgot a named peer or the last local one")
	}
}

// On the public network no packet goes to a private address, by whatever name,
// unless the user named the peer.
func TestPublicNodeDialsNoPrivateAddress(t *testing.T) {
	trap, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	touched := make(chan struct{})
	go func() {
		defer close(touched)
		if c, err := trap.Accept(); err == nil {
			c.Close()
			t.Error("a packet went out")
		}
	}()
	_, port, _ := net.SplitHostPort(trap.Addr().String())

	h := startHost(t, HostConfig{Network: PublicNetwork})
	id, err := peer.Decode(anyPeer)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{
		"/ip4/127.0.0.1/tcp/" + port,
		"/dns4/localhost/tcp/" + port,
		"/ip6/::1/tcp/" + port,
		"/ip4/10.1.2.3/tcp/" + port,
		"/ip4/192.168.0.1/tcp/" + port,
		"/ip4/169.254.169.254/tcp/80",
		"/ip6/fc00::1/udp/" + port + "/quic-v1",
	} {
		err := h.Connect(t.Context(), peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{ma.StringCast(addr)}})
		if !errors.Is(err, swarm.ErrGaterDisallowedConnection) && !strings.Contains(fmt.Sprint(err), "gater disallows") {
			t.Errorf("%s: %v, want a refusal by the gater", addr, err)
		}
		h.Peerstore().ClearAddrs(id)
	}
	trap.Close()
	<-touched

	// Both nodes stand on loopback and announce nothing.
	other := startHost(t, HostConfig{Network: PublicNetwork})
	if len(other.Addrs()) != 0 {
		t.Errorf("announces %s", other.Addrs())
	}
	listening, err := other.Network().InterfaceListenAddresses()
	if err != nil {
		t.Fatal(err)
	}
	info := peer.AddrInfo{ID: other.ID(), Addrs: listening}
	if err := h.Connect(t.Context(), info); err == nil {
		t.Error("connected to a private address")
	}
	h.policy.allow(other.ID())
	if err := h.Connect(t.Context(), info); err != nil {
		t.Errorf("peer named by the user: %v", err)
	}
}
