package exchange

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

type slowReads struct {
	memStore
	takes time.Duration
}

func (s slowReads) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if err := ctx.Err(); err != nil {
		return blockstore.Block{}, err
	}
	time.Sleep(s.takes)
	return s.memStore.Get(ctx, c)
}

func (s slowReads) Packed(ctx context.Context, c cid.Cid) ([]byte, bool, int, error) {
	if err := ctx.Err(); err != nil {
		return nil, false, 0, err
	}
	time.Sleep(s.takes)
	return s.memStore.Packed(ctx, c)
}

func TestSlowProvider(t *testing.T) {
	var small []blockstore.Block
	for i := range segmentLeaves {
		small = append(small, raw(fmt.Sprint("page ", i)))
	}
	h := outside(t)
	for name, site := range map[string][]blockstore.Block{
		"numbering": newTree(110, 200, 1).blocks,
		"leaves":    append([]blockstore.Block{nodeOf(small...)}, small...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := nodeOn(t, h, nil, slowReads{hold(site...), 100 * time.Millisecond})
				store := newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{seed.ID(): seed.near}}, store, store)
				began := time.Now()
				req := Request{Root: site[0].CID(), Timeout: 10 * time.Minute}
				_, err := mirror.fetch(t.Context(), req, seed.info())
				t.Logf("after %v", time.Since(began))
				time.Sleep(2 * time.Minute) // until nobody is served any more
				if err != nil {
					t.Fatal(err)
				}
				mirror.checkHeld(t, site)
			})
		})
	}
}
