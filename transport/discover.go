package transport

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/transport/exchange"
)

const (
	// The DHT is asked again for providers after pauses that grow between these.
	firstLookup = 500 * time.Millisecond
	lastLookup  = 30 * time.Second
	// offlinePoll is how often a node without DHT peers looks whether it has one.
	offlinePoll = 100 * time.Millisecond
	// maxLookups is how many single blocks are looked for in the DHT at a time: a browser can
	// ask for more than any node should look for.
	maxLookups = 24
)

// candidates yields peers that may hold what is below root, until ctx ends: nodes
// that are or become connected, such as those on the local network, and the
// providers that find finds again and again.
func (n *Network) candidates(ctx context.Context, root cid.Cid, find finder) <-chan exchange.Candidate {
	out := make(chan exchange.Candidate)
	send := sender(ctx, out)
	var sources sync.WaitGroup
	sources.Go(func() { n.connected(ctx, send) })
	sources.Go(func() { n.lookUp(ctx, root, find, send) })
	go func() {
		sources.Wait()
		close(out)
	}()
	return out
}

// search is candidates for one look into the DHT: it ends with that. Of peers that become
// connected, it yields those that do until then.
func (n *Network) search(ctx context.Context, root cid.Cid) <-chan exchange.Candidate {
	out := make(chan exchange.Candidate)
	send := sender(ctx, out)
	go func() {
		defer close(out)
		looking, stop := context.WithCancel(ctx)
		var watch sync.WaitGroup
		watch.Go(func() { n.connected(looking, send) })
		n.lookUpOnce(ctx, root, n.found, send)
		stop()
		watch.Wait()
		n.connectedNow(send) // those that watch was not told of any more
	}()
	return out
}

// sender returns what sends to out, and says whether ctx is still alive.
func sender(ctx context.Context, out chan<- exchange.Candidate) func(exchange.Candidate) bool {
	return func(c exchange.Candidate) bool {
		select {
		case out <- c:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// connected sends the connected peers that speak the sync protocol.
func (n *Network) connected(ctx context.Context, send func(exchange.Candidate) bool) {
	// Subscribed before the list is taken, so that no peer falls between them.
	sub, err := n.host.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		n.log.Error("cannot watch for new peers", "err", err)
		return
	}
	defer sub.Close()
	if !n.connectedNow(send) {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-sub.Out():
			if !ok {
				return
			}
			found := e.(event.EvtPeerIdentificationCompleted)
			if slices.Contains(found.Protocols, exchange.Protocol) && !send(exchange.Candidate{AddrInfo: peer.AddrInfo{ID: found.Peer}}) {
				return
			}
		}
	}
}

// connectedNow sends those that are connected now, and says whether send took them all.
func (n *Network) connectedNow(send func(exchange.Candidate) bool) bool {
	for _, id := range n.host.Network().Peers() {
		if n.host.Network().Connectedness(id) == network.Connected {
			ps, err := n.host.Peerstore().SupportsProtocols(id, exchange.Protocol)
			if err == nil && len(ps) > 0 && !send(exchange.Candidate{AddrInfo: peer.AddrInfo{ID: id}}) {
				return false
			}
		}
	}
	return true
}

// lookUp sends the providers that the DHT knows, again and again: new ones come,
// and the records of a node that moved change.
func (n *Network) lookUp(ctx context.Context, root cid.Cid, find finder, send func(exchange.Candidate) bool) {
	for pause := firstLookup; ; pause = min(2*pause, lastLookup) {
		if !n.lookUpOnce(ctx, root, find, send) || !sleep(ctx, pause) {
			return
		}
	}
}

// lookUpOnce sends the providers that the DHT knows, once the node has joined that, and
// says whether it came to the end. Until then those have to do that announced themselves to
// this node, as they do to the first of a network; it has nobody to wait for.
func (n *Network) lookUpOnce(ctx context.Context, root cid.Cid, find finder, send func(exchange.Candidate) bool) bool {
	if !n.routing.Online() {
		if ok := find(ctx, root, send); !ok || n.first {
			return ok
		}
	}
	for !n.routing.Online() {
		if !sleep(ctx, offlinePoll) {
			return false
		}
	}
	return find(ctx, root, send)
}

// A finder sends the providers that are known now, and says whether send took them all.
type finder func(ctx context.Context, root cid.Cid, send func(exchange.Candidate) bool) bool

// inTurn is find for at most maxLookups at a time. A turn lasts as long as one look into the
// DHT, so what nobody has makes others wait no longer than that. Whoever receives what is
// sent must not stop: others wait meanwhile.
func (n *Network) inTurn(find finder) finder {
	return func(ctx context.Context, root cid.Cid, send func(exchange.Candidate) bool) bool {
		select {
		case n.lookups <- struct{}{}:
			defer func() { <-n.lookups }()
			return find(ctx, root, send)
		case <-ctx.Done():
			return false
		}
	}
}

// found sends the providers that the DHT, or this node's part in it, knows now. It says
// whether send took them all.
func (n *Network) found(ctx context.Context, root cid.Cid, send func(exchange.Candidate) bool) bool {
	for info := range n.routing.FindProviders(ctx, root) {
		if !send(exchange.Candidate{AddrInfo: info, Provider: true}) {
			return false
		}
	}
	return true
}

// sleep waits for d and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
