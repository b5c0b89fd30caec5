package exchange

import (
	"context"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// maxAsks is how many single blocks one peer is asked for at a time. A provider allows 32
// streams of one peer, as long as others use few; the rest are for DAGs. When others use more
// it allows fewer, and resets those that are too many: they are asked for again later.
const maxAsks = 24

// doors has those who ask a peer for single blocks wait for each other. Only they do: a peer
// that is slow, or blocks that nobody has, keep nobody from asking another.
type doors struct {
	mu    sync.Mutex
	peers map[peer.ID]*door // those that somebody asks, or waits for
}

type door struct {
	users int           // guarded by doors.mu
	slots chan struct{} // one token for each that asks
}

func newDoors() *doors { return &doors{peers: make(map[peer.ID]*door)} }

// enter waits until p may be asked. Who got nil has to leave.
func (d *doors) enter(ctx context.Context, p peer.ID) error {
	d.mu.Lock()
	at := d.peers[p]
	if at == nil {
		at = &door{slots: make(chan struct{}, maxAsks)}
		d.peers[p] = at
	}
	at.users++
	d.mu.Unlock()
	select {
	case at.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		d.forget(p)
		return context.Cause(ctx)
	}
}

func (d *doors) leave(p peer.ID) {
	d.mu.Lock()
	<-d.peers[p].slots
	d.mu.Unlock()
	d.forget(p)
}

func (d *doors) forget(p peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := d.peers[p]
	if at.users--; at.users == 0 {
		delete(d.peers, p)
	}
}
