package exchange

import (
	"context"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/ipfs/go-cid"
)

// frames keeps answers as they are sent, so that what many ask for is read and
// compressed once. Least recently used go first.
type frames struct {
	mu     sync.Mutex
	lru    *simplelru.LRU[frameKey, body]
	bytes  int
	making map[frameKey]chan struct{} // closed when it was made, or could not be
}

// frameKey is what is in a frame, as many as go together: leaves of a DAG from the first of the span
// on, up to its end, or nodes from there on; perhaps as deltas against a base.
type frameKey struct {
	root, base cid.Cid
	nodes      bool
	full       bool // nodes with those that do not differ
	span
}

const (
	frameCache = 32 << 20 // bytes
	frameCost  = 256      // of the cache itself for each frame
)

func newFrames() *frames {
	c := &frames{making: make(map[frameKey]chan struct{})}
	// Only the sum of sizes bounds the cache; the count cannot be reached.
	c.lru, _ = simplelru.NewLRU(1<<30, func(_ frameKey, b body) { c.bytes -= frameCost + cap(b.payload) })
	return c
}

// get returns what is kept for k. If there is nothing, the caller is to make it, perhaps add it,
// and call made; others that want the same wait for that, or for ctx to end.
func (c *frames) get(ctx context.Context, k frameKey) (b body, ok bool, made func()) {
	for {
		c.mu.Lock()
		b, ok := c.lru.Get(k)
		making := c.making[k]
		if !ok && making == nil {
			making = make(chan struct{})
			c.making[k] = making
			c.mu.Unlock()
			return body{}, false, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.making, k)
				close(making)
			}
		}
		c.mu.Unlock()
		if ok {
			return b, true, func() {}
		}
		select {
		case <-making:
		case <-ctx.Done():
			return body{}, false, func() {}
		}
	}
}

func (c *frames) add(k frameKey, b body) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lru.Contains(k) {
		return
	}
	if n := len(b.payload); cap(b.payload) > n+n/8 {
		b.payload = slices.Clone(b.payload) // the buffer it was packed into may be much larger
	}
	c.lru.Add(k, b)
	for c.bytes += frameCost + cap(b.payload); c.bytes > frameCache; {
		c.lru.RemoveOldest()
	}
}
