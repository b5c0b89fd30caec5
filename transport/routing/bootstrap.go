package routing

import (
	"context"
	"log/slog"
	"sync"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
)

const (
	// joinedCheck is how often a node that is part of the DHT looks whether it
	// still is. It costs reading a counter.
	joinedCheck = 5 * time.Second
	// After a failed attempt to join, the next follows after minRetry; the pause
	// doubles up to maxRetry.
	minRetry = 1 * time.Second
	maxRetry = 30 * time.Second
	// joinTimeout bounds the dial of one bootstrap peer.
	joinTimeout = 15 * time.Second
	// maxJoinDials bounds how many bootstrap peers are dialled at once.
	maxJoinDials = 8
)

// bootstrapTag marks connections to bootstrap peers that the user named, so that
// the connection manager keeps them.
const bootstrapTag = "pollux/bootstrap"

// bootstrapPeers returns the peers to join through, and whether they are the
// user's own.
func bootstrapPeers(cfg Config) (peers []peer.AddrInfo, own bool) {
	if cfg.Bootstrap == nil && cfg.Network == publicNetwork {
		return dht.GetDefaultBootstrapPeerAddrInfos(), false
	}
	return cfg.Bootstrap, true
}

// bootstrapper keeps the node in the DHT. The DHT looks after its routing table
// once it has a peer in it; getting the first one, and again after the network
// was gone, is done here.
type bootstrapper struct {
	dht   *dht.IpfsDHT
	peers []peer.AddrInfo
	// keep says to stay connected to at least one of peers even when there are
	// other peers in the routing table. On a small network a bootstrap peer that
	// restarts knows nobody, and would stay alone if those who know its address
	// were content with each other. The public network's bootstrap peers need no
	// such help.
	keep bool
	log  *slog.Logger
}

// run returns when ctx ends.
func (b *bootstrapper) run(ctx context.Context) {
	host := b.dht.Host()
	if b.keep {
		for _, p := range b.peers {
			host.ConnManager().Protect(p.ID, bootstrapTag)
		}
	}
	retry := minRetry
	for ctx.Err() == nil {
		pause := joinedCheck
		if !b.joined() {
			if retry == minRetry {
				b.log.Debug("joining the DHT", "peers", len(b.peers))
			}
			if b.dial(ctx) {
				retry = minRetry
			}
			pause = retry
			retry = min(2*retry, maxRetry)
		} else {
			retry = minRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (b *bootstrapper) joined() bool {
	if b.dht.RoutingTable().Size() == 0 {
		return false
	}
	if !b.keep {
		return true
	}
	for _, p := range b.peers {
		if b.dht.Host().Network().Connectedness(p.ID) == network.Connected {
			return true
		}
	}
	return false
}

// dial connects to all bootstrap peers and reports whether any answered. The DHT
// hears of the connections by itself and takes those peers into its routing table
// that are its members.
func (b *bootstrapper) dial(ctx context.Context) bool {
	host := b.dht.Host()
	slots := make(chan struct{}, maxJoinDials)
	var dials sync.WaitGroup
	var mu sync.Mutex
	reached := false
	for _, p := range b.peers {
		if p.ID == host.ID() {
			continue
		}
		slots <- struct{}{}
		dials.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, joinTimeout)
			defer cancel()
			// The pause between attempts is decided in run; libp2p's own, up to five
			// minutes, would turn the next ones into failures without a dial.
			if s, ok := host.Network().(*swarm.Swarm); ok {
				s.Backoff().Clear(p.ID)
			}
			if err := host.Connect(ctx, p); err != nil {
				b.log.Debug("cannot reach bootstrap peer", "peer", p.ID, "err", err)
				return
			}
			mu.Lock()
			reached = true
			mu.Unlock()
		})
	}
	dials.Wait()
	if reached {
		// Offers the routing table the peers that were connected already, in case it
		// had dropped them.
		b.dht.Bootstrap(ctx)
	} else if ctx.Err() == nil {
		b.log.Debug("no bootstrap peer can be reached")
	}
	return reached
}
