package transport

import (
	"fmt"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/transport/exchange"
)

// Connections are bounded by address on the public network, on loopback never.
func TestConnectionsPerAddress(t *testing.T) {
	for _, tc := range []struct {
		network, addr string
		want          int // of 100 connections
	}{
		{PublicNetwork, "/ip4/1.2.3.4/tcp/%d", connsPerIP},
		{PublicNetwork, "/ip6/2606:4700::%x/tcp/1", connsPerIP},
		{PublicNetwork, "/ip4/127.0.0.1/tcp/%d", 100},
		{PublicNetwork, "/ip6/::1/tcp/%d", 100},
		{"lab", "/ip4/127.0.0.1/tcp/%d", 100},
		{"lab", "/ip4/10.0.0.1/tcp/%d", 100},
	} {
		rm, err := newResourceManager(tc.network, 200)
		if err != nil {
			t.Fatal(err)
		}
		open := 0
		for i := range 100 {
			scope, err := rm.OpenConnection(network.DirInbound, true, ma.StringCast(fmt.Sprintf(tc.addr, i+1)))
			if err != nil {
				continue
			}
			defer scope.Done()
			// Known peers: not held up by the limit on connections that are being made.
			if err := scope.SetPeer(peer.ID(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			open++
		}
		if open != tc.want {
			t.Errorf("%s, %s: %d connections, want %d", tc.network, tc.addr, open, tc.want)
		}
		rm.Close()
	}
}

func TestSyncLimits(t *testing.T) {
	rm, err := newResourceManager("test", 128)
	if err != nil {
		t.Fatal(err)
	}
	defer rm.Close()
	const greedy = peer.ID("greedy")
	open := func(p peer.ID) error {
		s, err := rm.OpenStream(p, network.DirInbound)
		if err != nil {
			return err
		}
		t.Cleanup(s.Done)
		if err := s.SetProtocol(exchange.Protocol); err != nil {
			return err
		}
		return s.SetService(exchange.Service)
	}
	for i := range syncStreamsByPeer {
		if err := open(greedy); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	if err := open(greedy); err == nil {
		t.Error("one peer got more streams than its share")
	}
	if err := open("modest"); err != nil {
		t.Errorf("another peer: %v", err)
	}
}

// Bulk streams from as many peers as a transfer uses get their full windows while
// the node is as busy as it usually gets: nothing refuses the growth.
func TestWindowsMayGrow(t *testing.T) {
	rm, err := newResourceManager("test", 128)
	if err != nil {
		t.Fatal(err)
	}
	defer rm.Close()
	const yamuxInitial, growPriority = 256 << 10, 128 // what go-yamux books, and how
	book := func(p peer.ID, size int, priority uint8) error {
		s, err := rm.OpenStream(p, network.DirOutbound)
		if err != nil {
			return err
		}
		t.Cleanup(s.Done)
		if err := s.SetProtocol("/test"); err != nil {
			return err
		}
		return s.PeerScope().ReserveMemory(size, priority)
	}
	for i := range 1200 {
		if err := book(peer.ID(fmt.Sprint("dht ", i/4)), yamuxInitial, network.ReservationPriorityAlways); err != nil {
			t.Fatalf("small stream %d: %v", i, err)
		}
	}
	for i := range 12 {
		if err := book(peer.ID(fmt.Sprint("bulk ", i)), maxWindow, growPriority); err != nil {
			t.Fatalf("window of peer %d: %v", i, err)
		}
	}
	if err := book("bulk 0", maxWindow, growPriority); err != nil {
		t.Fatalf("second window of one peer: %v", err)
	}
}

// A fresh stream takes initialWindow before its reader reads anything.
func TestInitialWindow(t *testing.T) {
	a := startHost(t, HostConfig{})
	b := startHost(t, HostConfig{})
	accepted, release := make(chan struct{}), make(chan struct{})
	const burst = initialWindow - 1<<10 // less what negotiating the protocol took
	a.SetStreamHandler("/test", func(s network.Stream) {
		// The first read acknowledges the stream and with it grants the window.
		var one [1]byte
		if _, err := io.ReadFull(s, one[:]); err != nil {
			t.Error(err)
		}
		close(accepted)
		<-release
		n, err := io.Copy(io.Discard, s)
		if err != nil || n != burst {
			t.Errorf("got %d bytes, %v", n, err)
		}
		s.Close()
	})
	if err := b.Connect(t.Context(), peer.AddrInfo{ID: a.ID(), Addrs: a.Addrs()}); err != nil {
		t.Fatal(err)
	}
	s, err := b.NewStream(t.Context(), a.ID(), "/test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	<-accepted
	// Blocks for good if the window is smaller.
	if _, err := s.Write(make([]byte, burst)); err != nil {
		t.Fatal(err)
	}
	close(release)
	s.CloseWrite()
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
}
