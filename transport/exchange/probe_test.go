package exchange

import (
	"bufio"
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// stranger is a host whose streams do whatever a test wants.
func stranger(t *testing.T, do func(network.Stream)) host.Host {
	t.Helper()
	h := newHost(t)
	h.SetStreamHandler(Protocol, func(st network.Stream) {
		defer st.Reset()
		do(st)
	})
	return h
}

// read reads until the other side ends the stream.
func read(st network.Stream) { io.Copy(io.Discard, st) }

// liar is a host that says HELLO and answers each request with what reply returns, nothing
// if that is empty.
func liar(t *testing.T, reply func(frameType, []byte) []byte) host.Host {
	return stranger(t, func(st network.Stream) {
		st.Write(appendFrame(nil, frameHello))
		for r := bufio.NewReader(st); ; {
			typ, body, err := readFrame(r, maxRequest)
			if err != nil {
				return
			}
			if _, err := st.Write(reply(typ, body)); err != nil {
				return
			}
		}
	})
}

// answers makes frames as a Server with these blocks does.
type answers struct {
	t      *testing.T
	site   tree
	order  *order
	blocks map[cid.Cid]blockstore.Block
	enc    *encoder
}

func newAnswers(t *testing.T, site tree) *answers {
	t.Helper()
	a := &answers{t: t, site: site, blocks: make(map[cid.Cid]blockstore.Block)}
	for _, b := range site.blocks {
		a.blocks[b.CID()] = b
	}
	var err error
	if a.order, err = buildOrder(t.Context(), newNode(t, site.blocks...).store, site.root(), cid.Undef); err != nil {
		t.Fatal(err)
	}
	if a.enc, err = newEncoder(); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *answers) body(blocks ...blockstore.Block) body {
	var pieces []piece
	for _, b := range blocks {
		if b.CID().Defined() {
			pieces = append(pieces, piece{kind: kindBlock, bytes: b.Data()})
		} else {
			pieces = append(pieces, piece{kind: kindMissing})
		}
	}
	return a.enc.body(pieces, levelFast)
}

// honest answers a request.
func (a *answers) honest(typ frameType, req []byte) (frame []byte) {
	switch typ {
	case frameOpen:
		return appendHave(appendOpened(nil, opened{status: statusOpen}), true, nil)
	case frameGet:
		cids, err := parseGet(req)
		if err != nil {
			a.t.Error(err)
		}
		var blocks []blockstore.Block
		for _, c := range cids {
			blocks = append(blocks, a.blocks[c])
		}
		return appendBlocks(nil, a.body(blocks...))
	case frameWant:
		for _, i := range wanted(a.t, req) {
			frame = appendData(frame, i, a.body(a.blocks[a.order.leaves.at(i)]))
		}
	}
	return frame
}

func wanted(t *testing.T, req []byte) (leaves []int) {
	spans, err := parseSpanFrame(req)
	if err != nil {
		t.Error(err)
	}
	for _, s := range spans {
		for i := s.first; i < s.end(); i++ {
			leaves = append(leaves, i)
		}
	}
	return leaves
}

// A silence is of a peer that does not answer: here the prober gives up on it at once, rather
// than after a while. Each such peer has one of its own, since it may still take in what it
// was asked when the next one is probed.
type silence chan struct{}

func newSilence() silence { return make(silence, 1) }

func (s silence) answer([]byte) []byte {
	select {
	case s <- struct{}{}:
	default: // it was said
	}
	return nil
}

func TestProbe(t *testing.T) {
	site := newTree(20, 8, 25)
	a := newAnswers(t, site)
	prober := newNode(t)
	half := nodesOf(site.blocks)
	for i := range a.order.leaves.len() / 2 {
		half = append(half, a.blocks[a.order.leaves.at(i)])
	}
	server := func(blocks ...blockstore.Block) host.Host { return newNode(t, blocks...).Host }
	but := func(typ frameType, instead func(req []byte) []byte) host.Host {
		return liar(t, func(got frameType, req []byte) []byte {
			if got == typ {
				return instead(req)
			}
			return a.honest(got, req)
		})
	}
	unreachable := newHost(t)
	gone := peer.AddrInfo{ID: unreachable.ID(), Addrs: unreachable.Addrs()}
	if err := unreachable.Close(); err != nil {
		t.Fatal(err)
	}
	start, afterHello, leaves := newSilence(), newSilence(), newSilence()
	for _, tc := range []struct {
		name   string
		host   host.Host
		want   Standing
		share  float64
		banned bool
		silent silence
		leaves int // that come before a silent one is given up on
	}{
		{name: "full", host: server(site.blocks...), want: Full, share: 1},
		{name: "full, by another implementation", host: liar(t, a.honest), want: Full, share: 1},
		{name: "half", host: server(half...), want: Partial, share: 0.5},
		{name: "nodes alone", host: server(nodesOf(site.blocks)...), want: Partial},
		{name: "the root alone", host: server(site.blocks[0]), want: Partial},
		{name: "nothing", host: server(), want: Absent},
		{name: "leaves alone", host: server(site.blocks[2:20]...), want: Absent},
		{name: "MISS for all", want: Partial, host: but(frameWant, func(req []byte) []byte {
			return appendFrame(nil, frameMiss, req)
		})},
		{name: "MISS for half", want: Partial, share: 0.5, host: func() host.Host {
			var mu sync.Mutex
			n := 0
			return but(frameWant, func(req []byte) []byte {
				mu.Lock()
				defer mu.Unlock()
				if n++; n%2 == 0 {
					return a.honest(frameWant, req)
				}
				return appendFrame(nil, frameMiss, req)
			})
		}()},
		{name: "another leaf", banned: true, host: but(frameWant, func(req []byte) []byte {
			return appendData(nil, wanted(t, req)[0], a.body(site.blocks[0]))
		})},
		{name: "another node", banned: true, host: but(frameGet, func(req []byte) []byte {
			cids, _ := parseGet(req)
			return appendBlocks(nil, a.body(slices.Repeat(site.blocks[1:2], len(cids))...))
		})},
		{name: "no node", want: Partial, share: 1, host: but(frameGet, func(req []byte) []byte {
			cids, _ := parseGet(req)
			return appendBlocks(nil, a.body(make([]blockstore.Block, len(cids))...))
		})},
		{name: "broken compression", banned: true, host: but(frameWant, func(req []byte) []byte {
			return appendData(nil, wanted(t, req)[0], body{count: 1, encoding: encodingZstd, raw: 10, payload: []byte("nonsense")})
		})},
		{name: "a leaf that nobody asked for", want: Partial, share: -1, host: but(frameWant, func(req []byte) []byte {
			i := (wanted(t, req)[0] + 1) % a.order.leaves.len()
			data := appendData(nil, i, a.body(a.blocks[a.order.leaves.at(i)]))
			return concat(data, data)
		})},
		{name: "silent from the start", silent: start, host: stranger(t, func(st network.Stream) {
			start.answer(nil)
			read(st)
		})},
		{name: "silent after HELLO", silent: afterHello, host: liar(t, func(_ frameType, req []byte) []byte {
			return afterHello.answer(req)
		})},
		{name: "silent when leaves are asked for", want: Partial, silent: leaves, host: but(frameWant, leaves.answer)},
		{name: "silent when nodes are asked for", want: Partial, share: 1, leaves: probeLeaves,
			host: but(frameGet, newSilence().answer)},
		{name: "closed at once", host: stranger(t, func(network.Stream) {})},
		{name: "closed after HELLO", host: stranger(t, func(st network.Stream) {
			st.Write(hello)
			st.CloseWrite()
			read(st)
		})},
		{name: "no HELLO", host: stranger(t, func(st network.Stream) {
			st.Write(a.honest(frameOpen, nil))
			read(st)
		})},
		{name: "busy, and full", want: Full, share: 1, host: but(frameOpen, func([]byte) []byte { return appendBusy(nil, time.Second) })},
		{name: "busy, and half", want: Partial, share: -1, host: func() host.Host {
			halves := newAnswers(t, site)
			clear(halves.blocks)
			for _, b := range half {
				halves.blocks[b.CID()] = b
			}
			return liar(t, func(typ frameType, req []byte) []byte {
				if typ == frameOpen {
					return appendBusy(nil, time.Second)
				}
				return halves.honest(typ, req)
			})
		}()},
		{name: "busy, and nothing", want: Absent, host: liar(t, func(typ frameType, req []byte) []byte {
			switch typ {
			case frameOpen:
				return appendBusy(nil, time.Second)
			case frameGet:
				cids, _ := parseGet(req)
				return appendBlocks(nil, a.body(make([]blockstore.Block, len(cids))...))
			}
			return nil
		})},
		{name: "another protocol", host: newHost(t)},
		{name: "gone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			info := gone
			if tc.host != nil {
				info = peer.AddrInfo{ID: tc.host.ID(), Addrs: tc.host.Addrs()}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				select {
				case <-tc.silent:
					cancel()
				case <-ctx.Done():
				}
			}()
			came := 0
			got := prober.client.probe(ctx, info, site.root(), a.order, func() {
				if came++; came == tc.leaves {
					cancel()
				}
			}).result()
			if got.Standing != tc.want {
				t.Errorf("standing %d, want %d", got.Standing, tc.want)
			}
			if tc.share >= 0 && (got.Share < tc.share-0.01 || got.Share > tc.share+0.01) || got.Share == 1 && tc.share < 0 {
				t.Errorf("share %v, want %v", got.Share, tc.share)
			}
			if (got.RTT > 0) != (got.Standing != Unreachable) {
				t.Errorf("standing %d with a round trip of %v", got.Standing, got.RTT)
			}
			if banned := prober.client.bans.has(info.ID); banned != tc.banned {
				t.Errorf("banned: %v", banned)
			}
			if got.Peer.ID != info.ID || got.Standing != Unreachable && !slices.ContainsFunc(got.Peer.Addrs, info.Addrs[0].Equal) {
				t.Errorf("%v at %v", got.Peer.ID, got.Peer.Addrs)
			}
			if tc.banned {
				again := prober.client.probe(t.Context(), info, site.root(), a.order, func() {}).result()
				if again.Standing != Unreachable {
					t.Errorf("standing %d the second time", again.Standing)
				}
			}
		})
	}
}

