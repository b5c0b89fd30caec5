package exchange

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// TestFewSegments has a crowd of mirrors that lack the same segment of a site: one that has
// changed, or leaves of one that were lost. The seed sends it to one of them and puts the others
// off, as that could pass it on. It cannot, but they get theirs before they would insist.
func TestFewSegments(t *testing.T) {
	leaves := make([]blockstore.Block, 8)
	for i := range leaves {
		leaves[i] = blockstore.Sum(cid.Raw, bytes.Repeat([]byte{byte(i)}, segmentBytes))
	}
	site := append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
	changed := append([]blockstore.Block{raw("changed")}, leaves[1:]...)
	old := append([]blockstore.Block{nodeOf(changed...)}, changed...)
	for name, tt := range map[string]struct {
		held  []blockstore.Block
		bases []cid.Cid
	}{
		"update": {old, []cid.Cid{old[0].CID()}},
		"repair": {slices.Delete(slices.Clone(site), 1, 2), nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			synctest.Test(t, func(t *testing.T) {
				seed := nodeOn(t, h, nil, hold(append(old, site...)...))
				began := time.Now()
				var tasks sync.WaitGroup
				for i := range crowd + 2 { // when one has left, they are a crowd still
					store := newStore(t)
					if err := store.Put(tt.held...); err != nil {
						t.Fatal(err)
					}
					from := near{h, peer.ID(rune('a' + i)), streams{seed.ID(): seed.near}}
					mirror := nodeOn(t, from, store, store)
					tasks.Go(func() {
						req := Request{Root: site[0].CID(), Bases: tt.bases}
						if _, err := mirror.fetch(limit(t), req, seed.info()); err != nil {
							t.Error(err)
						}
					})
				}
				tasks.Wait()
				took := time.Since(began)
				time.Sleep(time.Minute) // until nobody serves them any more
				if took < passTime || took >= maxRefusal {
					t.Errorf("took %v, want from %v to %v", took, passTime, maxRefusal)
				}
			})
		})
	}
}
