package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// testHostConfig fills in what a test does not care about: its own key, one
// loopback port, the network "test".
func testHostConfig(t *testing.T, cfg HostConfig) HostConfig {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Identity = key
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.Network == "" {
		cfg.Network = "test"
	}
	if cfg.Listen == nil {
		cfg.Listen = []string{"/ip4/127.0.0.1/tcp/0"}
	}
	return cfg
}

func startHost(t *testing.T, cfg HostConfig) *localHost {
	t.Helper()
	h, err := newHost(testHostConfig(t, cfg))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// eventually waits until cond holds, for as long as a loaded machine may need.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func TestConnections(t *testing.T) {
	for _, tc := range []struct {
		name                       string
		listen                     []string
		transport, security, muxer string
	}{
		{"tcp", []string{"/ip4/127.0.0.1/tcp/0"}, "tcp", "/tls/1.0.0", "/yamux/1.0.0"},
		{"quic", []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, "quic-v1", "", ""},
		{"tcp first", []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}, "tcp", "/tls/1.0.0", "/yamux/1.0.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := startHost(t, HostConfig{Listen: tc.listen, UserAgent: "pollux/test"})
			b := startHost(t, HostConfig{})
			if err := b.Connect(t.Context(), peer.AddrInfo{ID: a.ID(), Addrs: a.Addrs()}); err != nil {
				t.Fatal(err)
			}
			conn := b.Network().ConnsToPeer(a.ID())[0]
			state := conn.ConnState()
			if state.Transport != tc.transport || string(state.Security) != tc.security || string(state.StreamMultiplexer) != tc.muxer {
				t.Errorf("connected by %+v", state)
			}
			agent, err := b.Peerstore().Get(a.ID(), "AgentVersion")
			if err != nil || agent != "pollux/test" {
				t.Errorf("user agent %v, %v", agent, err)
			}
		})
	}
}

