package exchange

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"pollux/blockstore"
	"pollux/dag"
)

func newHost(t testing.TB) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.Transport(tcp.NewTCPTransport), libp2p.DisableRelay(), libp2p.DisableMetrics())
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
			data := make([]byte, r.IntN(20_000))
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

// provider serves blocks from a store of its own.
func provider(t testing.TB, blocks ...blockstore.Block) host.Host {
	t.Helper()
	store := newStore(t)
	if err := store.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	return serving(t, store)
}

func serving(t testing.TB, store Getter) host.Host {
	t.Helper()
	h := newHost(t)
	s, err := NewServer(store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Register(h)
	return h
}

func newClient(t testing.TB) (client, *blockstore.Store) {
	t.Helper()
	store := newStore(t)
	return clientOf(t, newHost(t), store), store
}

// client fetches into one store.
type client struct {
	*Client
	store Store
}

func clientOf(t testing.TB, h host.Host, store Store) client {
	t.Helper()
	c, err := NewClient(h, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return client{c, store}
}

func (c client) Fetch(ctx context.Context, req Request, from <-chan Candidate) (Result, error) {
	req.Store = c.store
	return c.Client.Fetch(ctx, req, from)
}

func candidates(hosts ...host.Host) <-chan Candidate {
	c := make(chan Candidate, len(hosts))
	for _, h := range hosts {
		c <- Candidate{peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}, true}
	}
	return c
}

func wantTree(t testing.TB, s *blockstore.Store, tr tree) {
	t.Helper()
	for _, b := range tr.blocks {
		if _, err := s.Get(context.Background(), b.CID()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFetch(t *testing.T) {
	tr := newTree(1, 12, 40)
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d providers", n), func(t *testing.T) {
			var hosts []host.Host
			for range n {
				hosts = append(hosts, provider(t, tr.blocks...))
			}
			c, store := newClient(t)
			var last Progress
			res, err := c.Fetch(context.Background(), Request{Root: tr.root(), Progress: func(p Progress) { last = p }}, candidates(hosts...))
			if err != nil {
				t.Fatal(err)
			}
			wantTree(t, store, tr)
			if res.Blocks != len(tr.blocks) || res.Bytes != tr.bytes {
				t.Errorf("result %+v; want %d blocks of %d bytes", res, len(tr.blocks), tr.bytes)
			}
			if over := res.Received - tr.bytes; max(over, -over) > tr.bytes/20 {
				t.Errorf("received %d bytes for %d", res.Received, tr.bytes)
			}
			if last.Bytes != tr.bytes || last.TotalBytes != tr.bytes || last.Blocks != last.Known {
				t.Errorf("last progress %+v; want %d bytes", last, tr.bytes)
			}
			res, err = c.Fetch(context.Background(), Request{Root: tr.root()}, nil)
			if err != nil || res.Received != 0 {
				t.Errorf("fetched again: %+v, %v", res, err)
			}
		})
	}
}

// TestComplements lets two providers hold a half each, and lets a third block be
// held already.
func TestComplements(t *testing.T) {
	tr := newTree(2, 6, 30)
	var odd, even []blockstore.Block
	for i, b := range tr.blocks[1:] {
		if i%2 == 0 {
			even = append(even, b)
		} else {
			odd = append(odd, b)
		}
	}
	c, store := newClient(t)
	if err := store.Put(tr.blocks[0], odd[3]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(context.Background(), Request{Root: tr.root()}, candidates(provider(t, odd...), provider(t, even...))); err != nil {
		t.Fatal(err)
	}
	wantTree(t, store, tr)
}

func TestSingle(t *testing.T) {
	tr := newTree(3, 2, 2)
	c, store := newClient(t)
	res, err := c.Fetch(context.Background(), Request{Root: tr.root(), Single: true}, candidates(provider(t, tr.blocks...)))
	if err != nil || res.Blocks != 1 || store.Stats().Blocks != 1 {
		t.Errorf("%+v, %v; %d blocks stored", res, err, store.Stats().Blocks)
	}
}

func TestUnknown(t *testing.T) {
	c, _ := newClient(t)
	unknown := blockstore.Sum(cid.Raw, []byte("nobody has this")).CID()
	_, err := c.Fetch(context.Background(), Request{Root: unknown, Timeout: time.Second}, candidates(provider(t), provider(t)))
	var u *UnreachableError
	if !errors.As(err, &u) || u.Missing != 1 || u.Providers != 2 || u.Asked != 2 {
		t.Errorf("err = %v", err)
	}
}

func TestCancel(t *testing.T) {
	c, _ := newClient(t)
	ctx, cancel := context.WithCancel(context.Background())
	silent := evil(t, func(st network.Stream) {
		cancel() // the session is up
		io.Copy(io.Discard, st)
	})
	unknown := blockstore.Sum(cid.Raw, []byte("x")).CID()
	if _, err := c.Fetch(ctx, Request{Root: unknown}, candidates(silent)); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

// dying is a store whose host is closed after a number of reads.
type dying struct {
	Getter
	left  atomic.Int64
	close func()
	once  sync.Once
}

func (d *dying) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if d.left.Add(-1) < 0 {
		d.once.Do(d.close)
	}
	return d.Getter.Get(ctx, c)
}

// TestProviderDies closes one of three providers in the middle of the transfer.
func TestProviderDies(t *testing.T) {
	tr := newTree(4, 20, 100)
	store := newStore(t)
	if err := store.Put(tr.blocks...); err != nil {
		t.Fatal(err)
	}
	d := &dying{Getter: store}
	d.left.Store(100)
	h := serving(t, d)
	d.close = func() { h.Close() }
	c, got := newClient(t)
	_, err := c.Fetch(context.Background(), Request{Root: tr.root()}, candidates(h, provider(t, tr.blocks...), provider(t, tr.blocks...)))
	if err != nil {
		t.Fatal(err)
	}
	wantTree(t, got, tr)
	if d.left.Load() >= 0 {
		t.Error("the provider was never asked for enough to die")
	}
}

// evil is a host that runs handler for each stream of the protocol.
func evil(t testing.TB, handler func(network.Stream)) host.Host {
	t.Helper()
	h := newHost(t)
	h.SetStreamHandler(Protocol, handler)
	return h
}

// readWants calls answer for each WANT that arrives.
func readWants(st network.Stream, answer func([]cid.Cid)) {
	readAsks(st, func(asks []ask) {
		cids := make([]cid.Cid, len(asks))
		for i, a := range asks {
			cids[i] = a.cid
		}
		answer(cids)
	})
}

func readAsks(st network.Stream, answer func([]ask)) {
	r := bufio.NewReader(st)
	for {
		t, body, err := readFrame(r, 1<<20)
		if err != nil {
			return
		}
		if t == frameWant {
			asks, err := parseWant(body)
			if err != nil {
				return
			}
			answer(asks)
		}
	}
}

func uvarints(vs ...uint64) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// TestHostile puts a peer that misbehaves beside an honest one: the fetch ends
// with all blocks and nothing else in the store.
func TestHostile(t *testing.T) {
	tr := newTree(5, 4, 50)
	byCID := make(map[cid.Cid]blockstore.Block)
	for _, b := range tr.blocks {
		byCID[b.CID()] = b
	}
	bomb := func() []byte {
		enc, _ := zstd.NewWriter(nil)
		return enc.EncodeAll(make([]byte, 64<<20), nil)
	}()
	hello := appendFrame(nil, frameHello)
	tests := map[string]struct {
		answer func(st network.Stream, cids []cid.Cid)
		hello  []byte
		banned bool
	}{
		"wrong bytes of the right length": {banned: true, answer: func(st network.Stream, cids []cid.Cid) {
			n := len(byCID[cids[0]].Data())
			st.Write(appendFrame(nil, frameData, uvarints(1), []byte{encodingPlain}, uvarints(uint64(n)<<1), make([]byte, n)))
		}},
		"a bomb": {banned: true, answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(appendFrame(nil, frameData, uvarints(1), []byte{encodingZstd}, uvarints(100<<1), bomb))
		}},
		"a frame of 2^63 bytes": {answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(uvarints(1 << 63))
		}},
		"a frame over the limit": {answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(uvarints(maxFrame + 2))
		}},
		"blocks over the limit": {answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(appendFrame(nil, frameData, uvarints(1), []byte{encodingZstd}, uvarints((blockstore.MaxBlockSize+1)<<1), bomb))
		}},
		"more than was asked for": {answer: func(st network.Stream, cids []cid.Cid) {
			for range maxWants + 1 {
				st.Write(appendMiss(nil, 1))
			}
		}},
		"an unknown frame": {answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(appendFrame(nil, 99, []byte("?")))
		}},
		"no hello": {hello: appendMiss(nil, 1), answer: func(network.Stream, []cid.Cid) {}},
		"nothing":  {answer: func(network.Stream, []cid.Cid) {}},
		"a hang-up in the middle of a frame": {answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(uvarints(1000))
			st.Close()
		}},
		"misses for all": {answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(appendMiss(nil, len(cids)))
		}},
		"drips": {answer: func(st network.Stream, cids []cid.Cid) {
			st.Write(uvarints(1000))
			st.Write([]byte{byte(frameData)})
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{})
			var once sync.Once
			liar := evil(t, func(st network.Stream) {
				if tt.hello == nil {
					tt.hello = hello
				}
				st.Write(tt.hello)
				readWants(st, func(cids []cid.Cid) {
					tt.answer(st, cids)
					once.Do(func() { close(asked) })
				})
				once.Do(func() { close(asked) })
			})
			c, store := newClient(t)
			from := make(chan Candidate, 2)
			from <- Candidate{peer.AddrInfo{ID: liar.ID(), Addrs: liar.Addrs()}, true}
			go func() {
				<-asked // the honest one comes second, so that the liar has its turn
				honest := provider(t, tr.blocks...)
				from <- Candidate{peer.AddrInfo{ID: honest.ID(), Addrs: honest.Addrs()}, true}
			}()
			if _, err := c.Fetch(context.Background(), Request{Root: tr.root()}, from); err != nil {
				t.Fatal(err)
			}
			wantTree(t, store, tr)
			if n := store.Stats().Blocks; n != len(tr.blocks) {
				t.Errorf("%d blocks stored, want %d", n, len(tr.blocks))
			}
			if c.bans.has(liar.ID()) != tt.banned {
				t.Errorf("banned = %v, want %v", !tt.banned, tt.banned)
			}
		})
	}
}

