package exchange

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// TestReaderMakesRoom has a reader wait for a block: Fetches leave room for it when somebody was
// asked, and as long as it comes, but not for one that nobody has.
func TestReaderMakesRoom(t *testing.T) {
	data := make([]byte, 400<<10)
	rand.NewChaCha8([32]byte{7}).Read(data)
	b := blockstore.Sum(cid.Raw, data)
	h := outside(t)
	for _, tt := range []struct {
		name  string
		holds []blockstore.Block
		rate  int // bytes/s
		late  bool
	}{
		{"nobody has it", nil, 50 << 10, false},
		{"comes slowly", []blockstore.Block{b}, 50 << 10, true},
		{"trickles", []blockstore.Block{b}, 4 << 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed, store := nodeOn(t, h, nil, hold(tt.holds...)), newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{"seed": func(st network.Stream, from peer.ID) {
					seed.near(paced{st, tt.rate}, from)
				}}}, store, store)
				candidates := make(chan Candidate, 1)
				ended := make(chan error, 1)
				go func() {
					req := GetRequest{Store: store, CID: b.CID(), Timeout: 10 * time.Second}
					ended <- mirror.client.Get(t.Context(), req, candidates)
				}()
				room := func(at string, want bool) {
					t.Helper()
					synctest.Wait()
					if got := mirror.client.readers.Load() > 0; got != want {
						t.Errorf("%s, and there is room for it: %v", at, got)
					}
				}
				room("nobody was asked", false)
				candidates <- Candidate{peer.AddrInfo{ID: "seed"}, true}
				room("it was just asked for", true)
				time.Sleep(getYields / 2)
				for range 10 { // also when those that lack it are asked again
					time.Sleep(getYields / 2)
					time.Sleep(time.Millisecond)
					room("it was asked for long ago", tt.late)
				}
				<-ended
				room("nobody waits any more", false)
				time.Sleep(time.Minute) // until nobody is served any more
			})
		})
	}
}
