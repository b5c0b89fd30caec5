package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/transport"
)

// provideBatch is how many keys are handed to the network at once: as many as it makes
// durable with one sync.
const provideBatch = 4096

// measure walks a site that is held whole, and returns what to record of it. See
// isMissing for the error if it is not whole.
func (n *Node) measure(ctx context.Context, root cid.Cid) (site, error) {
	s := site{Root: root, Whole: true}
	err := dag.Walk(ctx, n.store, root, func(c cid.Cid) error {
		size, err := n.store.Size(c)
		s.Blocks++
		s.Bytes += int64(size)
		return err
	})
	if err != nil {
		return site{}, err
	}
	return s, nil
}

// keys calls yield with the keys to announce a site by, some more than once. For AnnounceAll it fails as
// measure does if the site is not whole.
func (n *Node) keys(ctx context.Context, root cid.Cid, yield func(multihash.Multihash) error) error {
	switch n.cfg.Announce {
	case AnnounceRoots:
		return yield(root.Hash())
	case AnnounceEntities:
		return n.entities(ctx, root, yield)
	}
	return dag.WalkAll(ctx, n.store, root, func(c cid.Cid) error {
		if _, err := n.store.Size(c); err != nil {
			return err
		}
		return yield(c.Hash())
	})
}

// entities calls yield with the roots of all files, directories and symlinks below
// root: all that a path can lead to.
func (n *Node) entities(ctx context.Context, root cid.Cid, yield func(multihash.Multihash) error) error {
	top, err := dag.Stat(ctx, n.store, root)
	if err != nil {
		return err
	}
	var seen blockstore.CIDSet
	seen.Add(root)
	if err := yield(root.Hash()); err != nil {
		return err
	}
	for dirs := []dag.Entry{top}; len(dirs) > 0; {
		e := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		if e.Kind != dag.KindDirectory {
			continue
		}
		for child, err := range dag.List(ctx, n.store, e.CID) {
			if err == nil && seen.Add(child.CID) {
				err = yield(child.CID.Hash())
				if child.Kind == dag.KindDirectory {
					dirs = append(dirs, child)
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// announce announces sites if the node is on the network. If not, the next start does
// it.
func (n *Node) announce(ctx context.Context, roots ...cid.Cid) error {
	net := n.online()
	if net == nil {
		return nil
	}
	n.announcing.Lock()
	defer n.announcing.Unlock()
	for _, root := range roots {
		if err := n.provide(ctx, net, root, nil); err != nil {
			return fmt.Errorf("announce: %w", err)
		}
	}
	return nil
}

// provide announces a site, and adds its keys to the given set, if there is one. The
// caller holds announcing.
func (n *Node) provide(ctx context.Context, net *transport.Network, root cid.Cid, into *keySet) error {
	var batch []multihash.Multihash
	err := n.keys(ctx, root, func(k multihash.Multihash) error {
		if into != nil && !into.add(k) {
			return nil // another site has it too
		}
		if batch = append(batch, k); len(batch) < provideBatch {
			return nil
		}
		err := net.Provide(ctx, batch...)
		batch = nil // whose keys may be waiting in a queue
		return err
	})
	if err != nil {
		return err
	}
	return net.Provide(ctx, batch...)
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
	wanted := newKeySet()
	var errs []error
	for _, s := range n.sites.all() {
		if !s.Whole {
			continue
		}
		var err error
		if n.cfg.Announce != AnnounceAll { // whose keys cannot be had otherwise
			_, err = n.measure(ctx, s.Root)
		}
		if err == nil {
			err = n.provide(ctx, net, s.Root, wanted)
		}
		if isMissing(err) {
			n.log.Warn("a site is no longer whole", "root", s.Root, "err", err)
			_, err = n.restore(s.Root)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Root, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // and nothing is taken back: the keys are not all known
	}
	return net.Retain(ctx, wanted.has)
}

// restore fetches what is missing of a site that was whole. It returns nil if that was
// unfollowed meanwhile.
func (n *Node) restore(root cid.Cid) (*mirror, error) {
	s, ok := n.sites.find(root)
	if !ok {
		return nil, nil
	}
	s.Lossy = s.Lossy || s.Whole
	s.Whole = false
	if err := n.sites.put(s); err != nil {
		return nil, err
	}
	return n.startMirror(root), nil
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
