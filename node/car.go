package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/node/api"
)

// Import implements api.Service.
func (n *Node) Import(ctx context.Context, car io.Reader, progress func(api.Progress)) (api.ImportResult, error) {
	start := time.Now()
	// What is imported has no site above it until the end.
	hold := n.store.Hold()
	defer hold.Release()
	roots, res, err := readCAR(ctx, hold, car, progress)
	if err != nil {
		return api.ImportResult{}, diskError(err)
	}
	// All roots are looked at before the first is kept.
	var sites []site
	for _, root := range roots {
		if err := checkWhole(ctx, hold, root); err != nil {
			return api.ImportResult{}, err
		}
		s, err := n.measure(ctx, root)
		if err != nil {
			return api.ImportResult{}, err
		}
		if old, ok := n.sites.find(root); ok {
			s.Path = old.Path
		}
		sites = append(sites, s)
	}
	// Only now: a CAR may leave out blocks that others have just written.
	if err := hold.Sync(); err != nil {
		return api.ImportResult{}, diskError(err)
	}
	for _, s := range sites {
		if err := n.sites.put(s); err != nil {
			return api.ImportResult{}, err
		}
		res.Roots = append(res.Roots, s.Root.String())
	}
	n.background("announce", roots[0], func(ctx context.Context) error { return n.announce(ctx, roots...) })
	res.TookMS = time.Since(start).Milliseconds()
	return res, nil
}

// readCAR stores the blocks of a CAR, not yet durably, and returns its roots, each once,
// and what to tell of the blocks.
func readCAR(ctx context.Context, hold *blockstore.Hold, car io.Reader, progress func(api.Progress)) (roots []cid.Cid, res api.ImportResult, err error) {
	read := &countingReader{Reader: car}
	w := hold.NewWriter()
	all, err := dag.ReadCAR(read, func(b blockstore.Block) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		added, err := w.Write(b)
		if err != nil {
			return err
		}
		res.Blocks++
		res.Bytes += int64(len(b.Data()))
		if added {
			res.NewBytes += int64(len(b.Data()))
		}
		if progress != nil {
			progress(api.Progress{Phase: "importing", Bytes: read.bytes, Blocks: res.Blocks})
		}
		return nil
	})
	if err == nil {
		err = w.Flush()
	}
	for _, root := range all {
		if !slices.Contains(roots, root) {
			roots = append(roots, root)
		}
	}
	return roots, res, err
}

type countingReader struct {
	io.Reader
	bytes int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.bytes += int64(n)
	return n, err
}

// checkWhole fails if blocks below root are missing. It counts those that blocks
// which are there link to; what else is missing below them cannot be known. Those
// that are there are held from now on.
func checkWhole(ctx context.Context, hold *blockstore.Hold, root cid.Cid) error {
	missing := 0
	err := dag.Walk(ctx, sparse{hold}, root, func(c cid.Cid) error {
		ok, err := hold.Has(c)
		if !ok {
			missing++
		}
		return err
	})
	if err == nil && missing > 0 {
		err = fmt.Errorf("root %s is not whole, nothing was kept; blocks missing: %d", root, missing)
	}
	return err
}

// sparse has blocks without links in the place of those that the store lacks.
type sparse struct{ *blockstore.Hold }

func (s sparse) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	b, err := s.Hold.Get(ctx, c)
	if errors.Is(err, blockstore.ErrNotFound) {
		return blockstore.Sum(cid.Raw, nil), nil
	}
	return b, err
}
