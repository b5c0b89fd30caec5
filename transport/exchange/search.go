package exchange

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// search looks for one block. Its fields belong to the goroutine of Get, unless they say
// otherwise.
type search struct {
	ctx    context.Context // all that it began ends with it
	client *Client
	cid    cid.Cid
	tally  *Tally

	known   map[peer.ID]*holder
	waiting []*holder // that may be asked
	asks    []*asking // under way, the oldest first
	ended   chan *asking
	again   chan *holder // that may be asked again
	// places has a value for each of asks that has a stream.
	places chan struct{}

	allowed int         // asks at a time
	hedge   *time.Timer // until one more may be
	pause   time.Duration
	last    time.Time // that somebody was asked
	growing bool      // enough comes from them, so nobody else is asked
	room    room

	asked, providers peerSet
	limited          error // why somebody could not be asked, if that was for want of resources here
}

// holder is a peer that may have the block.
type holder struct {
	peer.AddrInfo
	failed bool // when it was asked last; false while it is asked
	// patience is how long it may take. It is longer when it was not enough for what came.
	patience time.Duration
}

// asking is a holder that is asked.
type asking struct {
	*holder
	end    context.CancelFunc
	opened atomic.Bool  // it has a stream
	came   atomic.Int64 // bytes
	seen   int64        // of them, when another might have been asked last
	block  blockstore.Block
	err    error
}

func newSearch(ctx context.Context, c *Client, req GetRequest) *search {
	return &search{
		ctx: ctx, client: c, cid: req.CID, tally: cmp.Or(req.Tally, new(Tally)),
		known: make(map[peer.ID]*holder), ended: make(chan *asking), again: make(chan *holder),
		places: make(chan struct{}, getMost), allowed: 1, hedge: time.NewTimer(time.Hour),
		room:  room{readers: &c.readers, look: time.NewTicker(getYields)},
		asked: make(peerSet), providers: make(peerSet),
	}
}

func (s *search) stop() {
	s.hedge.Stop()
	s.room.look.Stop()
	s.room.leave(false)
}

// meet takes in a candidate.
func (s *search) meet(c Candidate) {
	if c.Provider {
		s.providers.add(c.ID)
	}
	if s.known[c.ID] != nil || c.ID == s.client.host.ID() || len(s.known) >= maxCandidates && !s.forget() {
		return
	}
	h := &holder{AddrInfo: c.AddrInfo, patience: dropAfter}
	s.known[h.ID] = h
	s.waiting = append(s.waiting, h)
}

// forget makes room for a new candidate: one that failed goes.
func (s *search) forget() bool {
	for p, h := range s.known {
		if h.failed {
			delete(s.known, p)
			s.waiting = slices.DeleteFunc(s.waiting, func(w *holder) bool { return w == h })
			return true
		}
	}
	return false
}

// askMore asks as many as may be asked.
func (s *search) askMore() {
	slices.SortStableFunc(s.waiting, func(a, b *holder) int {
		return cmp.Or(compareBool(a.failed, b.failed), cmp.Compare(s.latency(a), s.latency(b)))
	})
	for len(s.waiting) > 0 && len(s.asks) < s.allowed && !s.growing {
		h := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.ask(h)
	}
}

// unknownLatency is more than any that is known.
const unknownLatency = time.Hour

func (s *search) latency(h *holder) time.Duration {
	return cmp.Or(s.client.host.Peerstore().LatencyEWMA(h.ID), unknownLatency)
}

// ask asks h, and sets when another is asked too.
func (s *search) ask(h *holder) {
	h.failed = false
	if _, again := s.asked[h.ID]; !again {
		s.asked.add(h.ID)
		s.room.expect()
	}
	s.pause = getHedge
	if l := s.latency(h); l != unknownLatency {
		s.pause = max(getHedge, min(3*l, 2*time.Second))
	}
	if len(s.places)+1 >= getActive {
		s.pause = getStalled
	}
	s.last = time.Now()
	s.hedge.Reset(s.pause)
	ctx, end := context.WithCancel(s.ctx)
	a := &asking{holder: h, end: end}
	s.asks = append(s.asks, a)
	go func() {
		defer end()
		a.block, a.err = s.client.ask(ctx, h.AddrInfo, s.cid, h.patience, func() error {
			select {
			case s.places <- struct{}{}:
				a.opened.Store(true)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, &s.tally.received, &s.room.came, &a.came)
		if a.opened.Load() {
			<-s.places
		}
		select {
		case s.ended <- a:
		case <-s.ctx.Done():
		}
	}()
}

// failed notes that a brought nothing. The peer may be asked again after a while.
func (s *search) failed(a *asking) {
	s.asks = slices.DeleteFunc(s.asks, func(o *asking) bool { return o == a })
	s.client.log.Debug("peer did not send a block", "peer", a.ID, "cid", s.cid, "err", a.err)
	if errors.Is(a.err, network.ErrResourceLimitExceeded) {
		s.limited = a.err
	}
	if errors.Is(a.err, errProtocol) {
		s.client.bans.broke(a.ID)
	}
	h := a.holder
	h.failed = true
	if a.came.Load() >= minBytes {
		h.patience = min(2*h.patience, getPatience)
	}
	time.AfterFunc(getAgain, func() {
		select {
		case s.again <- h:
		case <-s.ctx.Done():
		}
	})
}

// overdue has one more be asked, unless enough comes from those that are.
func (s *search) overdue() {
	var grown int64
	var dials []*asking
	for _, a := range s.asks {
		if !a.opened.Load() {
			dials = append(dials, a)
		}
		came := a.came.Load()
		grown += came - a.seen
		a.seen = came
	}
	s.growing = grown >= getGrowth && time.Since(s.last) < getGrowing
	switch {
	case s.growing || len(dials) >= maxLate && len(s.waiting) == 0:
		s.hedge.Reset(s.pause)
	case len(dials) >= maxLate:
		dials[0].end() // another is asked in its place
	case len(s.asks)-len(dials) < s.most():
		s.allowed = max(s.allowed, len(s.asks)+1)
	default:
		s.hedge.Reset(s.pause) // other Gets may have ended by then
	}
}

// most returns how many peers may be asked at a time.
func (s *search) most() int {
	if s.client.asks.Load() >= getTogether {
		return getActive
	}
	return getMost
}

// room is what Fetches leave for a block, while it may be on its way.
type room struct {
	readers *atomic.Int32 // for which they do
	left    bool
	look    *time.Ticker
	came    atomic.Int64 // bytes, that any goroutine may add to
	seen    int64        // of them, when it was last looked
}

// expect leaves room for a while: somebody is asked who was not before.
func (r *room) expect() {
	r.leave(true)
	r.look.Reset(getYields)
}

// lookAgain leaves room if enough came since it was last looked.
func (r *room) lookAgain() {
	n := r.came.Load()
	r.leave(n-r.seen >= minBytes)
	r.seen = n
}

func (r *room) leave(on bool) {
	switch {
	case on && !r.left:
		r.readers.Add(1)
	case r.left && !on:
		r.readers.Add(-1)
	}
	r.left = on
}
