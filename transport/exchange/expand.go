package exchange

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/dag"
)

const (
	// maxKnown is how many missing blocks are known at a time. Nodes whose links
	// would add to more wait for their turn, so that a tree of millions of blocks
	// takes memory for a part of it only.
	maxKnown = 1 << 16
	// maxBacklog is how many links wait in memory with their nodes. One node may have
	// 200,000, so counting nodes would bound nothing.
	maxBacklog = 1 << 16
	// wakeEvery is after how many links the sessions look for new wants.
	wakeEvery = 64
)

// node is a block whose links are still to be followed.
type node struct {
	cid   cid.Cid
	base  cid.Cid    // the node at the same path of an earlier version; undefined for none
	links []dag.Link // nil: to be read from the store
}

// queue adds a node. The caller holds mu.
func (f *Fetch) queue(n node) {
	f.nodes = append(f.nodes, n)
	f.waiting += len(n.links)
	f.open++
	f.changed.Broadcast()
}

// crammed says whether so many links wait that those of one more node should not, but
// be read again when its turn comes.
func (f *Fetch) crammed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting > maxBacklog
}

// expandAll follows the root, and the links of nodes as they are queued, until the
// fetch has ended. The latest node comes first, which goes down before it goes
// wide and keeps the queue short.
func (f *Fetch) expandAll() error {
	f.mu.Lock()
	f.open++ // the root
	f.mu.Unlock()
	n := node{links: []dag.Link{{CID: f.request.Root, Size: f.request.Size}}}
	for {
		if n.cid.Equals(f.request.Root) {
			n.base = f.chooseBase(n.links)
		}
		base := f.basesOf(n)
		for i, l := range n.links {
			if err := f.follow(l, base(i, l)); err != nil {
				return err
			}
			if i%wakeEvery == wakeEvery-1 {
				f.changed.Broadcast()
			}
		}
		f.mu.Lock()
		f.close()
		f.changed.Broadcast()
		for !f.ended && (len(f.nodes) == 0 || len(f.wants) > maxKnown) {
			f.changed.Wait()
		}
		if f.ended {
			f.mu.Unlock()
			return nil
		}
		n = f.nodes[len(f.nodes)-1]
		f.nodes[len(f.nodes)-1] = node{} // or its links would stay in memory
		f.nodes = f.nodes[:len(f.nodes)-1]
		f.waiting -= len(n.links)
		f.mu.Unlock()
		if n.links == nil {
			var err error
			if n.links, err = f.load(n.cid); err != nil {
				return err
			}
		}
	}
}

// load reads the links of a block that is held.
func (f *Fetch) load(c cid.Cid) ([]dag.Link, error) {
	b, err := f.request.Store.Get(context.Background(), c)
	if err != nil {
		return nil, err
	}
	links, err := dag.Links(b)
	if err != nil {
		return nil, fmt.Errorf("%s is not part of a site: %w", c, err)
	}
	return links, nil
}

// follow goes through a link: what the store lacks becomes a want, and a node that
// it holds is queued.
func (f *Fetch) follow(l dag.Link, base cid.Cid) error {
	if err := blockstore.CheckCID(l.CID); err != nil {
		return err
	}
	f.mu.Lock()
	_, met := f.seen[l.CID]
	if met {
		// A tree's size counts what a repeated link leads to each time.
		f.progress.Bytes = addSizes(f.progress.Bytes, l.Size)
	} else {
		f.seen[l.CID] = struct{}{}
		if l.CID.Prefix().MhType != multihash.IDENTITY {
			f.progress.Known++
		}
	}
	f.mu.Unlock()
	if met {
		return nil
	}
	held, err := f.request.Store.Has(l.CID)
	if err != nil {
		return err
	}
	if held && !f.request.Single && l.CID.Prefix().Codec != cid.Raw {
		b, err := f.request.Store.Get(context.Background(), l.CID)
		if err == nil {
			return f.expandHeld(b, base)
		}
		if !errors.Is(err, blockstore.ErrCorrupt) {
			return err
		}
		held = false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if held {
		f.progress.Bytes = addSizes(f.progress.Bytes, l.Size)
		return nil
	}
	w := newWant(l, base)
	f.open++
	f.wants[w] = struct{}{}
	f.pool.put(w) // expandAll wakes the sessions
	select {
	case <-f.needed:
	default:
		close(f.needed)
	}
	return nil
}

// expandHeld queues a block that the store holds.
func (f *Fetch) expandHeld(b blockstore.Block, base cid.Cid) error {
	links, err := dag.Links(b)
	if err != nil {
		return fmt.Errorf("%s is not part of a site: %w", b.CID(), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.countBlock(b, links)
	if len(links) > 0 {
		n := node{cid: b.CID(), base: base, links: links}
		if f.waiting > maxBacklog {
			n.links = nil
		}
		f.queue(n)
	}
	return nil
}

// countBlock adds a block to the progress. The caller holds mu.
func (f *Fetch) countBlock(b blockstore.Block, links []dag.Link) {
	size := uint64(len(b.Data()))
	f.progress.Bytes = addSizes(f.progress.Bytes, size)
	if b.CID().Equals(f.request.Root) {
		f.progress.TotalBytes = addSizes(0, size)
		for _, l := range links {
			f.progress.TotalBytes = addSizes(f.progress.TotalBytes, l.Size)
		}
	}
}
