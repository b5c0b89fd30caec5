package exchange

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// inMemory returns what the cache of frames says that it holds, how many bytes that is packed,
// and how many it keeps from being used otherwise.
func (c *frames) inMemory() (counted, packed, kept int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.lru.Values() {
		packed += len(b.payload)
		kept += cap(b.payload) + cap(b.front)
	}
	return c.bytes, packed, kept
}

// TestMemoryOfMedia has a crowd of mirrors fetch pages that shrink well, and among them media
// of 1 MiB that do not. What the provider keeps of packed frames is as much as it counts, and
// what it books for a stream is at most three times what goes into an answer.
func TestMemoryOfMedia(t *testing.T) {
	t.Parallel()
	r := rand.NewChaCha8([32]byte{97})
	var blocks []blockstore.Block
	for i := range 6 {
		media := make([]byte, 1<<20)
		r.Read(media)
		blocks = append(blocks, blockstore.Sum(cid.Raw, media))
		for j := range 20 {
			var page []byte
			for k := range 500 {
				page = fmt.Appendf(page, "<p class=\"twins\">page %d of part %d, line %d</p>\n", j, i, k)
			}
			blocks = append(blocks, blockstore.Sum(cid.Raw, page))
		}
	}
	blocks = append([]blockstore.Block{nodeOf(blocks...)}, blocks...)
	seed := newNode(t, blocks...)
	check := func(n *node) {
		counted, packed, kept := n.server.frames.inMemory()
		if counted > frameCache || kept > counted || kept > packed*3/2 {
			t.Errorf("the cache counts %d bytes, and keeps %d for %d", counted, kept, packed)
		}
		if s := n.inUse(t); s.Memory > int64(s.NumStreamsInbound)*3*blockstore.MaxBlockSize {
			t.Errorf("%d bytes are booked for %d streams", s.Memory, s.NumStreamsInbound)
		}
	}
	var tasks sync.WaitGroup
	var mirrors []*node
	for range 4 {
		m := newNode(t)
		mirrors = append(mirrors, m)
		tasks.Go(func() {
			req := Request{Root: blocks[0].CID(), Progress: func(Progress) { check(seed) }}
			if _, err := m.fetch(limit(t), req, seed.info()); err != nil {
				t.Error(err)
			}
			check(m)
		})
	}
	tasks.Wait()
	for _, m := range mirrors {
		m.checkHeld(t, blocks)
	}
	if counted, _, _ := seed.server.frames.inMemory(); counted == 0 {
		t.Error("nothing was packed")
	}
	quiet(t, seed.server)
	if s := seed.inUse(t); s.Memory != 0 || s.NumStreamsInbound != 0 {
		t.Errorf("in use when nobody is served: %+v", s)
	}
}
