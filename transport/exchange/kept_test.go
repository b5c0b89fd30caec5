package exchange

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// TestNothingIsNotKept lists nodes behind the end: that keeps nothing, as there is no end of it.
func TestNothingIsNotKept(t *testing.T) {
	site := newTree(115, 3, 3)
	seed := newNode(t, site.blocks...)
	f, _, _ := openAt(t, seed, "p", open{root: site.root()})
	for _, l := range []list{{}, {from: 4}, {from: 5, count: 1}, {from: maxNodes}} {
		if _, err := f.Write(appendList(nil, l)); err != nil {
			t.Fatal(err)
		}
		_, body, err := f.next(frameIndex)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := parseIndex(body); err != nil || (a.body.count > 0) != (l.from == 0) {
			t.Errorf("%d nodes from number %d on, %v", a.body.count, l.from, err)
		}
	}
	seed.server.frames.mu.Lock()
	defer seed.server.frames.mu.Unlock()
	if n := seed.server.frames.lru.Len(); n != 1 {
		t.Errorf("%d frames are kept, of one with nodes", n)
	}
}

// TestPassedOnAsItCame fetches pages that were packed. The mirror keeps them as they came.
func TestPassedOnAsItCame(t *testing.T) {
	site := pages(4, 400, "May 12")
	seed, mirror := newNode(t, site...), newNode(t)
	if _, err := mirror.fetch(limit(t), Request{Root: site[0].CID()}, seed.info()); err != nil {
		t.Fatal(err)
	}
	packed := func(n *node) map[frameKey]body {
		c := n.server.frames
		c.mu.Lock()
		defer c.mu.Unlock()
		all := make(map[frameKey]body)
		for _, k := range c.lru.Keys() {
			if b, _ := c.lru.Peek(k); !k.nodes && b.encoding == encodingZstd {
				all[k] = b
			}
		}
		return all
	}
	sent, kept := packed(seed), packed(mirror)
	if len(sent) == 0 {
		t.Fatal("nothing was packed")
	}
	for k, b := range sent {
		if !bytes.Equal(b.payload, kept[k].payload) || b.raw != kept[k].raw || b.count != kept[k].count {
			t.Errorf("leaves %v are kept in %d bytes, came in %d", k.span, len(kept[k].payload), len(b.payload))
		}
	}
}

type bookings struct{ now, most atomic.Int64 }

func (b *bookings) ReserveMemory(n int, _ uint8) error {
	if now := b.now.Add(int64(n)); now > b.most.Load() {
		b.most.Store(now)
	}
	return nil
}

func (b *bookings) ReleaseMemory(n int) { b.now.Add(-int64(n)) }

func TestKeptFramesAreBooked(t *testing.T) {
	var leaves []blockstore.Block
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		b := make([]byte, 5000)
		for i := range b {
			b[i] = "0123456789abcdef"[r.IntN(16)] // half of it is kept
		}
		leaves = append(leaves, blockstore.Sum(cid.Raw, b))
	}
	site := append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
	seed := nodeOn(t, newHost(t), nil, hold(site...))
	for _, ask := range [][]byte{
		appendSpanFrame(nil, frameWant, []span{{0, len(leaves)}}),
		appendList(nil, list{}),
	} {
		for _, p := range []peer.ID{"first", "second"} {
			mine, others := pipes()
			mem := new(bookings)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				seed.server.serve(others, mem, p)
			}()
			f := &fetcher{Stream: mine, r: bufio.NewReader(mine)}
			if _, err := f.Write(append(opening(site[0].CID()), ask...)); err != nil {
				t.Fatal(err)
			}
			_, body, err := f.next(frameData, frameIndex)
			if err != nil {
				t.Fatal(err)
			}
			if n := mem.most.Load(); n < int64(len(body)) {
				t.Errorf("%s: %d bytes are booked for a frame of %d", p, n, len(body))
			}
			mine.Reset()
			<-ended
			if n := mem.now.Load(); n != 0 {
				t.Errorf("%d bytes stay booked", n)
			}
		}
	}
}

// reads is a store that counts how often a leaf is read.
type reads struct {
	*blockstore.Store // which packs
	leaves            atomic.Int64
}

func (r *reads) Packed(ctx context.Context, c cid.Cid) ([]byte, bool, int, error) {
	r.leaves.Add(1)
	return r.Store.Packed(ctx, c)
}

// TestTwoAnswersAreKept has mirrors ask for a segment that takes two answers, or let the provider
// choose: it is read and packed once.
func TestTwoAnswersAreKept(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 2))
	var leaves []blockstore.Block
	for _, size := range []int{segmentBytes * 3 / 4, 2 * segmentBytes} {
		b := make([]byte, size)
		for i := range b {
			b[i] = "0123"[r.IntN(4)]
		}
		leaves = append(leaves, blockstore.Sum(cid.Raw, b))
	}
	site := append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
	h, store := newHost(t), &reads{Store: newStore(t)}
	if err := store.Put(site...); err != nil {
		t.Fatal(err)
	}
	// Once outside of the bubble, or what all tests unpack with would be of it.
	data, _, _, err := store.Store.Packed(t.Context(), leaves[0].CID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blockstore.Unpack(leaves[0].CID(), data); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, store)
		read := int64(0)
		for i, eager := range []int{0, 0, maxEager} {
			mine, others := pipes()
			go seed.server.serve(others, &network.NullScope{}, peer.ID(fmt.Sprint(i)))
			f := &fetcher{Stream: mine, r: bufio.NewReader(mine)}
			f.Write(appendOpen(bytes.Clone(hello), open{root: site[0].CID(), eager: eager}))
			want := appendSpanFrame(nil, frameWant, []span{{0, 2}})
			if eager > 0 {
				f.Write(appendList(nil, list{}))
			} else {
				f.Write(want)
			}
			for leaf := range leaves {
				_, body, err := f.next(frameData)
				if err != nil || int(body[0]) != leaf || body[1] != 1 {
					t.Fatalf("mirror %d: %v, or not leaf %d alone", i, err, leaf)
				}
				if eager > 0 && leaf == 0 {
					f.Write(want)
				}
			}
			f.Reset()
			if i == 0 {
				read = store.leaves.Load()
			} else if n := store.leaves.Load(); n != read {
				t.Errorf("mirror %d: %d leaves are read again", i, n-read)
			}
		}
		settle(t, seed.server)
	})
}
