package routing

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multihash"
)

// node is a DHT member on loopback.
type node struct {
	*Routing
	host host.Host
	ds   datastore.Batching
}

// nodeConfig is what tests vary about a node; zero values are fresh ones.
type nodeConfig struct {
	key    crypto.PrivKey
	dir    string // of the datastore
	listen string
	Config
}

func startNode(t *testing.T, cfg nodeConfig) *node {
	t.Helper()
	if cfg.key == nil {
		cfg.key = newKey(t)
	}
	if cfg.dir == "" {
		cfg.dir = filepath.Join(t.TempDir(), "ds")
	}
	if cfg.listen == "" {
		cfg.listen = "/ip4/127.0.0.1/tcp/0"
	}
	if cfg.Network == "" {
		cfg.Network = "test"
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	h, err := libp2p.New(
		libp2p.Identity(cfg.key),
		libp2p.ListenAddrStrings(cfg.listen),
		libp2p.DisableMetrics(),
		libp2p.DisableRelay(),
		libp2p.ForceReachabilityPublic(),
	)
	if err != nil {
		t.Fatal(err)
	}
	ds, err := OpenDatastore(cfg.dir, cfg.Logger)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Datastore = ds
	r, err := New(t.Context(), h, cfg.Config)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{r, h, ds}
	t.Cleanup(func() { n.stop(t) })
	return n
}

// stop is safe to call twice.
func (n *node) stop(t *testing.T) {
	if n.host == nil {
		return
	}
	if err := n.Close(); err != nil {
		t.Errorf("close routing: %v", err)
	}
	n.host.Close()
	if err := n.ds.Close(); err != nil {
		t.Errorf("close datastore: %v", err)
	}
	n.host = nil
}

func (n *node) info() peer.AddrInfo {
	return peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()}
}

// via makes a configuration that joins through the given nodes.
func via(nodes ...*node) nodeConfig {
	cfg := nodeConfig{}
	for _, n := range nodes {
		cfg.Bootstrap = append(cfg.Bootstrap, n.info())
	}
	return cfg
}

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// testKeys returns n keys that other calls with another tag do not return.
func testKeys(t *testing.T, tag string, n int) []multihash.Multihash {
	t.Helper()
	keys := make([]multihash.Multihash, n)
	for i := range keys {
		h, err := multihash.Sum(fmt.Appendf(nil, "%s %d", tag, i), multihash.SHA2_256, -1)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = h
	}
	return keys
}

// eventually waits until cond holds, far longer than that takes and far shorter
// than the pauses of a minute and more that must not occur.
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

// finds reports whether n finds provider as a provider of key, with addresses.
func (n *node) finds(ctx context.Context, key multihash.Multihash, provider peer.ID) bool {
	for info := range n.FindProviders(ctx, cid.NewCidV1(cid.Raw, key)) {
		if info.ID == provider && len(info.Addrs) > 0 {
			return true
		}
	}
	return false
}

func wantFound(t *testing.T, by *node, provider peer.ID, keys []multihash.Multihash) {
	t.Helper()
	for _, key := range keys {
		eventually(t, "provider found", func() bool { return by.finds(t.Context(), key, provider) })
	}
}

