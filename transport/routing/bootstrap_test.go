package routing

import (
	"net"
	"testing"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// A node whose bootstrap peer starts later joins then, and joins again when that
// peer comes back after a while with nothing in its memory.
func TestBootstrapKeepsTrying(t *testing.T) {
	// A free port, by taking and releasing it.
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()

	key := newKey(t)
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	addr := ma.StringCast("/ip4/127.0.0.1/tcp/" + port)
	cfg := nodeConfig{}
	cfg.Bootstrap = []peer.AddrInfo{{ID: id, Addrs: []ma.Multiaddr{addr}}}
	a := startNode(t, cfg)
	b := startNode(t, cfg)
	if a.Online() || b.Online() {
		t.Fatal("online without a network")
	}
	c := startNode(t, nodeConfig{key: key, listen: addr.String()})
	eventually(t, "both join", func() bool { return a.Peers() == 2 && b.Peers() == 2 && c.Peers() == 2 })

	c.stop(t)
	c = startNode(t, nodeConfig{key: key, listen: addr.String()})
	eventually(t, "C is taken back by those who know it", func() bool { return c.Peers() == 2 })
}

func TestBootstrapPeers(t *testing.T) {
	mine := []peer.AddrInfo{{ID: "x"}}
	for _, tc := range []struct {
		network string
		given   []peer.AddrInfo
		want    int
		own     bool
	}{
		{"public", nil, len(dht.DefaultBootstrapPeers), false},
		{"public", []peer.AddrInfo{}, 0, true},
		{"public", mine, 1, true},
		{"test", nil, 0, true},
		{"test", mine, 1, true},
	} {
		peers, own := bootstrapPeers(Config{Network: tc.network, Bootstrap: tc.given})
		if len(peers) != tc.want || own != tc.own {
			t.Errorf("%s with %v: %d peers, own %v", tc.network, tc.given, len(peers), own)
		}
	}
}
