package exchange

import (
	"errors"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

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
