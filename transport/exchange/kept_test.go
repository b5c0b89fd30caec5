package exchange

import (
	"bufio"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

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
