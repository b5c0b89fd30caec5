package exchange

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"pollux/blockstore"
	"pollux/dag"
)

func newHost(t testing.TB, opts ...libp2p.Option) host.Host {
	t.Helper()
	return newHostAt(t, "/ip4/127.0.0.1/tcp/0", opts...)
}

func newHostAt(t testing.TB, addr string, opts ...libp2p.Option) host.Host {
	t.Helper()
	label(t)
	h, err := libp2p.New(append([]libp2p.Option{
		libp2p.ListenAddrStrings(addr), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.DisableRelay(), libp2p.DisableMetrics(),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func newStore(t testing.TB) *blockstore.Store {
	t.Helper()
	dir, err := blockstore.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := blockstore.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// tree is a DAG of three levels; blocks[0] is its root.
type tree struct {
	blocks []blockstore.Block
	bytes  int64
}

func (t tree) root() cid.Cid { return t.blocks[0].CID() }

func newTree(seed uint64, folders, files int) tree {
	r := rand.New(rand.NewPCG(seed, 7))
	var t tree
	node := func(links []dag.Link) dag.Link {
		b := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
		size := uint64(len(b.Data()))
		for _, l := range links {
			size += l.Size
		}
		t.blocks = append(t.blocks, b)
		return dag.Link{CID: b.CID(), Size: size}
	}
	var top []dag.Link
	for i := range folders {
		var links []dag.Link
		for j := range files {
			data := make([]byte, 1+r.IntN(20_000))
			for k := range data {
				data[k] = byte(r.Uint32())
			}
			b := blockstore.Sum(cid.Raw, data)
			t.blocks = append(t.blocks, b)
			links = append(links, dag.Link{Name: fmt.Sprintf("%04d", j), CID: b.CID(), Size: uint64(len(data))})
		}
		l := node(links)
		l.Name = fmt.Sprintf("%04d", i)
		top = append(top, l)
	}
	node(top)
	n := len(t.blocks) - 1
	t.blocks[0], t.blocks[n] = t.blocks[n], t.blocks[0]
	for _, b := range t.blocks {
		t.bytes += int64(len(b.Data()))
	}
	return t
}

// node is a host with a store that serves and fetches.
type node struct {
	host.Host
	store  *blockstore.Store
	server *Server
	client *Client
}

func newNode(t testing.TB, blocks ...blockstore.Block) *node {
	t.Helper()
	store := newStore(t)
	if err := store.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	return nodeWith(t, store, store)
}

// nodeWith serves from source and fetches into store.
func nodeWith(t testing.TB, store *blockstore.Store, source Store) *node {
	t.Helper()
	return nodeOn(t, newHost(t), store, source)
}

// nodeOn does so on a host.
func nodeOn(t testing.TB, h host.Host, store *blockstore.Store, source Store) *node {
	t.Helper()
	n := &node{Host: h, store: store}
	var err error
	if n.server, err = NewServer(n.Host, source, testLog(t)); err != nil {
		t.Fatal(err)
	}
	if n.client, err = NewClient(n.Host, n.server, testLog(t)); err != nil {
		t.Fatal(err)
	}
	return n
}

// serve answers a peer on st, which does not count among the streams that are served.
func (s *Server) serve(st stream, mem memory, remote peer.ID) error {
	return (&serving{server: s, remote: remote, stream: st, memory: mem}).serve()
}

// takes counts a stream of a peer as served, and says whether it may be.
func (s *Server) takes(p peer.ID) bool { return s.enter(&serving{remote: p}) }

func (n *node) info() peer.AddrInfo { return peer.AddrInfo{ID: n.ID(), Addrs: n.Addrs()} }

// fetch fetches from the given peers and no others.
func (n *node) fetch(ctx context.Context, req Request, from ...peer.AddrInfo) (Result, error) {
	if req.Store == nil {
		req.Store = n.store
	}
	candidates := make(chan Candidate, len(from))
	for _, p := range from {
		candidates <- Candidate{AddrInfo: p, Provider: true}
	}
	return n.client.Fetch(ctx, req, candidates)
}

// checkHeld fails unless the node's store has exactly what is in blocks, readable.
func (n *node) checkHeld(t testing.TB, blocks []blockstore.Block) {
	t.Helper()
	for _, b := range blocks {
		if _, err := n.store.Get(context.Background(), b.CID()); err != nil {
			t.Fatal(err)
		}
	}
	distinct := make(map[cid.Cid]struct{})
	for _, b := range blocks {
		distinct[b.CID()] = struct{}{}
	}
	if got := n.store.Stats().Blocks; got != len(distinct) {
		t.Fatalf("store has %d blocks, want %d", got, len(distinct))
	}
}

// testLog returns a logger that fails the test with what is logged as an error: that a panic
// was recovered. It discards all else, unless POLLUX_LOG is set.
func testLog(t testing.TB) *slog.Logger {
	failing := slog.NewTextHandler(failing{t}, &slog.HandlerOptions{Level: slog.LevelError})
	if os.Getenv("POLLUX_LOG") == "" {
		return slog.New(failing)
	}
	all := slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})
	return slog.New(slog.NewMultiHandler(failing, all))
}

// failing fails a test with what is written to it.
type failing struct{ testing.TB }

func (t failing) Write(b []byte) (int, error) {
	t.Errorf("logged: %s", b)
	return len(b), nil
}

// nodeOf returns a node that links to blocks.
func nodeOf(blocks ...blockstore.Block) blockstore.Block {
	var links []dag.Link
	for i, b := range blocks {
		links = append(links, dag.Link{Name: fmt.Sprintf("%04d", i), CID: b.CID(), Size: uint64(len(b.Data()))})
	}
	return blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
}

// limit ends a test whose fetch must end because an honest provider is there. What it
// would do otherwise is hang.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
