package exchange

import (
	"math"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
)

// want is one block that a Fetch still needs.
type want struct {
	cid    cid.Cid
	base   cid.Cid // a block that is held and may be much like it; undefined for none
	size   int     // expected, for the window; never trusted for memory
	done   bool
	queued bool                 // waits in the pool
	owers  []*session           // that were asked for it and have not answered
	asked  time.Time            // when it was last asked for
	lacks  map[peer.ID]struct{} // peers that answered MISS in the session they are in
}

// pool holds the wants that are to be asked for. It is guarded by its Fetch's
// mutex.
type pool struct {
	nodes []*want // blocks that lead to more: asked for first
	rest  []*want
}

// nodeSize is the size expected of a block with links, whose link states the
// size of everything below it.
const nodeSize = 4 << 10

func newWant(l dag.Link, base cid.Cid) *want {
	limit := uint64(blockstore.MaxBlockSize)
	if l.CID.Prefix().Codec != cid.Raw {
		limit = nodeSize
	}
	return &want{cid: l.CID, base: base, size: int(max(min(l.Size, limit), 1))}
}

func (p *pool) put(w *want) {
	if w.queued || w.done {
		return
	}
	w.queued = true
	if w.cid.Prefix().Codec != cid.Raw {
		p.nodes = append(p.nodes, w)
	} else {
		p.rest = append(p.rest, w)
	}
}

// suits says whether s may be asked for w: its peer may have it, and was not asked.
func (w *want) suits(s *session) bool {
	_, lacks := w.lacks[s.peer]
	return !lacks && !slices.Contains(w.owers, s)
}

// take removes wants that s may have, of up to bytes bytes and maxWants in
// number but at least one, if there is any.
func (p *pool) take(s *session, bytes int) []*want {
	var batch []*want
	p.nodes = takeFrom(p.nodes, s, &batch, &bytes)
	p.rest = takeFrom(p.rest, s, &batch, &bytes)
	return batch
}

// scanLimit bounds how many wants that a session lacks are passed over to find
// one that it may have.
const scanLimit = 4096

// takeFrom takes from the front of q, and returns what is left of it.
func takeFrom(q []*want, s *session, batch *[]*want, bytes *int) []*want {
	var lacking []*want
	i := 0
	for ; i < len(q) && len(lacking) < scanLimit; i++ {
		w := q[i]
		if w.done {
			w.queued = false
			continue
		}
		if len(*batch) > 0 && *bytes <= 0 || len(*batch) >= maxWants {
			break
		}
		if !w.suits(s) {
			lacking = append(lacking, w)
			continue
		}
		w.queued = false
		*batch = append(*batch, w)
		*bytes -= s.cost(w)
	}
	// What was passed over goes back to the front, in place: there is room,
	// since at least as many were read.
	at := i - len(lacking)
	copy(q[at:i], lacking)
	clear(q[:at])
	return q[at:]
}

// has says whether the pool has something that s may have.
func (p *pool) has(s *session) bool {
	for _, q := range [][]*want{p.nodes, p.rest} {
		for _, w := range q[:min(len(q), scanLimit)] {
			if !w.done && w.suits(s) {
				return true
			}
		}
	}
	return false
}

// addSizes returns a + b, or the largest int64 if sizes that a tree claims are
// absurd.
func addSizes(a int64, b uint64) int64 {
	if b > math.MaxInt64 || a > math.MaxInt64-int64(b) {
		return math.MaxInt64
	}
	return a + int64(b)
}
