package dag

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"
)

const (
	// MaxDepth is how many links below the root Walk goes. It leaves room for
	// MaxTreeDepth directories that are all sharded.
	MaxDepth = 1 << 16
	// MaxTreeDepth is how many directories below the top one Import and Extract go.
	MaxTreeDepth = 1 << 12
	// maxPending bounds the links that a walk has read and not yet followed, and
	// so the memory that nodes full of links can take, to some 100 MB.
	maxPending = 1 << 19
)

// ErrTooLarge reports a DAG that is deeper, or has more links to remember at once,
// than this package follows.
var ErrTooLarge = errors.New("DAG exceeds the limits of a walk")

// Walk calls visit with the CID of every block below root, root included, in the
// canonical order: depth-first, a node before what it links to, links in the order
// in which they stand, and each CID only where it occurs first. Everybody who walks
// the same root sees the same sequence.
//
// It reads dag-pb nodes only, right after visiting them. Raw blocks are visited and
// not read: they have no links, so a walk costs one read for each file of more than
// one chunk and for each directory. Identity CIDs are followed but not visited:
// they carry their own bytes, and nobody stores or sends them.
//
// Walk ends with the first error: of visit, of get, or its own. Those wrap
// ErrMalformed, ErrCodec, or ErrTooLarge for a DAG more than MaxDepth links deep. Its
// memory grows by some 45 bytes for each distinct block; who must bound that counts in
// visit and returns an error.
func Walk(ctx context.Context, get Getter, root cid.Cid, visit func(cid.Cid) error) error {
	return walk(ctx, get, root, false, visit)
}

// WalkAll is Walk for a visit that may be told of a leaf again, once for each link to
// it. Then leaves, most of nearly every DAG, need not be remembered.
func WalkAll(ctx context.Context, get Getter, root cid.Cid, visit func(cid.Cid) error) error {
	return walk(ctx, get, root, true, visit)
}

func walk(ctx context.Context, get Getter, root cid.Cid, repeatLeaves bool, visit func(cid.Cid) error) error {
	c := NewCursor(root, cid.Undef, 0)
	c.repeatLeaves = repeatLeaves
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		step, ok, err := c.Next()
		if err != nil || !ok {
			return err
		}
		if err := visit(step.CID); err != nil {
			return err
		}
		if step.Leaf() {
			continue
		}
		b, err := load(ctx, get, step.CID)
		if err != nil {
			return err
		}
		links, err := Links(b)
		if err != nil {
			return err
		}
		if err := c.Enter(links, nil); err != nil {
			return err
		}
	}
}
