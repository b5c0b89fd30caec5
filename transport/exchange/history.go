package exchange

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// enough is how often a peer is sent a block, and all nodes and leaves of a DAG, like any
	// other; few more of them, of small ones, are no matter.
	enough = 2
	few    = 64
	// againRate is how many bytes a second it gets of what it has had, while others are served.
	againRate = 16 << 10
	// maxWait is the longest that it waits for that.
	maxWait = time.Minute
	// What peers were sent is forgotten after historyTime, or if there are too many of them.
	historyTime   = 10 * time.Minute
	maxHistories  = 256
	historyDAGs   = 16
	historyBlocks = 512
)

// history is what a peer was sent of late. Who asks for the same again and again would
// otherwise have as much of the line as those who lack it. Its methods may be called from
// many goroutines.
type history struct {
	mu     sync.Mutex
	began  time.Time
	dags   map[cid.Cid]tally
	blocks map[cid.Cid]int // how often each was sent alone, or as the first of leaves
	until  time.Time       // when it can be sent something again
}

// tally counts blocks of a DAG.
type tally struct{ nodes, leaves int }

// histories are those of the peers of a Server.
type histories struct {
	mu  sync.Mutex
	all *simplelru.LRU[peer.ID, *history]
}

func newHistories() *histories {
	h := &histories{}
	h.all, _ = simplelru.NewLRU[peer.ID, *history](maxHistories, nil)
	return h
}

// of returns the history of p.
func (hs *histories) of(p peer.ID) *history {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	now := time.Now()
	h, ok := hs.all.Get(p)
	if !ok || now.Sub(h.began) > historyTime {
		h = &history{began: now, dags: make(map[cid.Cid]tally), blocks: make(map[cid.Cid]int)}
		hs.all.Add(p, h)
	}
	return h
}

// hadNodes says whether the peer has had enough of the nodes of the DAG of o.
func (h *history) hadNodes(o *order) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dags[o.root].nodes > enough*o.nodeCount(true)+few
}

// hadLeaves says whether it has had enough of the leaves, or of the first that it is to be
// sent.
func (h *history) hadLeaves(o *order, first int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dags[o.root].leaves > enough*o.leaves.len()+few || h.blocks[o.leaves.at(first)] >= enough
}

// had says whether it was sent c.
func (h *history) had(c cid.Cid) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.blocks[c] > 0
}

// hadBlock says whether it has had enough of c.
func (h *history) hadBlock(c cid.Cid) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.blocks[c] >= enough
}

// sentNodes counts that n nodes of the DAG of o were sent.
func (h *history) sentNodes(o *order, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.tally(o)
	h.dags[o.root] = tally{t.nodes + n, t.leaves}
}

// sentLeaves counts that a run of leaves was.
func (h *history) sentLeaves(o *order, s span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.tally(o)
	h.dags[o.root] = tally{t.nodes, t.leaves + s.n}
	h.count(o.leaves.at(s.first))
}

// sentBlock counts that c was.
func (h *history) sentBlock(c cid.Cid) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count(c)
}

// tally returns that of the DAG of o. The caller holds mu.
func (h *history) tally(o *order) tally {
	t, ok := h.dags[o.root]
	if !ok && len(h.dags) >= historyDAGs {
		clear(h.dags)
	}
	return t
}

// count counts that c was sent. The caller holds mu.
func (h *history) count(c cid.Cid) {
	n, ok := h.blocks[c]
	if !ok && len(h.blocks) >= historyBlocks {
		clear(h.blocks)
	}
	h.blocks[c] = n + 1
}

// again counts that so many bytes of what the peer has had are sent again.
func (h *history) again(bytes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.until.Before(now) {
		h.until = now
	}
	h.until = h.until.Add(time.Duration(bytes) * time.Second / againRate)
	if most := now.Add(maxWait); h.until.After(most) {
		h.until = most
	}
}

// wait returns how long it is until it may be sent something again.
func (h *history) wait() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Until(h.until)
}
