package dag

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
)

// Getter reads blocks, from a store or over a network. It is used by several
// goroutines at once. It is never asked for an identity CID, which carries its own
// bytes, nor for one that fails blockstore.CheckCID.
type Getter interface {
	Get(ctx context.Context, c cid.Cid) (blockstore.Block, error)
}

var errUnverifiable = errors.New("link that cannot be verified")

func isIdentity(c cid.Cid) bool { return c.Prefix().MhType == multihash.IDENTITY }

// load returns the block under c.
func load(ctx context.Context, get Getter, c cid.Cid) (blockstore.Block, error) {
	if err := blockstore.CheckCID(c); err != nil {
		return blockstore.Block{}, fmt.Errorf("%w: %w", errUnverifiable, err)
	}
	if isIdentity(c) {
		return inlined(c)
	}
	b, err := get.Get(ctx, c)
	if err != nil {
		return blockstore.Block{}, fmt.Errorf("block %s: %w", c, err)
	}
	return b, nil
}

// inlined returns the block that an identity CID carries.
func inlined(c cid.Cid) (blockstore.Block, error) {
	h, err := multihash.Decode(c.Hash())
	if err != nil {
		return blockstore.Block{}, err
	}
	return blockstore.NewBlock(c, h.Digest)
}