// TestProbeKinds probes for DAGs of unusual shapes, of which the peer holds all.
func TestProbeKinds(t *testing.T) {
	prober := newNode(t)
	leaf := blockstore.Sum(cid.Raw, []byte("leaf"))
	for name, blocks := range map[string][]blockstore.Block{
		"a leaf":               {leaf},
		"a node without links": {newTree(1, 0, 0).blocks[0]},
		"few leaves":           newTree(21, 1, 3).blocks,
		"large leaves":         large(t),
	} {
		t.Run(name, func(t *testing.T) {
			seed := newNode(t, blocks...)
			root := blocks[0].CID()
			o, err := buildOrder(t.Context(), seed.store, root, cid.Undef)
			if err != nil {
				t.Fatal(err)
			}
			p := prober.client.probe(t.Context(), seed.info(), root, o, func() {})
			if r := p.result(); r.Standing != Full || r.Share != 1 {
				t.Errorf("%+v", r)
			}
			if p.bytes > probeBytes+3*blockstore.MaxBlockSize {
				t.Errorf("%d bytes of leaves came", p.bytes)
			}
			other := newNode(t)
			if r := prober.client.probe(t.Context(), other.info(), root, o, func() {}).result(); r.Standing >= Partial && r.Share > 0 {
				t.Errorf("of a peer that has nothing: %+v", r)
			}
		})
	}
}

func nodesOf(blocks []blockstore.Block) []blockstore.Block {
	return slices.DeleteFunc(slices.Clone(blocks), func(b blockstore.Block) bool { return b.CID().Type() == cid.Raw })
}

// large returns a DAG of 20 leaves of 2 MiB.
func large(t *testing.T) []blockstore.Block {
	t.Helper()
	site := tree{}
	for i := range 20 {
		data := make([]byte, blockstore.MaxBlockSize)
		data[0] = byte(i)
		site.blocks = append(site.blocks, blockstore.Sum(cid.Raw, data))
	}
	return append([]blockstore.Block{nodeOf(site.blocks...)}, site.blocks...)
}
