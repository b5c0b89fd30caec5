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

// TestScattered has mirrors, which reach only the seed, lack every fourth leaf: what is left of a
// segment that one is sent comes without further waiting, and what changed is not put off at all.
func TestScattered(t *testing.T) {
	leaves := make([]blockstore.Block, 64)
	before := slices.Clone(leaves)
	var held []blockstore.Block
	for i := range leaves {
		text := bytes.Repeat([]byte{byte(i), byte(i >> 1), byte(i >> 2)}, segmentBytes/48)
		leaves[i] = blockstore.Sum(cid.Raw, text)
		before[i] = leaves[i]
		if i%4 == 0 {
			before[i] = blockstore.Sum(cid.Raw, append(slices.Clone(text), "before"...))
		} else {
			held = append(held, leaves[i])
		}
	}
	site := append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
	old := append([]blockstore.Block{nodeOf(before...)}, before...)
	for name, tt := range map[string]struct {
		held  []blockstore.Block
		bases []cid.Cid
		limit time.Duration
	}{
		"update": {old, []cid.Cid{old[0].CID()}, passTime},
		"repair": {held, nil, passTime + maxRefusal},
	} {
		t.Run(name, func(t *testing.T) { crowdOf(t, append(old, site...), site[0].CID(), tt.held, tt.bases, 0, tt.limit) })
	}
}

// crowdOf has a crowd of mirrors, which reach only the seed, fetch a DAG at the same time, and
// fails the test unless that takes as long as it says.
func crowdOf(t *testing.T, all []blockstore.Block, root cid.Cid, held []blockstore.Block, bases []cid.Cid, least, most time.Duration) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, hold(all...))
		began := time.Now()
		var tasks sync.WaitGroup
		for i := range crowd + 2 { // when one has left, they are a crowd still
			store := newStore(t)
			if err := store.Put(held...); err != nil {
				t.Fatal(err)
			}
			from := near{h, peer.ID(rune('a' + i)), streams{seed.ID(): seed.near}}
			mirror := nodeOn(t, from, store, store)
			tasks.Go(func() {
				if _, err := mirror.fetch(limit(t), Request{Root: root, Bases: bases}, seed.info()); err != nil {
					t.Error(err)
				}
			})
		}
		tasks.Wait()
		took := time.Since(began)
		time.Sleep(time.Minute) // until nobody serves them any more
		if took < least || took >= most {
			t.Errorf("took %v, want from %v to %v", took, least, most)
		}
	})
}

// TestFewSegments has a crowd of mirrors that lack the same segment of a site: leaves of one that
// were lost. The seed sends it to one of them and puts the others off, as that could pass it on. It
// cannot, but as there is nothing else to send they get theirs soon.
func TestFewSegments(t *testing.T) {
	leaves := make([]blockstore.Block, 8)
	for i := range leaves {
		leaves[i] = blockstore.Sum(cid.Raw, bytes.Repeat([]byte{byte(i)}, segmentBytes))
	}
	site := append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
	crowdOf(t, site, site[0].CID(), slices.Delete(slices.Clone(site), 1, 2), nil, spareTime, passTime)
}
