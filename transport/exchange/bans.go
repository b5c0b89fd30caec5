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
)

// bans remembers the peers that sent something wrong, each for banTime. Of too
// many, the oldest are forgotten: new identities cost nothing, so a longer list
// would not help.
type bans struct {
	mu    sync.Mutex
	until *simplelru.LRU[peer.ID, time.Time]
}

func newBans() *bans {
	l, _ := simplelru.NewLRU[peer.ID, time.Time](maxBans, nil) // fails only for a size below 1
	return &bans{until: l}
}

func (b *bans) add(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until.Add(p, time.Now().Add(banTime))
}

func (b *bans) has(p peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, ok := b.until.Peek(p)
	return ok && time.Now().Before(until)
}
