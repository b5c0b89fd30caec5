package exchange

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

const (
	// getHedge is how long a peer is waited for, or three round trips to it if that is
	// longer, before another is asked too, unless one of those that are brought getGrowth
	// bytes in that time: a block of 1 MiB in ten seconds. Another would only share the line.
	getHedge  = 150 * time.Millisecond
	getGrowth = 16 << 10
	// getActive is how many peers are asked for a block at a time. While none of them brings
	// it one more is asked each getStalled, up to getMost. Who is only dialled does not count;
	// of more than maxLate dials the oldest ends.
	getActive  = 4
	getStalled = time.Second
	getMost    = 16
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
// that one brings little for long. It fails with an UnreachableError after req.Timeout. The block is
// readable then, but not durable.
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
	tally := cmp.Or(req.Tally, new(Tally))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var expired <-chan time.Time
	if req.Timeout > 0 {
		t := time.NewTimer(req.Timeout)
		defer t.Stop()
		expired = t.C
	}
	type state struct {
		peer.AddrInfo
		failed bool // when it was asked last; false while it is asked
		// patience is how long it may take. It is longer when it was not enough for what came.
		patience time.Duration
	}
	type asking struct {
		*state
		end    context.CancelFunc
		opened atomic.Bool
		came   atomic.Int64 // bytes
		seen   int64        // of them, when another might have been asked last
	}
	type outcome struct {
		from  *asking
		block blockstore.Block
		err   error
	}
	var (
		results   = make(chan outcome)
		again     = make(chan *state)
		known     = make(map[peer.ID]*state)
		waiting   []*state
		asks      []*asking // under way, the oldest first
		growing   bool      // what one of them brings, so nobody else is asked
		places    = make(chan struct{}, getMost)
		asked     = make(peerSet)
		providers = make(peerSet)
		hedge     = time.NewTimer(time.Hour)
		pause     time.Duration // of hedge
		allowed   = 1           // peers that may be asked at a time
		limited   error
		came      atomic.Int64 // bytes
		seen      int64        // of them, when it was last looked
		look      = time.NewTicker(getYields)
		yields    bool // Fetches leave room
	)
	defer hedge.Stop()
	defer look.Stop()
	yield := func(on bool) {
		switch {
		case on && !yields:
			c.readers.Add(1)
		case yields && !on:
			c.readers.Add(-1)
		}
		yields = on
	}
	defer yield(false)
	book := c.host.Peerstore()
	const unknown = time.Hour
	latency := func(p peer.ID) time.Duration { return cmp.Or(book.LatencyEWMA(p), unknown) }
	// forget makes room for a new candidate: one that failed goes.
	forget := func() bool {
		for p, s := range known {
			if s.failed {
				delete(known, p)
				waiting = slices.DeleteFunc(waiting, func(w *state) bool { return w == s })
				return true
			}
		}
		return false
	}
	for {
		slices.SortStableFunc(waiting, func(a, b *state) int {
			return cmp.Or(compareBool(a.failed, b.failed), cmp.Compare(latency(a.ID), latency(b.ID)))
		})
		for len(waiting) > 0 && len(asks) < allowed && !growing {
			here, end := context.WithCancel(ctx)
			a := &asking{state: waiting[0], end: end}
			waiting = waiting[1:]
			a.failed = false
			if _, again := asked[a.ID]; !again {
				asked.add(a.ID)
				yield(true)
				look.Reset(getYields)
			}
			pause = getHedge
			if l := latency(a.ID); l != unknown {
				pause = max(getHedge, min(3*l, 2*time.Second))
			}
			if len(places)+1 >= getActive {
				pause = getStalled
			}
			hedge.Reset(pause)
			asks = append(asks, a)
			go func() {
				defer end()
				place := func() error {
					select {
					case places <- struct{}{}:
						a.opened.Store(true)
						return nil
					case <-here.Done():
						return here.Err()
					}
				}
				b, err := c.ask(here, a.AddrInfo, req.CID, a.patience, place, &tally.received, &came, &a.came)
				if a.opened.Load() {
					<-places
				}
				select {
				case results <- outcome{a, b, err}:
				case <-ctx.Done():
				}
			}()
		}
		select {
		case cand, ok := <-candidates:
			if !ok {
				candidates = nil
				continue
			}
			if cand.Provider {
				providers.add(cand.ID)
			}
			if known[cand.ID] != nil || cand.ID == c.host.ID() || len(known) >= maxCandidates && !forget() {
				continue
			}
			s := &state{AddrInfo: cand.AddrInfo, patience: dropAfter}
			known[s.ID] = s
			waiting = append(waiting, s)
		case r := <-results:
			asks = slices.DeleteFunc(asks, func(a *asking) bool { return a == r.from })
			if r.err == nil {
				tally.came(r.from.ID)
				return put(req.Store, r.block)
			}
			if errors.Is(r.err, network.ErrResourceLimitExceeded) {
				limited = r.err
			}
			c.log.Debug("peer did not send a block", "peer", r.from.ID, "cid", req.CID, "err", r.err)
			r.from.failed = true
			if r.from.came.Load() >= minBytes {
				r.from.patience = min(2*r.from.patience, getPatience)
			}
			time.AfterFunc(getAgain, func() {
				select {
				case again <- r.from.state:
				case <-ctx.Done():
				}
			})
		case s := <-again:
			if known[s.ID] == s {
				waiting = append(waiting, s)
			}
		case <-look.C:
			n := came.Load()
			yield(n-seen >= minBytes)
			seen = n
		case <-hedge.C:
			growing = false
			var dials []*asking
			for _, a := range asks {
				if !a.opened.Load() {
					dials = append(dials, a)
				}
				came := a.came.Load()
				growing = growing || came-a.seen >= getGrowth
				a.seen = came
			}
			switch {
			case growing || len(dials) >= maxLate && len(waiting) == 0:
				hedge.Reset(pause)
			case len(dials) >= maxLate:
				dials[0].end() // another is asked in its place
			case len(asks)-len(dials) < getMost:
				allowed = max(allowed, len(asks)+1)
			}
		case <-expired:
			return &UnreachableError{Missing: 1, Waited: req.Timeout, Providers: len(providers), Asked: len(asked), Limit: limited}
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

// ask gets one block from one peer. It calls place when a stream is open, and goes on if that
// returns no error.
func (c *Client) ask(ctx context.Context, info peer.AddrInfo, id cid.Cid, patience time.Duration, place func() error, counts ...*atomic.Int64) (b blockstore.Block, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic while fetching", "cid", id, "panic", r)
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	if err := c.doors.enter(ctx, info.ID); err != nil {
		return blockstore.Block{}, err
	}
	defer c.doors.leave(info.ID)
	st, release, err := c.stream(ctx, info)
	if err != nil {
		return blockstore.Block{}, err
	}
	defer release()
	defer st.Reset()
	stop := context.AfterFunc(ctx, func() { st.Reset() })
	defer stop()
	if err := place(); err != nil {
		return blockstore.Block{}, err
	}
	if err := st.SetDeadline(time.Now().Add(patience)); err != nil {
		return blockstore.Block{}, err
	}
	asked := time.Now()
	if _, err := st.Write(appendGet(appendFrame(nil, frameHello), []cid.Cid{id})); err != nil {
		return blockstore.Block{}, err
	}
	r := bufio.NewReaderSize(countingReader{st, counts}, 16<<10)
	t, _, err := readFrame(r, maxHello)
	if err != nil {
		return blockstore.Block{}, err
	}
	if t != frameHello {
		return blockstore.Block{}, violation("no HELLO")
	}
	c.host.Peerstore().RecordLatency(info.ID, time.Since(asked))
	t, body, err := readFrame(r, maxAnswer)
	if err != nil {
		return blockstore.Block{}, err
	}
	if t != frameBlocks {
		return blockstore.Block{}, violation("unexpected frame of type %d", t)
	}
	a, err := parseBlocks(body)
	if err != nil {
		return blockstore.Block{}, err
	}
	if a.body.count != 1 {
		return blockstore.Block{}, violation("%d blocks for one", a.body.count)
	}
	b, err = c.only(id, a.body)
	if err != nil && err != errAbsent {
		c.bans.add(info.ID)
		c.log.Warn("peer sent a bad block", "peer", info.ID, "err", err)
	}
	return b, err
}

// only returns the block of a body that has one piece.
func (c *Client) only(id cid.Cid, b body) (blockstore.Block, error) {
	pieces, err := b.pieces(c.decoder, nil)
	if err != nil {
		return blockstore.Block{}, err
	}
	return whole(id, pieces[0])
}

// whole makes the block of a piece that is no delta. It fails with errAbsent if the piece
// says that the provider lacks the block; other errors are the peer's fault.
func whole(id cid.Cid, p piece) (blockstore.Block, error) {
	switch p.kind {
	case kindBlock:
		return blockstore.NewBlock(id, p.bytes)
	case kindStored:
		return unpack(id, p.bytes)
	case kindMissing:
		return blockstore.Block{}, errAbsent
	default:
		return blockstore.Block{}, violation("piece of kind %d", p.kind)
	}
}
