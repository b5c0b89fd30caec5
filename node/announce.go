package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/dag"
)

// measure walks a site that is held whole. It returns what to record of it, and
// the keys to announce it by. The error wraps blockstore.ErrNotFound if a block is
// missing.
func (n *Node) measure(ctx context.Context, root cid.Cid) (site, []multihash.Multihash, error) {
	s := site{Root: root, Whole: true}
	keys := []multihash.Multihash{}
	err := dag.Walk(ctx, n.store, root, func(c cid.Cid) error {
		size, err := n.store.Size(c)
		if err != nil {
			return err
		}
		s.Blocks++
		s.Bytes += int64(size)
		if n.cfg.Announce == AnnounceAll {
			keys = append(keys, c.Hash())
		}
		return nil
	})
	if err != nil {
		return site{}, nil, err
	}
	switch n.cfg.Announce {
	case AnnounceRoots:
		keys = append(keys, root.Hash())
	case AnnounceEntities:
		keys, err = n.entities(ctx, root)
	}
	return s, keys, err
}

// entities returns the roots of all files, directories and symlinks below root:
// all that a path can lead to.
func (n *Node) entities(ctx context.Context, root cid.Cid) ([]multihash.Multihash, error) {
	top, err := dag.Stat(ctx, n.store, root)
	if err != nil {
		return nil, err
	}
	var keys []multihash.Multihash
	seen := make(map[cid.Cid]struct{})
	for stack := []dag.Entry{top}; len(stack) > 0; {
		e := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if _, ok := seen[e.CID]; ok {
			continue
		}
		seen[e.CID] = struct{}{}
		keys = append(keys, e.CID.Hash())
		if e.Kind != dag.KindDirectory {
			continue
		}
		for child, err := range dag.List(ctx, n.store, e.CID) {
			if err != nil {
				return nil, err
			}
			stack = append(stack, child)
		}
	}
	return keys, nil
}

// provide announces keys if the node is on the network. If not, the next start
// does it.
func (n *Node) provide(ctx context.Context, keys []multihash.Multihash) error {
	net := n.online()
	if net == nil {
		return nil
	}
	if err := net.Provide(ctx, keys...); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

// retract ends the announcing of the keys of a site that is no longer kept, but
// for those that other sites have too.
func (n *Node) retract(ctx context.Context, gone site) error {
	net := n.online()
	if net == nil || !gone.Whole {
		return nil
	}
	_, keys, err := n.measure(ctx, gone.Root)
	if err != nil {
		return err
	}
	keep := make(map[string]struct{})
	for _, s := range n.sites.all() {
		if !s.Whole {
			continue
		}
		_, keys, err := n.measure(ctx, s.Root)
		if err != nil {
			return err
		}
		for _, k := range keys {
			keep[string(k)] = struct{}{}
		}
	}
	var stop []multihash.Multihash
	for _, k := range keys {
		if _, ok := keep[string(k)]; !ok {
			stop = append(stop, k)
		}
	}
	return net.StopProviding(ctx, stop...)
}

// resume takes up every site after a start: those that are whole are announced,
// which is cheap for keys that are known already, and the others fetched.
func (n *Node) resume(ctx context.Context) {
	for _, s := range n.sites.all() {
		if !s.Whole {
			n.startMirror(s.Root)
			continue
		}
		_, keys, err := n.measure(ctx, s.Root)
		if err == nil {
			err = n.provide(ctx, keys)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, blockstore.ErrNotFound):
			n.log.Warn("a site is no longer whole, fetching what is missing", "root", s.Root, "err", err)
			s.Whole = false
			if err := n.sites.put(s); err != nil {
				n.log.Error("cannot note that a site is no longer whole", "root", s.Root, "err", err)
			}
			n.startMirror(s.Root)
		case err != nil:
			n.log.Error("cannot announce a site", "root", s.Root, "err", err)
		}
	}
}