// TestBadDAG fetches a root that is sound but no part of a site: the error is the
// tree's, and nobody is banned for it.
func TestBadDAG(t *testing.T) {
	bad := blockstore.Sum(cid.DagProtobuf, []byte("not dag-pb"))
	h := provider(t, bad)
	c, _ := newClient(t)
	_, err := c.Fetch(context.Background(), Request{Root: bad.CID()}, candidates(h))
	if err == nil || c.bans.has(h.ID()) {
		t.Errorf("err = %v, banned %v", err, c.bans.has(h.ID()))
	}
}

// TestServerRefuses sends the server what no client would.
func TestServerRefuses(t *testing.T) {
	b := blockstore.Sum(cid.Raw, []byte("block"))
	h := provider(t, b)
	hello := appendFrame(nil, frameHello)
	for name, sent := range map[string][]byte{
		"no hello":       appendWant(nil, []ask{{cid: b.CID()}}),
		"long hello":     appendFrame(nil, frameHello, make([]byte, maxHello+1)),
		"long frame":     append(hello[:len(hello):len(hello)], uvarints(1<<40)...),
		"too many wants": appendFrame(hello[:len(hello):len(hello)], frameWant, uvarints(maxWants+1)),
		"count lies":     appendFrame(hello[:len(hello):len(hello)], frameWant, uvarints(5, 36), b.CID().Bytes(), uvarints(0)),
		"no CID":         appendFrame(hello[:len(hello):len(hello)], frameWant, uvarints(1, 3), []byte("abc"), uvarints(0)),
		"an empty CID":   appendFrame(hello[:len(hello):len(hello)], frameWant, uvarints(1, 0, 0)),
		"bad base":       appendFrame(hello[:len(hello):len(hello)], frameWant, uvarints(1, 36), b.CID().Bytes(), uvarints(3), []byte("abc")),
		"rest":           appendFrame(hello[:len(hello):len(hello)], frameWant, uvarints(0), []byte("abc")),
		"unknown frame":  appendFrame(hello[:len(hello):len(hello)], 77),
	} {
		t.Run(name, func(t *testing.T) {
			c := newHost(t)
			if err := c.Connect(context.Background(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
				t.Fatal(err)
			}
			st, err := c.NewStream(context.Background(), h.ID(), Protocol)
			if err != nil {
				t.Fatal(err)
			}
			st.Write(sent)
			r := bufio.NewReader(st)
			if typ, _, err := readFrame(r, maxFrame); err == nil {
				if typ != frameHello {
					t.Fatalf("frame of type %d", typ)
				}
				if _, _, err = readFrame(r, maxFrame); err == nil {
					t.Fatal("the server answered")
				} else if errors.Is(err, io.EOF) {
					t.Fatalf("the server closed the stream as if all were well")
				}
			}
		})
	}
}
