package dag

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

const (
	// lookAhead is how many blocks a reader has under way beyond the one it is
	// waiting for, so that a Getter on a network is not one round trip a block.
	// Each may be 2 MiB.
	lookAhead = 8
	// maxReadDepth bounds the depth of a file or of a sharded directory. A file of
	// 2^63 bytes with two links a node is no deeper.
	maxReadDepth = 64
)

// step is a block that a reader will come to, with what the reader knows of it.
type step[T any] struct {
	cid  cid.Cid
	skip bool // what is known suffices: do not read the block
	info T

	depth   int
	arrives chan arrival // nil if nobody fetches it yet
}

type arrival struct {
	block blockstore.Block
	err   error
}

// descend visits first, then what visit returns for it in order, and so on down,
// depth-first. It reads the blocks, a few ahead of visit, which gets the zero Block
// for a step that is to be skipped.
func descend[T any](ctx context.Context, get Getter, first step[T], visit func(T, blockstore.Block) ([]step[T], error)) error {
	ctx, cancel := context.WithCancel(ctx)
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer cancel()

	underWay := 0
	stack := []*step[T]{&first}
	for len(stack) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		next := stack[len(stack)-1]
		// A pointer that stays behind would keep all the steps that were made with its
		// own, and their blocks.
		stack[len(stack)-1] = nil
		stack = stack[:len(stack)-1]

		for _, s := range slices.Backward(stack[max(0, len(stack)-lookAhead):]) {
			if s.skip || s.arrives != nil || underWay == lookAhead {
				continue
			}
			underWay++
			s.arrives = make(chan arrival, 1)
			fetches.Go(func() {
				b, err := load(ctx, get, s.cid)
				s.arrives <- arrival{b, err}
			})
		}

		var got arrival
		switch {
		case next.skip:
		case next.arrives != nil:
			got = <-next.arrives
			underWay--
		default:
			got.block, got.err = load(ctx, get, next.cid)
		}
		if got.err != nil {
			return got.err
		}
		below, err := visit(next.info, got.block)
		if err != nil {
			return err
		}
		if len(below) > 0 && next.depth == maxReadDepth {
			return fmt.Errorf("%s: %w: more than %d links deep", first.cid, ErrTooLarge, maxReadDepth)
		}
		if len(stack)+len(below) > maxPending {
			return fmt.Errorf("%s: %w: more than %d links to follow", first.cid, ErrTooLarge, maxPending)
		}
		for i := range slices.Backward(below) {
			below[i].depth = next.depth + 1
			stack = append(stack, &below[i])
		}
	}
	return nil
}
