package exchange

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// TestGetsWaitAtTheirPeer asks a provider that does not answer for more blocks than it may be
// asked for at a time: the others wait, one that another provider has does not, and all come
// when it answers.
func TestGetsWaitAtTheirPeer(t *testing.T) {
	var blocks []blockstore.Block
	for i := range 4 * maxAsks {
		blocks = append(blocks, blockstore.Sum(cid.Raw, fmt.Append(nil, i)))
	}
	var asked, most atomic.Int32
	answer := make(chan struct{})
	slow := newActor(t, script{get: func(a *actor, cids []cid.Cid) []byte {
		defer asked.Add(-1)
		if n := asked.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-answer
		return a.blocks(cids)
	}}, blocks[0].CID(), cid.Undef, blocks...)
	page := raw("a page")
	seed, mirror := newNode(t, page), newNode(t)
	ctx := limit(t)
	get := func(b blockstore.Block, candidates ...Candidate) {
		ch := make(chan Candidate, len(candidates))
		for _, c := range candidates {
			ch <- c
		}
		req := GetRequest{Store: mirror.store, CID: b.CID(), Timeout: time.Hour}
		if err := mirror.client.Get(ctx, req, ch); err != nil {
			t.Error(err)
		}
	}
	var readers sync.WaitGroup
	for _, b := range blocks {
		readers.Go(func() { get(b, Candidate{slow.info(), true}) })
	}
	for asked.Load() < maxAsks {
		time.Sleep(time.Millisecond)
	}
	get(page, Candidate{slow.info(), true}, Candidate{seed.info(), true})
	close(answer)
	readers.Wait()
	if n := most.Load(); n > maxAsks {
		t.Errorf("it was asked for %d blocks at a time", n)
	}
	mirror.client.doors.mu.Lock()
	defer mirror.client.doors.mu.Unlock()
	if n := len(mirror.client.doors.peers); n > 1 { // the page's ask may not have ended yet
		t.Errorf("%d peers are remembered", n)
	}
}
