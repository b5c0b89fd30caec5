package exchange

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/blockstore"
)

// scripts are the hostile providers. None of them keeps a fetch waiting for longer than
// it takes to notice that nothing comes.
func scripts() []script {
	everywhere := []span{{0, maxLeaves}}
	silent := func(*actor, []span) []byte { return nil }
	bombs := map[string][]byte{
		"with its length":    bomb(64<<20, false),
		"without its length": bomb(64<<20, true),
		"of many frames":     bytes.Repeat(bomb(2<<20, true), 64),
		"just too long":      bomb(maxRaw+1, true),
	}
	all := []script{
		{name: "wrong leaf", banned: true, want: wrongData(func(_ *actor, _ int, p piece) piece { return wrong(p) })},
		{name: "leaf cut short", banned: true, want: wrongData(func(_ *actor, _ int, p piece) piece {
			return piece{kind: kindBlock, bytes: p.bytes[:len(p.bytes)-1]}
		})},
		{name: "leaf of zeros", banned: true, want: wrongData(func(_ *actor, _ int, p piece) piece {
			return piece{kind: kindBlock, bytes: make([]byte, len(p.bytes))}
		})},
		{name: "leaves in another order", banned: true, want: func(a *actor, spans []span) []byte {
			return a.each(spans, func(s span) []byte {
				pieces := a.pieces(s)
				slices.Reverse(pieces)
				return appendData(nil, s.first, a.enc.body(pieces, levelFast))
			})
		}},
		{name: "wrong node", banned: true, list: func(a *actor, l list) []byte {
			pieces, full, last := a.listed(l)
			if n := len(pieces); n > 0 {
				pieces[n-1] = wrong(pieces[n-1])
			}
			return appendIndex(nil, l.from, full, last, a.enc.body(pieces, levelFast))
		}},
		{name: "a delta without a base", banned: true, want: wrongData(func(_ *actor, _ int, p piece) piece {
			return piece{kind: kindDelta, bytes: []byte{0, 1}}
		})},
		{name: "no block where one is to be", banned: true, want: wrongData(func(*actor, int, piece) piece {
			return piece{kind: kindMissing}
		})},
		{name: "stored, and no zstd", banned: true, want: wrongData(func(_ *actor, _ int, p piece) piece {
			return piece{kind: kindStored, bytes: p.bytes}
		})},
		{name: "stored, and another block", banned: true, want: wrongData(func(a *actor, _ int, p piece) piece {
			return piece{kind: kindStored, bytes: a.enc.zstd[levelFast].EncodeAll([]byte("another"), nil)}
		})},
		{name: "body that is no zstd", banned: true, want: func(a *actor, spans []span) []byte {
			return rawData(uint64(spans[0].first), 1, encodingZstd, 1000, []byte("no zstd"))
		}},
		{name: "body longer than announced", banned: true, want: func(a *actor, spans []span) []byte {
			return rawData(uint64(spans[0].first), 1, encodingZstd, 1000, bomb(1001, false))
		}},
		{name: "body shorter than announced", banned: true, want: func(a *actor, spans []span) []byte {
			return rawData(uint64(spans[0].first), 1, encodingZstd, 1000, bomb(999, false))
		}},
		{name: "heads for more than there is", banned: true, want: func(a *actor, spans []span) []byte {
			payload := append(uvarints(blockstore.MaxBlockSize<<2), "little"...)
			return rawData(uint64(spans[0].first), 1, encodingPlain, uint64(len(payload)), payload)
		}},
		{name: "heads of 2^64-1", banned: true, want: func(a *actor, spans []span) []byte {
			payload := append(uvarints(math.MaxUint64), "little"...)
			return rawData(uint64(spans[0].first), 1, encodingPlain, uint64(len(payload)), payload)
		}},

		{name: "frame of 2^63 bytes", want: func(*actor, []span) []byte { return uvarints(1 << 63) }},
		{name: "frame of 2^64-1 bytes", list: func(*actor, list) []byte { return uvarints(math.MaxUint64) }},
		{name: "frame without a type", list: func(*actor, list) []byte { return uvarints(0) }},
		{name: "number without an end", open: func(*actor, open) []byte { return bytes.Repeat([]byte{0xff}, 20) }},
		{name: "leaf 2^63", want: func(*actor, []span) []byte { return rawData(1<<63, 1, 0, 2, []byte{4, 0}) }},
		{name: "2^63 leaves", want: func(*actor, []span) []byte { return rawData(0, 1<<63, 0, 2, []byte{4, 0}) }},
		{name: "leaf of 2^63 bytes", want: func(*actor, []span) []byte { return rawData(0, 1, 1, 1<<63, []byte{4, 0}) }},
		{name: "node 2^63", list: func(*actor, list) []byte {
			return appendFrame(nil, frameIndex, uvarints(1<<63), []byte{flagFull})
		}},
		{name: "spans of 2^63", open: func(a *actor, o open) []byte {
			return appendFrame(a.opens(o), frameHave, []byte{0}, uvarints(1, 1<<63, 1<<63))
		}},
		{name: "2^63 spans", open: func(a *actor, o open) []byte {
			return appendFrame(a.opens(o), frameHave, []byte{0}, uvarints(1<<63))
		}},
		{name: "unknown type", open: func(*actor, open) []byte { return appendFrame(nil, 99, []byte("?")) }},
		{name: "a fetcher's frame", open: func(a *actor, o open) []byte { return appendOpen(nil, o) }},
		{name: "no HELLO", hello: func(*actor) []byte { return appendOpened(nil, opened{status: 1}) }},
		{name: "long HELLO", hello: func(*actor) []byte { return appendFrame(nil, frameHello, make([]byte, maxHello+1)) }},
		{name: "HELLO twice", hello: func(*actor) []byte {
			return concat(appendFrame(nil, frameHello), appendFrame(nil, frameHello))
		}},
		{name: "web server", hello: func(*actor) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }},

		{name: "leaves that nobody asked for", open: func(a *actor, o open) []byte {
			n := a.order.leaves.len()
			return append(a.opens(o), appendData(nil, n, a.enc.body(make([]piece, 100), levelFast))...)
		}},
		{name: "leaves that there are not", list: func(a *actor, l list) []byte {
			return append(a.nodes(l), appendData(nil, 0, a.enc.body(make([]piece, maxPieces), levelFast))...)
		}},
		{name: "leaves before nodes", deaf: true, open: func(a *actor, o open) []byte {
			frames := a.opens(o)
			for i := range 100 {
				frames = append(frames, appendData(nil, maxLeaves-100+i, a.enc.body(make([]piece, 1), levelFast))...)
			}
			return frames
		}},
		{name: "leaves twice", want: func(a *actor, spans []span) []byte {
			return concat(a.leaves(spans), a.leaves(spans))
		}},
		{name: "nodes that nobody asked for", want: func(a *actor, _ []span) []byte { return a.nodes(list{}) }},
		{name: "nodes without end", list: func(a *actor, l list) (frames []byte) {
			pieces, _, _ := a.listed(list{})
			b := a.enc.body(pieces, levelFast)
			for i := range 1000 {
				frames = append(frames, appendIndex(nil, len(pieces)*i, true, false, b)...)
			}
			return frames
		}},
		{name: "nodes one by one, and without end", list: func(a *actor, l list) (frames []byte) {
			pieces, _, _ := a.listed(list{})
			for i := range 1000 {
				b := a.enc.body(pieces[min(i, len(pieces)-1):][:1], levelFast)
				frames = append(frames, appendIndex(nil, i, true, false, b)...)
			}
			return frames
		}},
		{name: "LATER", want: func(a *actor, spans []span) []byte { return appendSpanFrame(nil, frameLater, spans) }},
		{name: "LATER that nobody asked for", open: func(a *actor, o open) []byte {
			return append(a.opens(o), appendSpanFrame(nil, frameLater, everywhere)...)
		}},
		{name: "LATER of everything", want: func(a *actor, _ []span) []byte {
			return appendSpanFrame(nil, frameLater, everywhere)
		}},
		{name: "nodes once more", list: func(a *actor, l list) []byte {
			return bytes.Repeat(a.nodes(l), 10)
		}},
		{name: "INDEX of nothing, over and over", list: func(a *actor, l list) []byte {
			return bytes.Repeat(appendIndex(nil, l.from, true, true, a.enc.body(nil, levelFast)), 1000)
		}},
		{name: "MISS that nobody asked for", open: func(a *actor, o open) []byte {
			return append(a.opens(o), appendSpanFrame(nil, frameMiss, everywhere)...)
		}},
		{name: "MISS of everything", want: func(a *actor, _ []span) []byte {
			return appendSpanFrame(nil, frameMiss, everywhere)
		}},
		{name: "MISS", want: func(a *actor, spans []span) []byte { return appendSpanFrame(nil, frameMiss, spans) }},
		{name: "MISS for each", want: func(a *actor, spans []span) (frames []byte) {
			for _, s := range spans {
				for i := s.first; i < s.end(); i++ {
					frames = append(frames, appendSpanFrame(nil, frameMiss, []span{{i, 1}})...)
				}
			}
			return frames
		}},
		{name: "OPENED twice", open: func(a *actor, o open) []byte { return concat(a.opens(o), a.opens(o)) }},
		{name: "OPENED 3", open: func(*actor, open) []byte { return appendOpened(nil, opened{status: 3}) }},
		{name: "OPENED 0", open: func(*actor, open) []byte { return appendOpened(nil, opened{}) }},
		{name: "OPENED of a base that was not named", open: func(a *actor, o open) []byte {
			return appendHave(appendOpened(nil, opened{status: statusBased}), true, nil)
		}, list: func(a *actor, l list) []byte {
			return appendIndex(nil, l.from, false, true, a.enc.body([]piece{{kind: kindDelta, bytes: []byte{0, 1}}}, levelFast))
		}, banned: true},
		{name: "HAVE over and over", after: func(*actor) []byte {
			return bytes.Repeat(appendHave(nil, true, everywhere), 10_000)
		}},
		{name: "HAVE of every second leaf", open: func(a *actor, o open) (frames []byte) {
			frames = appendOpened(nil, opened{status: 1})
			for from := 0; from < 1<<16; from += 2 * maxSpans {
				spans := make([]span, maxSpans)
				for i := range spans {
					spans[i] = span{from + 2*i, 1}
				}
				frames = appendHave(frames, false, spans)
			}
			return frames
		}},
		{name: "HAVE of nothing", open: func(a *actor, o open) []byte {
			return appendHave(appendOpened(nil, opened{status: 1}), false, nil)
		}},
		{name: "BLOCKS", open: func(a *actor, o open) []byte {
			return append(a.opens(o), a.blocks([]cid.Cid{o.root})...)
		}},

		{name: "a byte now and then, of nodes", deaf: true, list: func(a *actor, l list) []byte { return a.nodes(l)[:1] }},
		{name: "a byte now and then, of leaves", deaf: true, want: func(a *actor, s []span) []byte { return a.leaves(s)[:1] }},
		{name: "half of the leaves", deaf: true, want: func(a *actor, s []span) []byte {
			all := a.leaves(s)
			return all[:len(all)/2]
		}},
		{name: "no answer to anything", deaf: true, hello: func(*actor) []byte { return nil }},
		{name: "no answer to OPEN", deaf: true, open: func(*actor, open) []byte { return nil }},
		{name: "no answer to LIST", list: func(*actor, list) []byte { return nil }},
		{name: "no answer to WANT", want: silent},
		{name: "gone at once", gone: true, hello: func(*actor) []byte { return nil }},
		{name: "gone after OPEN", gone: true, open: func(*actor, open) []byte { return nil }},
		{name: "gone after LIST", gone: true, list: func(*actor, list) []byte { return nil }},
		{name: "gone after WANT", gone: true, want: silent},
		{name: "gone in a frame", gone: true, want: func(a *actor, s []span) []byte { return a.leaves(s)[:100] }},
		{name: "lies and is gone", gone: true, banned: true, want: wrongData(func(_ *actor, _ int, p piece) piece { return wrong(p) })},

		{name: "BUSY for an hour", open: func(*actor, open) []byte { return appendBusy(nil, maxPause) }},
		{name: "BUSY for longer", open: func(*actor, open) []byte { return appendBusy(nil, maxPause+time.Millisecond) }},
		{name: "BUSY for no time", open: func(*actor, open) []byte { return appendBusy(nil, 0) }},
		{name: "BUSY in the middle", want: func(*actor, []span) []byte { return appendBusy(nil, maxPause) }},

		{name: "PEERS of junk", after: func(*actor) []byte { return appendFrame(nil, framePeers, []byte("junk")) }},
		{name: "PEERS of itself and the fetcher", after: func(a *actor) []byte {
			infos := []peer.AddrInfo{a.info()}
			for _, p := range a.Network().Peers() {
				infos = append(infos, peer.AddrInfo{ID: p, Addrs: a.Addrs()})
			}
			return appendPeers(nil, len(infos), infos)
		}},
		{name: "PEERS that are not there", after: func(a *actor) (frames []byte) {
			for range 600 {
				infos := make([]peer.AddrInfo, maxPeers)
				for i := range infos {
					infos[i].ID, _ = test.RandPeerID()
					infos[i].Addrs = []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/1")}
				}
				frames = append(frames, appendPeers(nil, len(infos), infos)...)
			}
			return frames
		}},

		{name: "a delta that is cut short", banned: true, based: true, want: wrongData(func(a *actor, leaf int, p piece) piece {
			d := deltaOf(a.base(leaf), p)
			return piece{kind: kindDelta, bytes: d.bytes[:len(d.bytes)-1]}
		})},
		{name: "a delta that reaches outside its base", banned: true, based: true, want: wrongData(func(*actor, int, piece) piece {
			return piece{kind: kindDelta, bytes: uvarints(2, 2*5_000_000, 2*100)}
		})},
		{name: "a delta of a run of 2^63", banned: true, based: true, want: wrongData(func(*actor, int, piece) piece {
			return piece{kind: kindDelta, bytes: uvarints(0, 1<<63)}
		})},
		{name: "a delta that gives too much", banned: true, based: true, want: wrongData(func(*actor, int, piece) piece {
			return piece{kind: kindDelta, bytes: bytes.Repeat(uvarints(2, 0, 1), 1000)}
		})},
		{name: "a delta that gives another block", banned: true, based: true, want: wrongData(func(*actor, int, piece) piece {
			return piece{kind: kindDelta, bytes: []byte{0, 1}} // the base itself
		})},
		{name: "a delta against another base", banned: true, based: true, want: wrongData(func(a *actor, leaf int, p piece) piece {
			base := a.base(leaf)
			half := len(base) / 2
			return deltaOf(concat(base[half:], base[:half]), p)
		})},
		{name: "a delta that searches for long", banned: true, based: true, want: wrongData(func(a *actor, leaf int, _ piece) piece {
			return piece{kind: kindDelta, bytes: longSearch(a.base(leaf))}
		})},
		{name: "a delta of empty blocks", banned: true, based: true, want: wrongData(func(*actor, int, piece) piece {
			return piece{kind: kindDelta, bytes: emptyBlocks(500_000)}
		})},
		{name: "a delta that gives another node", banned: true, based: true, list: func(a *actor, l list) []byte {
			pieces, full, last := a.listed(l)
			for i := range pieces {
				pieces[i] = piece{kind: kindDelta, bytes: []byte{0, 1}} // the base itself
			}
			return appendIndex(nil, l.from, full, last, a.enc.body(pieces, levelFast))
		}},
	}
	for name, b := range bombs {
		all = append(all, script{name: "zstd without end in the body, " + name, banned: true, want: func(a *actor, spans []span) []byte {
			return rawData(uint64(spans[0].first), 1, encodingZstd, maxRaw, b)
		}}, script{name: "zstd without end in a piece, " + name, banned: true, want: wrongData(func(*actor, int, piece) piece {
			return piece{kind: kindStored, bytes: b}
		})}, script{name: "zstd without end in the index, " + name, banned: true, list: func(a *actor, l list) []byte {
			return appendFrame(nil, frameIndex, uvarints(uint64(l.from)), []byte{flagFull},
				uvarints(1), []byte{encodingZstd}, uvarints(maxRaw), b)
		}})
	}
	return all
}

