package exchange

import (
	"context"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

const (
	// getHedge is how long a peer is waited for, or three round trips to it if that is
	// longer, before another is asked too, unless those that are brought getGrowth bytes in
	// that time: a block of 1 MiB in ten seconds. Another would only share the line. Or it may
	// not, and somebody drips to keep the reader waiting: so that holds for getGrowing after
	// one was asked. Over a line of that rate the block still comes within dropAfter, though a
	// second shares it then, and a third: 6 s, 6 s for half, 3 s for a third.
	getHedge   = 150 * time.Millisecond
	getGrowth  = 16 << 10
	getGrowing = 6 * time.Second
	// getActive is how many peers are asked for a block at a time. While none of them brings
	// it one more is asked each getStalled, up to getMost. Who is only dialled does not count;
	// of more than maxLate dials the oldest ends. While getTogether streams are open for blocks,
	// of all Gets, none of them asks more than getActive: the host allows 512, and Fetches need
	// some.
	getActive   = 4
	getStalled  = time.Second
	getMost     = 16
	getTogether = 256
	// getAgain is when a peer that did not have it is asked again.
	getAgain = 2 * time.Second
	// getYields is for how long Fetches leave room for a block after somebody was asked who was
	// not before, and then while minBytes come in as long. Nobody may have the block.
	getYields = time.Second
	// getPatience is how long a peer that brings something may take for a block at most.
	getPatience = 16 * dropAfter
)

// GetRequest says which block to get.
type GetRequest struct {
	// Store is where it is put. Required.
	Store WriteStore
	CID   cid.Cid
	// Timeout ends the search; 0 is never.
	Timeout time.Duration
	// Tally, if not nil, counts what comes.
	Tally *Tally
}

// Get brings one block into req.Store, for somebody who waits for it: it goes before what
// Fetches bring meanwhile. It asks the nearest of the candidates first, and another when
// that one brings little for long. It fails with an UnreachableError after req.Timeout. The
// block is readable then, but not durable.
//
// There may be any number of Gets: those that nobody can answer do not keep others from
// their blocks. Of each peer as many ask at a time as it allows.
func (c *Client) Get(ctx context.Context, req GetRequest, candidates <-chan Candidate) error {
	if err := blockstore.CheckCID(req.CID); err != nil {
		return err
	}
	if ok, err := req.Store.Has(req.CID); ok || err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var expired <-chan time.Time
	if req.Timeout > 0 {
		t := time.NewTimer(req.Timeout)
		defer t.Stop()
		expired = t.C
	}
	s := newSearch(ctx, c, req)
	defer s.stop()
	for {
		s.askMore()
		select {
		case found, ok := <-candidates:
			if !ok {
				candidates = nil
				continue
			}
			s.meet(found)
		case a := <-s.ended:
			if a.err == nil {
				s.tally.came(a.ID)
				return put(req.Store, a.block)
			}
			s.failed(a)
		case p := <-s.again:
			if s.known[p.ID] == p {
				s.waiting = append(s.waiting, p)
			}
		case <-s.room.look.C:
			s.room.lookAgain()
		case <-s.hedge.C:
			s.overdue()
		case <-expired:
			return &UnreachableError{
				Missing: 1, Waited: req.Timeout, Providers: len(s.providers), Asked: len(s.asked), Limit: s.limited,
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func put(store WriteStore, b blockstore.Block) error {
	w := store.NewWriter()
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Flush()
}
