package node

import (
	"context"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/transport/exchange"
)

// lookups are the searches for single blocks under way. Those who want the same
// block share one, which ends when the last of them has gone.
type lookups struct {
	mu      sync.Mutex
	current map[cid.Cid]*lookup
}

type lookup struct {
	waiters int // guarded by lookups.mu
	stop    context.CancelFunc
	tally   exchange.Tally
	done    chan struct{} // closed at the end
	err     error         // to be read after done
}

func newLookups() *lookups {
	return &lookups{current: make(map[cid.Cid]*lookup)}
}

// lookUp fetches one block into the store. tally, if not nil, counts what that took.
func (n *Node) lookUp(ctx context.Context, c cid.Cid, timeout time.Duration, tally *exchange.Tally) error {
	ls := n.lookups
	ls.mu.Lock()
	l := ls.current[c]
	if l == nil {
		var search context.Context
		l = &lookup{done: make(chan struct{})}
		search, l.stop = context.WithCancel(n.ctx)
		ls.current[c] = l
		n.goWork(func() {
			l.err = n.search(search, c, timeout, &l.tally)
			ls.drop(c, l)
			close(l.done)
		})
	}
	l.waiters++
	ls.mu.Unlock()

	select {
	case <-l.done:
		if tally != nil {
			tally.Add(&l.tally)
		}
		return l.err
	case <-n.ctx.Done():
		return n.ctx.Err()
	case <-ctx.Done():
		ls.leave(c, l)
		return ctx.Err()
	}
}

// leave notes that one waits no longer for a search, which ends if that was the last.
func (ls *lookups) leave(c cid.Cid, l *lookup) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.waiters--; l.waiters == 0 {
		ls.forget(c, l)
	}
}

// drop forgets a search that has ended.
func (ls *lookups) drop(c cid.Cid, l *lookup) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.forget(c, l)
}

// forget ends a search, which another may have taken the place of. The caller holds mu.
func (ls *lookups) forget(c cid.Cid, l *lookup) {
	l.stop()
	if ls.current[c] == l {
		delete(ls.current, c)
	}
}

func (n *Node) search(ctx context.Context, c cid.Cid, timeout time.Duration, tally *exchange.Tally) error {
	net, err := n.network()
	if err != nil {
		return err
	}
	hold := n.store.Hold()
	defer hold.Release()
	return n.fetchError(net, net.Get(ctx, exchange.GetRequest{Store: hold, CID: c, Timeout: timeout, Tally: tally}))
}
