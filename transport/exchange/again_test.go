package exchange

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
)

// TestSameAgain asks the same a thousand times, as often as it is answered, but for OPEN: a
// fetcher may do that.
func TestSameAgain(t *testing.T) {
	site := newTree(63, 1, 5)
	seed := newNode(t, site.blocks...)
	f := dial(t, newHost(t), seed)
	ask := func(b []byte, want frameType) []byte {
		t.Helper()
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
		_, body, err := f.next(want, frameMiss)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	open := appendOpen(nil, open{root: site.root()})
	first := ask(opening(site.root()), frameOpened)
	for i := range 1000 {
		if i < maxOpens-1 {
			if got := ask(open, frameOpened); !bytes.Equal(got, first) {
				t.Fatal("another answer to OPEN")
			}
		}
		a, err := parseIndex(ask(appendList(nil, list{count: 2}), frameIndex))
		if err != nil || a.body.count != 2 || !a.last {
			t.Fatalf("INDEX %d: %+v, %v", i, a, err)
		}
		a, err = parseData(ask(appendSpanFrame(nil, frameWant, []span{{1, 3}}), frameData))
		if err != nil || a.first != 1 || a.body.count != 3 {
			t.Fatalf("DATA %d: %+v, %v", i, a, err)
		}
		a, err = parseBlocks(ask(appendGet(nil, []cid.Cid{site.root(), raw("nothing").CID()}), frameBlocks))
		if err != nil || a.body.count != 2 {
			t.Fatalf("BLOCKS %d: %+v, %v", i, a, err)
		}
	}
	// Nodes beyond the end are none.
	a, err := parseIndex(ask(appendList(nil, list{from: 1000, count: 5}), frameIndex))
	if err != nil || a.body.count != 0 || !a.last || a.first != 1000 {
		t.Errorf("beyond the end: %+v, %v", a, err)
	}
}

// takesTime is a store from which it takes a while to read a leaf.
type takesTime struct {
	memStore
	time func(cid.Cid) time.Duration
}

func (s takesTime) Packed(ctx context.Context, c cid.Cid) ([]byte, bool, int, error) {
	time.Sleep(s.time(c))
	return s.memStore.Packed(ctx, c)
}

// TestSameAgainBeside does so while a mirror fetches the same site, which takes seconds. It gets
// all, and only a few of the thousand are answered before.
func TestSameAgainBeside(t *testing.T) {
	site := newTree(67, 4, 50)
	o, err := buildOrder(t.Context(), hold(site.blocks...), site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	const times, few = 1000, 50
	h := newHost(t)
	for name, again := range map[string][]byte{
		"LIST": appendList(nil, list{full: true}),
		"WANT": appendSpanFrame(nil, frameWant, []span{{0, 5}}),
		"GET":  appendGet(nil, []cid.Cid{site.root(), o.leaves.at(7)}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := nodeOn(t, h, nil, takesTime{hold(site.blocks...), func(cid.Cid) time.Duration {
					return 10 * time.Millisecond
				}})
				seed.server.takes("again")
				other := &serving{remote: "mirror"}
				seed.server.enter(other)
				asks := seed.asks("again", opening(site.root()))
				var answers atomic.Int32
				var asking sync.WaitGroup
				asking.Go(func() {
					for range times {
						asks.Write(again)
						<-asks.came
						answers.Add(1)
					}
				})
				store := newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{seed.ID(): seed.near}}, store, store)
				res, err := mirror.fetch(limit(t), Request{Root: site.root()}, seed.info())
				if err != nil {
					t.Error(err)
				}
				if n := answers.Load(); n > few {
					t.Errorf("was answered %d times by then", n)
				}
				mirror.checkHeld(t, site.blocks)
				if res.Blocks != len(site.blocks) || res.Bytes != site.bytes {
					t.Errorf("%d blocks of %d bytes, want %d of %d", res.Blocks, res.Bytes, len(site.blocks), site.bytes)
				}
				seed.server.leave(other)
				asking.Wait() // for all that is asked, now that nobody else is served
				asks.Reset()
				time.Sleep(time.Minute) // until nobody is served any more
			})
		})
	}
}