// wantRecord waits until n stores a record of provider for key. Records are sent
// without an answer, so they may arrive after the sender is done.
func (n *node) wantRecord(t *testing.T, key multihash.Multihash, provider peer.ID) {
	t.Helper()
	eventually(t, "record arrives", func() bool {
		provs, err := n.dht.ProviderStore().GetProviders(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(provs, func(p peer.AddrInfo) bool { return p.ID == provider })
	})
}

func wantStats(t *testing.T, n *node, what string, ok func(Stats) bool) {
	t.Helper()
	var s Stats
	defer func() {
		if t.Failed() {
			t.Logf("%+v", s)
		}
	}()
	eventually(t, what, func() bool {
		var err error
		if s, err = n.Stats(t.Context()); err != nil {
			t.Fatal(err)
		}
		return ok(s)
	})
}

// The main purpose: B finds what A has though it knows only C.
func TestFindThroughThirdNode(t *testing.T) {
	c := startNode(t, nodeConfig{})
	a := startNode(t, via(c))
	b := startNode(t, via(c))
	d := startNode(t, via(c))
	for _, n := range []*node{a, b, c, d} {
		eventually(t, "all know each other", func() bool { return n.Peers() == 3 })
	}

	keys := testKeys(t, "site", 2000)
	if err := a.Provide(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(keys); i += 100 {
		wantFound(t, b, a.host.ID(), keys[i:i+1])
	}
	wantStats(t, a, "all keys announced", func(s Stats) bool {
		return s.Keys == 2000 && s.Queued == 0 && s.Regions == 0 && s.Announced >= 2000 && s.Failed == 0
	})
	// Others hold the records: A need not be there to be found.
	for i := 50; i < len(keys); i += 100 {
		for _, n := range []*node{b, c, d} {
			n.wantRecord(t, keys[i], a.host.ID())
		}
	}
	id := a.host.ID()
	a.stop(t)
	wantFound(t, b, id, keys[50:51])
	if b.finds(t.Context(), testKeys(t, "unknown", 1)[0], id) {
		t.Error("found a key that nobody provides")
	}
}

func TestTwoNodes(t *testing.T) {
	a := startNode(t, nodeConfig{})
	b := startNode(t, via(a))
	keys := testKeys(t, "two", 3)
	for _, n := range []*node{a, b} {
		if err := n.Provide(t.Context(), keys...); err != nil {
			t.Fatal(err)
		}
	}
	wantFound(t, a, b.host.ID(), keys)
	wantFound(t, b, a.host.ID(), keys)
	for info := range a.FindProviders(t.Context(), cid.NewCidV1(cid.Raw, keys[0])) {
		if info.ID == a.host.ID() {
			t.Error("a node found itself")
		}
	}
}

func TestFindPeer(t *testing.T) {
	c := startNode(t, nodeConfig{})
	a := startNode(t, via(c))
	b := startNode(t, via(c))
	eventually(t, "A is found", func() bool {
		info, err := b.FindPeer(t.Context(), a.host.ID())
		return err == nil && info.ID == a.host.ID() && len(info.Addrs) > 0
	})
	for info := range a.RelayCandidates(t.Context(), 1) {
		if len(info.Addrs) == 0 {
			t.Errorf("relay candidate %s without addresses", info.ID)
		}
	}
}

func TestModes(t *testing.T) {
	for _, tc := range []struct {
		network string
		mode    Mode
		proto   protocol.ID
		server  bool
	}{
		{"test", Auto, "/pollux/test/kad/1.0.0", true},
		{"test", Server, "/pollux/test/kad/1.0.0", true},
		{"test", Client, "/pollux/test/kad/1.0.0", false},
		{"public", Server, "/ipfs/kad/1.0.0", true},
		{"public", Client, "/ipfs/kad/1.0.0", false},
	} {
		n := startNode(t, nodeConfig{Config: Config{Network: tc.network, Mode: tc.mode, Bootstrap: []peer.AddrInfo{}}})
		if got := slices.Contains(n.host.Mux().Protocols(), tc.proto); got != tc.server {
			t.Errorf("%s, mode %d: serves %s: %v, want %v", tc.network, tc.mode, tc.proto, got, tc.server)
		}
		if n.Online() {
			t.Error("online without peers")
		}
	}
}

func TestNetworksAreSeparate(t *testing.T) {
	c := startNode(t, nodeConfig{Config: Config{Network: "one"}})
	cfg := via(c)
	cfg.Network = "two"
	a := startNode(t, cfg)
	eventually(t, "connected", func() bool { return len(a.host.Network().Peers()) > 0 })
	if _, err := a.host.NewStream(t.Context(), c.host.ID(), "/pollux/two/kad/1.0.0"); err == nil {
		t.Error("a node of another network speaks our DHT's protocol")
	}
	if a.Online() || c.Online() {
		t.Error("nodes of different networks share a routing table")
	}
}

func TestNewRefuses(t *testing.T) {
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := New(t.Context(), h, Config{Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("no error for a network without a name")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	c := startNode(t, nodeConfig{})
	a := startNode(t, via(c))
	eventually(t, "joined", a.Online)
	before := runtime.NumGoroutine()

	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ds, err := OpenDatastore(filepath.Join(t.TempDir(), "ds"), log)
	if err != nil {
		t.Fatal(err)
	}
	// A bootstrap peer that never answers, besides a living one.
	dead := peer.AddrInfo{ID: testID(t), Addrs: c.info().Addrs}
	r, err := New(t.Context(), h, Config{
		Network: "test", Bootstrap: []peer.AddrInfo{dead, c.info()}, Datastore: ds, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Provide(t.Context(), testKeys(t, "closing", 500)...); err != nil {
		t.Fatal(err)
	}
	for range r.FindProviders(t.Context(), cid.NewCidV1(cid.Raw, testKeys(t, "closing", 1)[0])) {
		break // leaving the loop early
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Provide(t.Context(), testKeys(t, "late", 1)...); err != ErrClosed {
		t.Errorf("Provide after Close: %v", err)
	}
	if err := r.StopProviding(t.Context(), testKeys(t, "late", 1)...); err != ErrClosed {
		t.Errorf("StopProviding after Close: %v", err)
	}
	if err := r.announcer.close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	h.Close()
	ds.Close()
	id := h.ID()
	eventually(t, "goroutines ended", func() bool {
		return runtime.NumGoroutine() <= before &&
			len(c.host.Network().ConnsToPeer(id)) == 0
	})
}

func testID(t *testing.T) peer.ID {
	t.Helper()
	id, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return id
}
