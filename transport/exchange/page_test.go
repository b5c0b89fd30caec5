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

// TestPagesBeforeBulk gets pages, one after the other, while a site is fetched from the same
// provider over the same line. The first waits for what is on its way, and each of the others,
// for which the fetch has left room by then, comes in less than two round trips.
func TestPagesBeforeBulk(t *testing.T) {
	const rate, rtt = 2 << 20, 100 * time.Millisecond
	r := rand.NewChaCha8([32]byte{7})
	random := func(n, every int) blockstore.Block { // what shrinks to a part
		data := make([]byte, n)
		for i := 0; i < n; i += every {
			r.Read(data[i:min(i+64, n)])
		}
		return blockstore.Sum(cid.Raw, data)
	}
	var pages, leaves []blockstore.Block
	for range 4 {
		pages = append(pages, random(10<<10, 64))
	}
	for range 500 {
		leaves = append(leaves, random(32<<10, 5*64))
	}
	site := append(leaves, nodeOf(leaves...))
	root := site[len(leaves)].CID()
	h := outside(t)
	synctest.Test(t, func(t *testing.T) {
		seed, store := nodeOn(t, h, nil, hold(append(site, pages...)...)), newStore(t)
		line := &cable{rate: rate, delay: rtt}
		mirror := nodeOn(t, near{h, "mirror", streams{"seed": func(st network.Stream, from peer.ID) {
			st = line.carry(st)
			seed.server.serve(st, &network.NullScope{}, from)
			st.Reset()
		}}}, store, store)
		from := peer.AddrInfo{ID: "seed"}
		fetched := make(chan error, 1)
		go func() {
			_, err := mirror.fetch(t.Context(), Request{Root: root}, from)
			fetched <- err
		}()
		time.Sleep(time.Second / 2) // so that it is known what the line takes
		for i, p := range pages {
			candidates := make(chan Candidate, 1)
			candidates <- Candidate{from, true}
			asked := time.Now()
			if err := mirror.client.Get(t.Context(), GetRequest{Store: store, CID: p.CID()}, candidates); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(asked); i > 0 && took > 7*rtt/4 {
				t.Errorf("page %d came after %v", i, took)
			}
		}
		if len(fetched) > 0 {
			t.Error("the fetch ended before the pages came")
		}
		if err := <-fetched; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // until nobody is served any more
		mirror.checkHeld(t, append(site, pages...))
	})
}
