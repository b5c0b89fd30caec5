package exchange

import (
	"context"
	"errors"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// orderBytes is how many bytes the orders with a base that are alive on a Server take
	// together, and how many those without one: enough for either order of a DAG of a million
	// blocks.
	orderBytes = 64 << 20
	// makers is how many orders are made at a time: each takes a core, and 45 bytes for each
	// block that it has come to.
	makers = 2
)

// errNoRoom is the error of an order that does not fit its budget.
var errNoRoom = errors.New("too many orders are in use")

// A budget bounds the memory of orders. Each counts once, from when it is begun until neither a
// swarm keeps it nor a stream uses it. One without a base may be more than the budget allows,
// however large it is: or a DAG of which that is true could not be served at all.
type budget struct {
	limit int // bytes

	mu    sync.Mutex // guards the fields below, and what orders say of their use
	bytes int        // without extra
	by    map[peer.ID]int
	extra *order // the one that is more; nil if none is
}

func newBudget(limit int) *budget { return &budget{limit: limit, by: make(map[peer.ID]int)} }

// begin says whether p may have o made, and counts it as in use then. A peer may as long as those
// made for it take no more than half of what the others leave, or one could spend all.
func (b *budget) begin(o *order, p peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by[p] > (b.limit-b.bytes+b.by[p])/2 {
		return false
	}
	o.budget, o.maker, o.users = b, p, 1
	return true
}

// grow counts what o takes by now, and says whether there is room for it.
func (b *budget) grow(o *order) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o == b.extra {
		return true
	}
	more := o.size() - o.counted
	if b.bytes+more > b.limit {
		if o.based() || b.extra != nil {
			return false
		}
		b.extra, more = o, -o.counted
	}
	b.count(o, more)
	return true
}

// adopt counts the order of a Fetch, which is there whether or not there is room for it.
func (b *budget) adopt(o *order) {
	o.budget = b
	if !b.grow(o) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.count(o, o.size()-o.counted)
	}
}

// count counts n bytes more, or fewer, of o. The caller holds mu.
func (b *budget) count(o *order, n int) {
	o.counted += n
	b.bytes += n
	if b.by[o.maker] += n; b.by[o.maker] == 0 {
		delete(b.by, o.maker)
	}
}

// use counts one more that has o, and is to release it.
func (o *order) use() {
	o.budget.mu.Lock()
	defer o.budget.mu.Unlock()
	o.users++
}

// release says that one who had o has it no more.
func (o *order) release() {
	b := o.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.users--; o.users > 0 {
		return
	}
	b.count(o, -o.counted)
	if b.extra == o {
		b.extra = nil
	}
}

// idle says whether nobody but a swarm has o.
func (o *order) idle() bool {
	o.budget.mu.Lock()
	defer o.budget.mu.Unlock()
	return o.users == 1
}

// budget returns that of o.
func (ss *swarms) budget(o *order) *budget {
	if o.based() {
		return ss.based
	}
	return ss.plain
}

// build makes the order of root and base for p, which is to release it. It fails with
// errNoRoom if the budget has no room for it.
func (ss *swarms) build(ctx context.Context, store Store, p peer.ID, root, base cid.Cid) (*order, error) {
	o := newOrder(root, base)
	b := ss.budget(o)
	if !b.begin(o, p) {
		if ss.dropIdle(b); !b.begin(o, p) {
			return nil, errNoRoom
		}
	}
	err := o.build(ctx, store, func() error {
		if !b.grow(o) {
			if ss.dropIdle(b); !b.grow(o) {
				return errNoRoom
			}
		}
		return nil
	})
	if err != nil {
		o.release()
		return nil, err
	}
	return o, nil
}

// dropIdle makes room in b: the orders there that are kept for who may come are not kept.
func (ss *swarms) dropIdle(b *budget) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, w := range ss.all {
		w.mu.Lock()
		for _, o := range w.orders {
			if o.budget == b && o != w.fetch && o.idle() {
				w.drop(o.base)
			}
		}
		w.mu.Unlock()
	}
}
