package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/node/api"
)

// GC implements api.Service.
func (n *Node) GC(ctx context.Context, progress func(api.Progress)) (api.GCResult, error) {
	start := time.Now()
	if n.readOnly != nil {
		return api.GCResult{}, n.readOnly
	}
	show := func(p api.Progress) {
		if progress != nil {
			progress(p)
		}
	}
	stats, err := n.store.Collect(ctx, func(m *blockstore.Marks) error { return n.mark(ctx, m, show) },
		func(p blockstore.GCProgress) {
			show(api.Progress{Phase: "collecting", Blocks: int64(p.Packs), TotalBlocks: int64(p.TotalPacks)})
		})
	return api.GCResult{
		Blocks: int64(stats.Blocks), FreedBytes: stats.Freed, TookMS: time.Since(start).Milliseconds(),
	}, diskError(err)
}

// mark marks what is here of every site. It fails if a site that was whole has lost a
// node: what is below that cannot be known, and would be removed.
func (n *Node) mark(ctx context.Context, marks *blockstore.Marks, show func(api.Progress)) error {
	sites := n.sites.all()
	// First those that were whole: what another misses would count as met.
	slices.SortStableFunc(sites, func(a, b site) int {
		switch aFirst, bFirst := a.Whole || a.Lossy, b.Whole || b.Lossy; {
		case aFirst == bFirst:
			return 0
		case aFirst:
			return -1
		default:
			return 1
		}
	})
	// Marks knows hashes only. A block may be in a site as a file too, under another
	// CID of the same hash, and that must not hide what the node links to.
	var seen blockstore.CIDSet
	p := api.Progress{Phase: "marking"}
	shown := time.Now()
	for _, s := range sites {
		var nodes []cid.Cid // marked, their links not yet followed
		add := func(c cid.Cid) {
			if marks.Add(c) {
				p.Blocks++
			}
			if c.Type() == cid.Raw {
				return
			}
			if seen.Add(c) {
				nodes = append(nodes, c)
			}
		}
		for add(s.Root); len(nodes) > 0; {
			c := nodes[len(nodes)-1]
			nodes = nodes[:len(nodes)-1]
			if time.Since(shown) > 100*time.Millisecond {
				shown = time.Now()
				show(p)
			}
			links, err := n.links(ctx, c)
			if isMissing(err) && !s.Whole && !s.Lossy {
				continue // it is being mirrored for the first time
			}
			if isMissing(err) {
				err = fmt.Errorf("%w; run `pollux repair` first, or unfollow it", err)
			}
			if err != nil {
				return fmt.Errorf("mark what %s needs: %w", s.Root, err)
			}
			for _, l := range links {
				add(l.CID)
			}
		}
	}
	return nil
}

// links returns the links of a block that is held. One that is no part of a site has
// none: nothing below it was ever fetched. So a site that turns out to be anything else
// keeps nobody from collecting.
func (n *Node) links(ctx context.Context, c cid.Cid) ([]dag.Link, error) {
	if blockstore.CheckCID(c) != nil {
		return nil, ctx.Err()
	}
	b, err := n.store.Get(ctx, c)
	if err != nil {
		return nil, err
	}
	links, err := dag.Links(b)
	if errors.Is(err, dag.ErrMalformed) || errors.Is(err, dag.ErrCodec) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	return links, nil
}
