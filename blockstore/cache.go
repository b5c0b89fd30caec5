package blockstore

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/multiformats/go-multihash"
)

const (
	// cacheSize bounds the bytes of verified blocks kept in memory. It serves
	// the directories and front pages that readers ask for again and again.
	cacheSize = 8 << 20
	// entryCost is about what the cache itself takes for each block.
	entryCost = 256
	// Larger blocks are chunks of big files: read once, in order.
	maxCached = 128 << 10
)

// cache holds verified blocks, least recently used out first.
type cache struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[string, []byte]
	bytes int
	limit int
}

func newCache(limit int) *cache {
	c := &cache{limit: limit}
	// Only the sum of sizes bounds the cache; the count cannot be reached.
	c.lru, _ = simplelru.NewLRU(1<<30, func(_ string, data []byte) { c.bytes -= entryCost + len(data) })
	return c
}

func (c *cache) get(mh multihash.Multihash) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Get(string(mh))
}

func (c *cache) add(mh multihash.Multihash, data []byte) {
	if len(data) > maxCached {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lru.Contains(string(mh)) {
		return
	}
	c.lru.Add(string(mh), data)
	for c.bytes += entryCost + len(data); c.bytes > c.limit; {
		c.lru.RemoveOldest()
	}
}
