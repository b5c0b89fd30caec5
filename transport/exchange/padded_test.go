package exchange

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// behind appends a skippable zstd frame of n bytes to one: what is decoded stays the same.
func behind(frame []byte, n int) []byte {
	frame = binary.LittleEndian.AppendUint32(slices.Clone(frame), 0x184D2A50)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(n))
	return append(frame, make([]byte, n)...)
}

// TestPadded has a provider pad what it sends, correct as it is, so that the line seems full: it
// holds nothing up once a seed has come.
func TestPadded(t *testing.T) {
	var small []blockstore.Block
	for i := range 2 * segmentLeaves {
		small = append(small, raw(fmt.Sprint("page ", i)))
	}
	pages := append([]blockstore.Block{nodeOf(small...)}, small...)
	const padding = 128 << 10
	frame := func(enc *encoder, p []piece) body {
		b := enc.body(p, levelStored)
		return body{count: b.count, encoding: encodingZstd, raw: b.raw,
			payload: behind(enc.zstd[levelFast].EncodeAll(b.payload, nil), padding)}
	}
	h := outside(t)
	for _, tt := range []struct {
		name string
		site []blockstore.Block
		script
	}{
		{"leaves", pages, script{want: func(a *actor, spans []span) (frames []byte) {
			for _, s := range spans {
				for i := s.first; i < s.end(); i++ {
					p := a.pieces(span{i, 1})
					b := a.enc.body(p, levelFast)
					if i >= segmentLeaves { // first it shows what it can
						b = frame(a.enc, p)
					}
					frames = appendData(frames, i, b)
				}
			}
			return frames
		}}},
		{"stored leaves", pages, script{want: func(a *actor, spans []span) (frames []byte) {
			for _, s := range spans {
				for i := s.first; i < s.end(); i++ {
					p := a.pieces(span{i, 1})
					if i >= segmentLeaves {
						p[0] = piece{kind: kindStored, bytes: behind(a.enc.zstd[levelFast].EncodeAll(p[0].bytes, nil), padding)}
					}
					frames = appendData(frames, i, a.enc.body(p, levelStored))
				}
			}
			return frames
		}}},
		{"nodes", newTree(113, 200, 1).blocks, script{list: func(a *actor, l list) (frames []byte) {
			pieces, full, last := a.listed(l)
			for i := range pieces {
				frames = appendIndex(frames, l.from+i, full, last && i == len(pieces)-1, frame(a.enc, pieces[i:][:1]))
			}
			return frames
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				root := tt.site[0].CID()
				o, err := buildOrder(t.Context(), hold(tt.site...), root, cid.Undef)
				if err != nil {
					t.Fatal(err)
				}
				evil := actorOn(t, h, tt.script, hold(tt.site...), o)
				seed := nodeOn(t, h, nil, hold(tt.site...))
				store := newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{
					"evil": func(st network.Stream, _ peer.ID) { evil.play(paced{st, 256 << 10}) },
					"seed": seed.near,
				}}, store, store)
				candidates := make(chan Candidate, 2)
				candidates <- Candidate{peer.AddrInfo{ID: "evil"}, true}
				time.AfterFunc(time.Second/2, func() { candidates <- Candidate{peer.AddrInfo{ID: "seed"}, true} })
				began := time.Now()
				_, err = mirror.client.Fetch(t.Context(), Request{Store: store, Root: root, Timeout: time.Minute}, candidates)
				took := time.Since(began)
				time.Sleep(2 * time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				mirror.checkHeld(t, tt.site)
				if took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}
