package exchange

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	banTime = time.Hour
	maxBans = 4096
	// maxStrikes is how often a peer may break the protocol within banTime. Once can be a
	// mistake, of either side.
	maxStrikes = 3
)

// bans remembers the peers that sent something wrong, or broke the protocol again and again,
// each for banTime. Of too many, the oldest are forgotten: new identities cost nothing, so a
// longer list would not help.
type bans struct {
	mu    sync.Mutex
	peers *simplelru.LRU[peer.ID, strikes]
}

// strikes are when a peer last did something wrong, the latest first. If all are within banTime
// it is banned, for banTime after the latest.
type strikes [maxStrikes]time.Time

func newBans() *bans {
	l, _ := simplelru.NewLRU[peer.ID, strikes](maxBans, nil) // fails only for a size below 1
	return &bans{peers: l}
}

// add bans p.
func (b *bans) add(p peer.ID) { b.strike(p, maxStrikes) }

// broke notes that p broke the protocol.
func (b *bans) broke(p peer.ID) { b.strike(p, 1) }

func (b *bans) strike(p peer.ID, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, _ := b.peers.Peek(p)
	for range n {
		copy(s[1:], s[:])
		s[0] = time.Now()
	}
	b.peers.Add(p, s)
}

func (b *bans) has(p peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.peers.Peek(p)
	return ok && s[0].Sub(s[maxStrikes-1]) < banTime && time.Since(s[0]) < banTime
}
