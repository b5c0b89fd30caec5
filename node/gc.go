package node

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/node/api"
)

// GC implements api.Service.
func (n *Node) GC(ctx context.Context, progress func(api.Progress)) (api.GCResult, error) {
	start := time.Now()
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
	}, err
}

// mark marks what is here of every site.
func (n *Node) mark(ctx context.Context, marks *blockstore.Marks, show func(api.Progress)) error {
	var stack []cid.Cid
	for _, s := range n.sites.all() {
		stack = append(stack, s.Root)
	}
	var p api.Progress
	p.Phase = "marking"
	shown := time.Now()
	for len(stack) > 0 {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if !marks.Add(c) {
			continue
		}
		if p.Blocks++; time.Since(shown) > 100*time.Millisecond {
			shown = time.Now()
			show(p)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if c.Type() == cid.Raw {
			continue
		}
		b, err := n.store.Get(ctx, c)
		if isMissing(err) {
			continue // a site that is being mirrored
		}
		if err != nil {
			return fmt.Errorf("mark: %w", err)
		}
		links, err := dag.Links(b)
		if err != nil {
			return fmt.Errorf("mark %s: %w", c, err)
		}
		for _, l := range links {
			stack = append(stack, l.CID)
		}
	}
	return nil
}
