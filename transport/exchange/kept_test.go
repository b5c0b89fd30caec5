package exchange

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
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