// TestHostileProviders gives a fetch one hostile provider, and an honest one once that
// one did what it does.
func TestHostileProviders(t *testing.T) {
	all := scripts()
	sites := make([]tree, len(all)) // for each another, so that the mirrors do not meet
	held := make(memStore)
	for i := range sites {
		sites[i] = newTree(uint64(100+i), 3, 15)
		maps.Copy(held, hold(sites[i].blocks...))
	}
	old, next := pages(3, 60, "May 12"), pages(3, 60, "October 7")
	both := append(slices.Clone(old), next...)
	maps.Copy(held, hold(both...))
	honest := nodeWith(t, nil, held)
	for i, s := range all {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			mirror := newNode(t)
			want, known := sites[i].blocks, 0
			req := Request{Store: mirror.store, Root: sites[i].root()}
			var base cid.Cid
			if s.based {
				if err := mirror.store.Put(old...); err != nil {
					t.Fatal(err)
				}
				want, known, base = both, len(old), old[0].CID()
				req.Root, req.Bases = next[0].CID(), []cid.Cid{base}
			}
			evil := newActor(t, s, req.Root, base, want...)
			ctx := limit(t)
			candidates := evil.before(ctx, honest)
			res, err := mirror.client.Fetch(ctx, req, candidates)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-evil.acted:
			case <-ctx.Done():
				t.Error("the provider was not asked")
			}
			mirror.checkHeld(t, want)
			if n := len(want) - known; res.Blocks != n {
				t.Errorf("%d blocks, want %d", res.Blocks, n)
			}
			if got := mirror.client.bans.has(evil.ID()); got != s.banned {
				t.Errorf("banned: %v, want %v", got, s.banned)
			}
			if mirror.client.bans.has(honest.ID()) {
				t.Error("the honest provider is banned")
			}
		})
	}
}
