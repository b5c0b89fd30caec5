package exchange

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Tally counts what came over the network for some work, which may take several calls. Its
// zero value is ready, and may be used by many goroutines.
type Tally struct {
	received atomic.Int64

	mu    sync.Mutex
	peers map[peer.ID]struct{}
}

// Received returns the bytes that were read from peers: whole frames, and those too that
// brought nothing. The search for providers, and what a connection adds (handshakes,
// encryption, multiplexing), serve all work of a node, and are not counted.
func (t *Tally) Received() int64 { return t.received.Load() }

// Peers returns how many peers sent blocks.
func (t *Tally) Peers() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.peers)
}

// Add adds what o has counted.
func (t *Tally) Add(o *Tally) {
	t.received.Add(o.received.Load())
	o.mu.Lock()
	defer o.mu.Unlock()
	for p := range o.peers {
		t.came(p)
	}
}

// came notes that p sent blocks.
func (t *Tally) came(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers == nil {
		t.peers = make(map[peer.ID]struct{})
	}
	t.peers[p] = struct{}{}
}

// gave says whether p sent blocks.
func (t *Tally) gave(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.peers[p]
	return ok
}

// countingReader adds the bytes that are read to counts.
type countingReader struct {
	io.Reader
	counts []*atomic.Int64
}

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	for _, c := range r.counts {
		c.Add(int64(n))
	}
	return n, err
}
