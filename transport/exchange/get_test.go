package exchange

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// TestGet gets single blocks from a peer that has them, beside one that has not.
func TestGet(t *testing.T) {
	site := newTree(8, 2, 3)
	without, seed, mirror := newNode(t), newNode(t, site.blocks...), newNode(t)
	get := func(c cid.Cid, timeout time.Duration, from ...*node) error {
		candidates := make(chan Candidate, len(from))
		for _, n := range from {
			candidates <- Candidate{AddrInfo: n.info(), Provider: true}
		}
		return mirror.client.Get(t.Context(), GetRequest{Store: mirror.store, CID: c, Timeout: timeout}, candidates)
	}
	for _, b := range site.blocks[:3] {
		if err := get(b.CID(), 0, without, seed); err != nil {
			t.Fatal(err)
		}
		if _, err := mirror.store.Get(t.Context(), b.CID()); err != nil {
			t.Error(err)
		}
	}
	if err := get(site.blocks[1].CID(), 0); err != nil {
		t.Errorf("what is held was asked for: %v", err)
	}
	var unreachable *UnreachableError
	if err := get(blockstore.Sum(cid.Raw, []byte("nowhere")).CID(), time.Second, seed); !errors.As(err, &unreachable) {
		t.Errorf("what nobody has: %v", err)
	}
}

// TestGetManyCandidates buries an honest provider among more peers that cannot be reached than
// are remembered. All are found again and again, the honest one last.
func TestGetManyCandidates(t *testing.T) {
	h, block := newHost(t), raw("Pollux")
	infos := append(strangers(t, maxCandidates+50), peer.AddrInfo{ID: "seed"})
	synctest.Test(t, func(t *testing.T) {
		seed, store := nodeOn(t, near{h, "seed", nil}, nil, hold(block)), newStore(t)
		mirror := nodeOn(t, near{h, "mirror", streams{"seed": seed.near}}, store, store)
		ctx, cancel := context.WithCancel(t.Context())
		candidates := make(chan Candidate)
		var finds sync.WaitGroup
		finds.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				select {
				case candidates <- Candidate{infos[n%len(infos)], true}:
					time.Sleep(time.Millisecond)
				case <-ctx.Done():
				}
			}
		})
		err := mirror.client.Get(ctx, GetRequest{Store: store, CID: block.CID(), Timeout: time.Minute}, candidates)
		cancel()
		finds.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := store.Has(block.CID()); !ok || err != nil {
			t.Errorf("it is held: %v, %v", ok, err)
		}
	})
}
