package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/dag"
)

// measure walks a site that is held whole. It returns what to record of it, and
// the keys to announce it by. See isMissing for the error if it is not whole.
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
	n.announcing.Lock()
	defer n.announcing.Unlock()
	if err := net.Provide(ctx, keys...); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

// reannounce makes what is announced the keys of all sites that are whole, and
// no others. Keys that are announced already cost a look-up. A site that turns out
// not to be whole is mirrored.
func (n *Node) reannounce(ctx context.Context) error {
	net := n.online()
	if net == nil {
		return nil
	}
	// A site that is put on the list meanwhile announces its keys after this.
	n.announcing.Lock()
	defer n.announcing.Unlock()
	wanted := make(map[string]struct{})
	var errs []error
	for _, s := range n.sites.all() {
		if !s.Whole {
			continue
		}
		_, keys, err := n.measure(ctx, s.Root)
		switch {
		case isMissing(err):
			n.log.Warn("a site is no longer whole", "root", s.Root, "err", err)
			err = n.restore(s.Root)
		case err == nil:
			err = net.Provide(ctx, keys...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Root, err))
		}
		for _, k := range keys {
			wanted[string(k)] = struct{}{}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // and nothing is taken back: the keys are not all known
	}
	return net.Retain(ctx, func(k multihash.Multihash) bool {
		_, ok := wanted[string(k)]
		return ok
	})
}

// restore fetches what is missing of a site that was whole.
func (n *Node) restore(root cid.Cid) error {
	s, ok := n.sites.find(root)
	if !ok {
		return nil // unfollowed meanwhile
	}
	s.Lossy = s.Lossy || s.Whole
	s.Whole = false
	if err := n.sites.put(s); err != nil {
		return err
	}
	n.startMirror(root)
	return nil
}

// resume takes up every site after a start: those that are whole are announced,
// and what is missing of the others is fetched.
func (n *Node) resume(ctx context.Context) {
	for _, s := range n.sites.all() {
		if !s.Whole && n.readOnly == nil {
			n.startMirror(s.Root)
		}
	}
	if err := n.reannounce(ctx); err != nil && ctx.Err() == nil {
		n.log.Error("cannot announce all sites", "err", err)
	}
}