// A port that another program holds is an error though other addresses would do.
func TestPortTaken(t *testing.T) {
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	_, tcpPort, _ := net.SplitHostPort(tcp.Addr().String())
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	_, udpPort, _ := net.SplitHostPort(udp.LocalAddr().String())
	// libp2p itself shares a TCP port with another libp2p host.
	other := startHost(t, HostConfig{})
	nodePort, err := other.Network().ListenAddresses()[0].ValueForProtocol(ma.P_TCP)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{
		"/ip4/127.0.0.1/tcp/" + tcpPort,
		"/ip4/127.0.0.1/udp/" + udpPort + "/quic-v1",
		"/ip4/127.0.0.1/tcp/" + nodePort,
	} {
		h, err := newHost(testHostConfig(t, HostConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0", addr}}))
		if err == nil {
			h.Close()
		}
		if !errors.Is(err, ErrAddrInUse) || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s: error %v", addr, err)
		}
	}
}

func TestAddressNotOurs(t *testing.T) {
	const foreign, loopback = "/ip4/203.0.113.7/tcp/0", "/ip4/127.0.0.1/tcp/0"
	_, err := newHost(testHostConfig(t, HostConfig{Listen: []string{loopback, foreign}}))
	if err == nil || errors.Is(err, ErrAddrInUse) || !strings.Contains(err.Error(), foreign) {
		t.Errorf("asked for: error %v", err)
	}

	// As one of the defaults it is left out, unless nothing is left.
	h := startHost(t, HostConfig{})
	log := slog.New(slog.DiscardHandler)
	for _, tc := range []struct {
		addrs []string
		ok    bool
	}{{[]string{foreign, loopback}, true}, {[]string{foreign}, false}} {
		addrs, err := parseListen(tc.addrs)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.listen(addrs, false, log); (err == nil) != tc.ok {
			t.Errorf("%v by default: %v", tc.addrs, err)
		}
	}
}

func TestListenAddresses(t *testing.T) {
	for addr, ok := range map[string]bool{
		"/ip4/0.0.0.0/tcp/4801":    true,
		"/ip6/::/udp/4801/quic-v1": true,
		"/ip4/127.0.0.1/tcp/0":     true,
		"":                         false,
		"127.0.0.1:4801":           false,
		"/ip4/1.2.3.4":             false,
		"/ip4/1.2.3.4/tcp/70000":   false,
		"/ip4/0.0.0.0/udp/4801":    false,
		"/ip4/0.0.0.0/tcp/4801/ws": false,
		"/ip4/0.0.0.0/udp/4801/quic-v1/webtransport":         false,
		"/dns4/example.com/tcp/4801":                         false,
		"/ip4/1.2.3.4/tcp/1/p2p/" + anyPeer + "/p2p-circuit": false,
	} {
		_, err := parseListen([]string{addr})
		if (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
		if err != nil && !strings.Contains(err.Error(), `"`+addr+`"`) {
			t.Errorf("%q: error does not name it: %v", addr, err)
		}
	}
	if addrs, err := parseListen(nil); err != nil || len(addrs) != len(DefaultListen) {
		t.Errorf("default: %v, %v", addrs, err)
	}
}

func TestHostRefuses(t *testing.T) {
	for name, cfg := range map[string]HostConfig{
		"low above high": {Network: "test", ConnLow: 10, ConnHigh: 5},
		"negative":       {Network: "test", ConnLow: -1},
		"no network":     {},
	} {
		if _, err := newHost(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A host on the public network has everything that gets through NATs.
func TestPublicHost(t *testing.T) {
	asked := make(chan struct{}, 1)
	h := startHost(t, HostConfig{
		Network: PublicNetwork,
		NAT:     true,
		RelayCandidates: func(context.Context, int) <-chan peer.AddrInfo {
			asked <- struct{}{}
			none := make(chan peer.AddrInfo)
			close(none)
			return none
		},
	})
	protocols := make(map[string]bool)
	for _, p := range h.Mux().Protocols() {
		protocols[string(p)] = true
	}
	if !protocols["/libp2p/circuit/relay/0.2.0/stop"] || !protocols["/libp2p/autonat/2/dial-back"] {
		t.Errorf("relay client or AutoNAT missing: %v", protocols)
	}
	if protocols["/libp2p/circuit/relay/0.2.0/hop"] {
		t.Error("is a relay for others")
	}
}

func TestHostCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, netName := range []string{"test", PublicNetwork} {
		h, err := newHost(testHostConfig(t, HostConfig{
			Network: netName, MDNS: true, NAT: true,
			Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"},
		}))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}

func TestRankTCPFirst(t *testing.T) {
	const tcp, quic = "/ip4/1.1.1.1/tcp/1", "/ip4/1.1.1.1/udp/1/quic-v1"
	delays := func(addrs ...string) map[string]time.Duration {
		var list []ma.Multiaddr
		for _, a := range addrs {
			list = append(list, ma.StringCast(a))
		}
		got := make(map[string]time.Duration)
		for _, r := range rankTCPFirst(list) {
			got[r.Addr.String()] = r.Delay
		}
		return got
	}
	if got := delays(quic, tcp); len(got) != 2 || got[tcp] != 0 || got[quic] != quicDelay {
		t.Errorf("both: %v", got)
	}
	if got := delays(quic); len(got) != 1 || got[quic] != 0 {
		t.Errorf("QUIC alone: %v", got)
	}
}

// Nodes that share the loopback address are not taken for one that poses as many.
func TestManyNodesOnLoopback(t *testing.T) {
	a := startHost(t, HostConfig{})
	const n = 3 * connsPerIP
	for range n {
		b := startHost(t, HostConfig{})
		if err := b.Connect(t.Context(), peer.AddrInfo{ID: a.ID(), Addrs: a.Addrs()}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are connected", func() bool {
		connected := 0
		for _, p := range a.Network().Peers() {
			if a.Network().Connectedness(p) == network.Connected {
				connected++
			}
		}
		return connected == n
	})
}
