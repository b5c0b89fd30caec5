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
		info  peer.AddrInfo
		delay time.Duration
	}
	var (
		known   = make(map[peer.ID]*state)
		waiting []peer.ID
		active  int
		ended   = make(chan peer.ID)
		again   = make(chan peer.ID)
		book    = f.client.host.Peerstore()
	)
	send := func(to chan<- peer.ID, p peer.ID) {
		select {
		case to <- p:
		case <-f.end:
		}
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
			if _, ok := known[c.ID]; ok || c.ID == f.client.host.ID() || len(known) >= maxCandidates {
				continue
			}
			known[c.ID] = &state{c.AddrInfo, firstRetry}
			waiting = append(waiting, c.ID)
		case p := <-ended:
			active--
			s := known[p]
			// Spread out, so that peers that failed together do not return together.
			time.AfterFunc(s.delay+rand.N(s.delay/4), func() { send(again, p) })
			s.delay = min(2*s.delay, lastRetry)
		case p := <-again:
			waiting = append(waiting, p)
		}
		slices.SortStableFunc(waiting, func(a, b peer.ID) int { return cmp.Compare(latency(a), latency(b)) })
		for len(waiting) > 0 && active < maxActive {
			info := known[waiting[0]].info
			waiting = waiting[1:]
			active++
			peers.Go(func() {
				if err := f.try(ctx, info); err != nil {
					f.client.log.Debug("provider ended", "peer", info.ID, "root", f.request.Root, "err", err)
				}
				send(ended, info.ID)
			})
		}
	}
}

// try connects to a peer and works with it until either side is done.
func (f *Fetch) try(ctx context.Context, info peer.AddrInfo) error {
	if f.client.bans.has(info.ID) {
		return errBanned
	}
	h := f.client.host
	dialCtx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if err := h.Connect(dialCtx, info); err != nil {
		return err
	}
	h.ConnManager().Protect(info.ID, Service)
	defer h.ConnManager().Unprotect(info.ID, Service)
	st, err := h.NewStream(dialCtx, info.ID, Protocol)
	if err != nil {
		return err
	}
	if err := st.Scope().SetService(Service); err != nil {
		st.Reset()
		return err
	}
	return f.use(ctx, info.ID, st)
}

var errBanned = errors.New("sent a bad block within the last hour")

// use runs a session on st.
func (f *Fetch) use(ctx context.Context, p peer.ID, st network.Stream) error {
	s := &session{fetch: f, peer: p, stream: st, window: minWindow}
	f.mu.Lock()
	f.sessions[s] = struct{}{}
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
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("session: %w", err)
	}
	return nil
}
