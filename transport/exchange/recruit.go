package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
)

const (
	maxCandidates = 256
	connectLimit  = 15 * time.Second
	firstRetry    = time.Second
	lastRetry     = 30 * time.Second
)

// recruit turns candidates into sessions, at most maxActive at a time, those with
// the lowest known latency first. A session that ended is tried again after a
// while: the peer may have come back, or hold more by then.
func (f *Fetch) recruit(ctx context.Context, candidates <-chan Candidate, peers *sync.WaitGroup) {
	type state struct {
		info    peer.AddrInfo
		delay   time.Duration // before the next try
		waiting bool
		active  bool
	}
	type outcome struct {
		peer peer.ID
		gave bool // it sent blocks
	}
	var (
		known   = make(map[peer.ID]*state)
		waiting []peer.ID
		active  int
		ended   = make(chan outcome)
		again   = make(chan peer.ID)
		needed  = f.needed
		book    = f.client.host.Peerstore()
	)
	wait := func(p peer.ID) {
		known[p].waiting = true
		waiting = append(waiting, p)
	}
	// forget makes room for a new candidate: the one that failed most often goes.
	forget := func() {
		var worst peer.ID
		for p, s := range known {
			if !s.active && (worst == "" || s.delay > known[worst].delay) {
				worst = p
			}
		}
		delete(known, worst)
		waiting = slices.DeleteFunc(waiting, func(p peer.ID) bool { return p == worst })
	}
	latency := func(p peer.ID) time.Duration {
		if d := book.LatencyEWMA(p); d > 0 {
			return d
		}
		return time.Hour // unknown: after the known ones
	}
	for {
		select {
		case <-f.end:
			return
		case c, ok := <-candidates:
			if !ok {
				candidates = nil
				continue
			}
			f.mu.Lock()
			if c.Provider {
				f.providers[c.ID] = struct{}{}
			}
			f.mu.Unlock()
			book.AddAddrs(c.ID, c.Addrs, peerstore.TempAddrTTL)
			if _, ok := known[c.ID]; ok || c.ID == f.client.host.ID() {
				continue
			}
			if len(known) >= maxCandidates {
				forget()
			}
			known[c.ID] = &state{info: c.AddrInfo, delay: firstRetry}
			wait(c.ID)
		case o := <-ended:
			active--
			s := known[o.peer]
			s.active = false
			if o.gave {
				s.delay = firstRetry
			}
			// Spread out, so that peers that failed together do not return together.
			time.AfterFunc(s.delay+rand.N(s.delay/4), func() {
				select {
				case again <- o.peer:
				case <-f.end:
				}
			})
			s.delay = min(2*s.delay, lastRetry)
		case p := <-again:
			if s := known[p]; s != nil && !s.waiting && !s.active {
				wait(p)
			}
		case <-needed:
			needed = nil
		}
		if needed != nil {
			continue // all may be held already: nobody is dialled in vain
		}
		slices.SortStableFunc(waiting, func(a, b peer.ID) int { return cmp.Compare(latency(a), latency(b)) })
		for len(waiting) > 0 && active < maxActive {
			s := known[waiting[0]]
			waiting = waiting[1:]
			s.waiting, s.active = false, true
			info := s.info
			active++
			peers.Go(func() {
				gave, err := f.try(ctx, info)
				if err != nil {
					f.client.log.Debug("provider ended", "peer", info.ID, "root", f.request.Root, "err", err)
				}
				select {
				case ended <- outcome{info.ID, gave}:
				case <-f.end:
				}
			})
		}
		f.mu.Lock()
		f.crowded = len(waiting) > 0
		f.mu.Unlock()
	}
}

// try connects to a peer and works with it until either side is done. gave says
// that the peer sent blocks.
func (f *Fetch) try(ctx context.Context, info peer.AddrInfo) (gave bool, err error) {
	if f.client.bans.has(info.ID) {
		return false, errBanned
	}
	h := f.client.host
	dialCtx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if err := h.Connect(dialCtx, info); err != nil {
		return false, err
	}
	tag := fmt.Sprintf("%s/%p", Service, f)
	h.ConnManager().Protect(info.ID, tag)
	defer h.ConnManager().Unprotect(info.ID, tag)
	st, err := h.NewStream(dialCtx, info.ID, Protocol)
	if err != nil {
		return false, err
	}
	if err := st.Scope().SetService(Service); err != nil {
		st.Reset()
		return false, err
	}
	return f.use(ctx, info.ID, st)
}

var errBanned = errors.New("sent a bad block within the last hour")

// use runs a session on st.
func (f *Fetch) use(ctx context.Context, p peer.ID, st network.Stream) (gave bool, err error) {
	s := &session{fetch: f, peer: p, stream: st, window: firstWindow, ratio: [2]float64{firstRatio, firstRatio}}
	f.mu.Lock()
	f.sessions[s] = struct{}{}
	for w := range f.wants {
		delete(w.lacks, p) // it may have come by it since
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.sessions, s)
		f.changed.Broadcast()
		f.mu.Unlock()
		if s.rtt > 0 {
			f.client.host.Peerstore().RecordLatency(p, s.rtt)
		}
	}()
	err = s.run(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.gave, err
}
