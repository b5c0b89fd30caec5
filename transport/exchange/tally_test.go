package exchange

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestTally adds what one counted to another: each peer counts once.
func TestTally(t *testing.T) {
	var sum, part Tally
	for _, p := range []peer.ID{"Castor", "Pollux", "Castor"} {
		sum.came(p)
	}
	sum.received.Add(300)
	part.came("Pollux")
	part.came("Helen")
	part.received.Add(40)
	sum.Add(&part)
	if sum.Received() != 340 || sum.Peers() != 3 {
		t.Errorf("%d bytes of %d peers, want 340 of 3", sum.Received(), sum.Peers())
	}
	if part.Received() != 40 || part.Peers() != 2 {
		t.Errorf("what was added is now %d bytes of %d peers", part.Received(), part.Peers())
	}
}

// sending counts what is written to a stream.
type sending struct {
	network.Stream
	bytes *atomic.Int64
}

func (s sending) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	s.bytes.Add(int64(n))
	return n, err
}

// TestGetTally gets blocks from a peer that comes after one which is cut off and one which lacks
// them: what those sent counts as well, and they do not count as peers that sent blocks.
func TestGetTally(t *testing.T) {
	h, blocks := newHost(t), twins()
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, near{h, "seed", nil}, nil, hold(blocks...))
		absent := nodeOn(t, near{h, "absent", nil}, nil, hold())
		var sent atomic.Int64
		counts := func(do func(network.Stream, peer.ID)) func(network.Stream, peer.ID) {
			return func(st network.Stream, from peer.ID) { do(sending{st, &sent}, from) }
		}
		cut := func(st network.Stream, _ peer.ID) {
			go io.Copy(io.Discard, st)
			st.Write(hello)
			st.Reset()
		}
		store := newStore(t)
		mirror := nodeOn(t, near{h, "mirror", streams{
			"cut": counts(cut), "absent": counts(absent.near), "seed": counts(seed.near),
		}}, store, store)
		var tally Tally
		for i, b := range blocks {
			candidates := make(chan Candidate, 3)
			for _, p := range []peer.ID{"cut", "absent", "seed"} {
				candidates <- Candidate{peer.AddrInfo{ID: p}, true}
			}
			req := GetRequest{Store: store, CID: b.CID(), Tally: &tally}
			if err := mirror.client.Get(t.Context(), req, candidates); err != nil {
				t.Fatal(err)
			}
			got := tally.Received()
			synctest.Wait() // until what was written last is in sent
			if want := sent.Load(); got != want || tally.Peers() != 1 {
				t.Errorf("%d bytes of %d peers after %d blocks, want %d of 1", got, tally.Peers(), i+1, want)
			}
		}
		settle(t, seed.server, absent.server)
	})
}
