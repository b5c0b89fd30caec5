package exchange

import (
	"context"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/transport/delta"
)

// run is what goes into an answer with leaves.
type run struct {
	pieces []piece
	stands int  // bytes of the blocks
	hard   bool // none of them shrinks
	full   bool // there is no room for the next
}

// run reads leaves from the first of s on, as many as go into an answer: stored as they
// are on disk, or their bytes or deltas. A leaf that cannot be read, for whatever reason,
// ends it.
func (c *serving) run(s span, stored bool) (run, error) {
	r := run{hard: true}
	size, began := 0, time.Now()
	for i := s.first; i < s.end() && len(r.pieces) < maxPieces && c.ctx.Err() == nil; i++ {
		if len(r.pieces) > 0 && time.Since(began) > answerTime {
			break
		}
		p, n, err := c.piece(i, stored)
		if err != nil {
			break
		}
		if len(r.pieces) > 0 && (size+len(p.bytes) > frameBytes || r.stands+n > standBytes) {
			r.full = true
			break
		}
		r.pieces = append(r.pieces, p)
		r.stands += n
		r.hard = r.hard && p.kind == kindBlock && p.hard
		size += len(p.bytes)
		need := 3 * size // the pieces, and the body plain and packed
		if p.kind == kindDelta {
			need += 2 * n // the block and its base
		}
		if err := c.book(need); err != nil {
			return run{}, err
		}
	}
	return r, c.ctx.Err() // or what was not read would count as missing
}

// answerTime is for how long leaves are read for an answer: whoever waits for it gives up after
// dropAfter, and would find nothing done when it asks again.
const answerTime = dropAfter / 4

// hardSize is from how many bytes on a block that the store did not pack is not worth
// trying again: shorter ones may shrink together.
const hardSize = 64 << 10

// piece reads a leaf, and tells how many bytes it has.
func (c *serving) piece(leaf int, stored bool) (piece, int, error) {
	id, base := c.order.leaves.at(leaf), c.order.leafBase(leaf)
	if base.Defined() {
		b, err := c.server.store.Get(c.ctx, id)
		if err != nil {
			return piece{}, 0, err
		}
		return c.server.piece(b, base), len(b.Data()), nil
	}
	data, packed, size, err := c.server.store.Packed(c.ctx, id)
	switch {
	case err != nil:
		return piece{}, 0, err
	case !packed:
		return piece{kind: kindBlock, bytes: data, hard: size >= hardSize}, size, nil
	case stored:
		return piece{kind: kindStored, bytes: data}, size, nil
	}
	b, err := blockstore.Unpack(id, data)
	return piece{kind: kindBlock, bytes: b.Data()}, size, err
}

// piece returns what to send for b: itself, or if base is held and it is worth it a delta.
func (s *Server) piece(b blockstore.Block, base cid.Cid) piece {
	if !base.Defined() {
		return piece{kind: kindBlock, bytes: b.Data()}
	}
	from, err := s.store.Get(context.Background(), base)
	if err != nil {
		return piece{kind: kindBlock, bytes: b.Data()}
	}
	d := s.deltas.Get().(*delta.Encoder)
	defer s.deltas.Put(d)
	ops := d.Append(nil, from.Data(), b.Data())
	if len(ops) > len(b.Data())/minDelta {
		return piece{kind: kindBlock, bytes: b.Data()} // which compresses better together with its like
	}
	return piece{kind: kindDelta, bytes: ops}
}

// minDelta is how many times shorter than its block a delta is to be.
const minDelta = 2
