package exchange

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// A swarm is what this node knows of one DAG that is being exchanged: the numbers of
// its blocks, which leaves are held, and who else takes part. A Fetch fills it, and the
// Server serves from it meanwhile.
type swarm struct {
	root cid.Cid
	in   *swarms

	making chan struct{} // holds a value while an order is made

	mu sync.Mutex // guards the fields below
	// refs counts fetches and served streams.
	refs  int
	used  time.Time // when refs became 0
	fetch *order    // that a Fetch is making; nil if there is none
	done  bool      // it is complete
	// ready is closed when it is, or when the Fetch has ended.
	ready chan struct{}
	// orders are complete, by base.
	orders map[cid.Cid]*order
	// held are the leaves that can be served, unless all can be. Without a fetch they
	// are known once an order was made.
	held    leafSet
	all     bool
	known   bool          // held and all are true
	looked  time.Time     // when that was found out last
	changed chan struct{} // closed and replaced when held or peers change
	// served are the peers that fetch from here, asked those that are fetched from, with the
	// number of streams. joined, if not nil, takes the former as they come.
	served, asked map[peer.ID]int
	joined        chan<- peer.ID
	// sent is when each segment was sent to somebody last, and underWay to how many peers they
	// are on their way.
	sent     []time.Time
	underWay map[int]int
}

// swarms are the swarms of a node.
type swarms struct {
	plain, based *budget       // of orders without a base, and with one
	makers       chan struct{} // holds a value for each order that is being made

	mu  sync.Mutex
	all map[cid.Cid]*swarm
}

// Swarms that nobody uses are kept for a while, so that their orders need not be made
// again, up to so many bytes.
const (
	idleSwarms = 32 << 20
	idleTime   = 10 * time.Minute
	maxOrders  = 4 // of a swarm: the bases that its peers name
	// lookAgain is after how long it is found out again, when a peer comes, which leaves of
	// a DAG are held that was not held whole.
	lookAgain = 5 * time.Second
)

func newSwarms() *swarms {
	return &swarms{
		plain: newBudget(orderBytes), based: newBudget(orderBytes), makers: make(chan struct{}, makers),
		all: make(map[cid.Cid]*swarm),
	}
}

// enter returns the swarm of root, for the caller to leave.
func (ss *swarms) enter(root cid.Cid) *swarm {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	w := ss.all[root]
	if w == nil {
		w = &swarm{
			root: root, in: ss, making: make(chan struct{}, 1), changed: make(chan struct{}),
			underWay: make(map[int]int),
			orders:   make(map[cid.Cid]*order), served: make(map[peer.ID]int), asked: make(map[peer.ID]int),
		}
		ss.all[root] = w
	}
	w.mu.Lock()
	w.refs++
	w.mu.Unlock()
	return w
}

// leave ends the use of w, and forgets what has not been used for long.
func (ss *swarms) leave(w *swarm) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	now := time.Now()
	w.mu.Lock()
	if w.refs--; w.refs == 0 {
		w.used = now
		if len(w.orders) == 0 {
			delete(ss.all, w.root) // nothing is known of it, perhaps because there is nothing
		}
	}
	w.mu.Unlock()
	for {
		var oldest *swarm
		total := 0
		for _, w := range ss.all {
			w.mu.Lock()
			if w.refs == 0 {
				total += w.size()
				if oldest == nil || w.used.Before(oldest.used) {
					oldest = w
				}
			}
			w.mu.Unlock()
		}
		if oldest == nil || total <= idleSwarms && now.Sub(oldest.used) < idleTime {
			return
		}
		delete(ss.all, oldest.root)
		oldest.mu.Lock()
		oldest.dropAll()
		oldest.mu.Unlock()
	}
}

// size returns about how many bytes w takes. The caller holds mu.
func (w *swarm) size() int {
	n := 8*len(w.held.words) + 24*len(w.sent) + 1024
	for _, o := range w.orders {
		n += o.size()
	}
	return n
}

// begin makes w that of a Fetch, which will fill o and hears on joined of peers that come to
// fetch. It says whether it is: only one at a time can be.
func (w *swarm) begin(o *order, joined chan<- peer.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fetch != nil {
		return false
	}
	w.fetch, w.done, w.ready = o, false, make(chan struct{})
	w.held, w.all, w.known = leafSet{}, false, true
	w.dropAll()
	w.joined = joined
	for p := range w.served {
		w.announce(p)
	}
	w.notify()
	return true
}

// ordered says that the fetched order is complete.
func (w *swarm) ordered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in.budget(w.fetch).adopt(w.fetch)
	w.keep(w.fetch)
	w.done = true
	close(w.ready)
	w.notify()
}

// add says that leaves can be served now.
func (w *swarm) add(spans []span) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range spans {
		w.held.addSpan(s)
	}
	w.notify()
}

// end says that the Fetch has ended; all that it has everything.
func (w *swarm) end(all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		close(w.ready)
		w.known = false
	}
	w.fetch, w.joined, w.looked = nil, nil, time.Now()
	if all {
		w.all, w.held = true, leafSet{}
	}
	w.notify()
}

// forget says that what was held is not held any more: all of it is to be found out
// again.
func (w *swarm) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fetch != nil {
		return // it notices by itself
	}
	w.known, w.all, w.held = false, false, leafSet{}
	w.dropAll()
}

// keep keeps o for who may come, instead of others if there are too many. The caller holds mu.
func (w *swarm) keep(o *order) {
	if w.orders[o.base] == o {
		return
	}
	o.use()
	w.drop(o.base)
	for b := range w.orders {
		if len(w.orders) < maxOrders {
			break
		}
		if b.Defined() { // anybody may need the one without a base
			w.drop(b)
		}
	}
	w.orders[o.base] = o
}

// drop ends that for the order with the given base, if there is one. The caller holds mu.
func (w *swarm) drop(base cid.Cid) {
	if o := w.orders[base]; o != nil {
		delete(w.orders, base)
		o.release()
	}
}

// dropAll does for all. The caller holds mu.
func (w *swarm) dropAll() {
	for base := range w.orders {
		w.drop(base)
	}
}

// notify wakes those who wait for a change. The caller holds mu.
func (w *swarm) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// serve counts p among those that fetch from here until leave is called. It waits while p has
// as many streams as it may.
func (w *swarm) serve(ctx context.Context, p peer.ID) (leave func(), err error) {
	idle := time.NewTimer(serveIdle)
	defer idle.Stop()
	for {
		w.mu.Lock()
		changed := w.changed
		if w.served[p] < servePerDAG {
			w.announce(p)
			w.notify()
			leave := w.join(w.served, p)
			w.mu.Unlock()
			return leave, nil
		}
		w.mu.Unlock()
		select {
		case <-changed:
		case <-idle.C:
			return nil, errIdle
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ask counts p among those that are fetched from until the returned function is called.
func (w *swarm) ask(p peer.ID) (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.join(w.asked, p)
}

// join counts p in members. The caller holds mu.
func (w *swarm) join(members map[peer.ID]int, p peer.ID) (leave func()) {
	members[p]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if members[p]--; members[p] == 0 {
			delete(members, p)
		}
		w.notify()
	}
}

// announce tells a Fetch of a peer that fetches from here. The caller holds mu.
func (w *swarm) announce(p peer.ID) {
	select {
	case w.joined <- p:
	default: // nobody hears, or there are enough
	}
}

// others returns up to n peers other than p that take part, at random, and how many fetch
// from here.
func (w *swarm) others(p peer.ID, n int) (some []peer.ID, count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, members := range []map[peer.ID]int{w.served, w.asked} {
		for m := range members {
			if m != p {
				some = append(some, m)
			}
		}
	}
	slices.Sort(some)
	some = slices.Compact(some)
	rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some[:min(n, len(some))], w.servedOthers(p)
}

// servedOthers returns how many peers other than p fetch from here. The caller holds mu.
func (w *swarm) servedOthers(p peer.ID) int {
	n := len(w.served)
	if w.served[p] > 0 {
		n--
	}
	return n
}

// fresh says whether it need not be found out which leaves are held. Without a Fetch they can come
// unseen: by an import, or for a reader. The caller holds mu.
func (w *swarm) fresh() bool {
	return w.known && (w.all || w.fetch != nil || time.Since(w.looked) <= lookAgain)
}

// order returns the complete order with the given base, for p to release, making it if need be.
// It waits for a Fetch that has still to complete its own. It fails if a node is not held, or a
// root that is a leaf, and with errNoRoom.
func (w *swarm) order(ctx context.Context, store Store, p peer.ID, base cid.Cid) (*order, error) {
	w.mu.Lock()
	// What is known will do while others have orders made, which may take long.
	if o := w.orders[base]; o != nil && (w.fresh() || w.known && len(w.making) > 0) {
		o.use()
		w.mu.Unlock()
		return o, nil
	}
	w.mu.Unlock()
	select {
	case w.making <- struct{}{}:
		defer func() { <-w.making }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	for w.fetch != nil && !w.done {
		ready := w.ready
		w.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		w.mu.Lock()
	}
	o, fresh := w.orders[base], w.fresh()
	if o != nil {
		o.use()
	}
	w.mu.Unlock()
	if o != nil && fresh {
		return o, nil
	}
	select {
	case w.in.makers <- struct{}{}:
		defer func() { <-w.in.makers }()
	case <-ctx.Done():
		if o != nil {
			o.release()
		}
		return nil, ctx.Err()
	}
	if o == nil {
		var err error
		// To its end, though p may have gone: who waits for an answer for dropAfter comes back, and
		// would find as much left to do as before, and so for ever.
		if o, err = w.in.build(context.WithoutCancel(ctx), store, p, w.root, base); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	fresh = w.fresh() // it may have been forgotten meanwhile
	w.mu.Unlock()
	var held leafSet
	if !fresh {
		var err error
		if held, err = heldOf(store, o); err != nil {
			o.release()
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !fresh && !w.fresh() {
		w.known, w.held, w.all, w.looked = true, held, held.n == o.leaves.len(), time.Now()
		w.notify()
	}
	w.keep(o)
	return o, nil
}

// heldOf returns which leaves of o are in store. It fails if o is of nothing but one that is not.
func heldOf(store Store, o *order) (held leafSet, err error) {
	for i := range o.leaves.len() {
		ok, err := store.Has(o.leaves.at(i))
		if err != nil {
			return leafSet{}, err
		}
		if ok {
			held.add(i)
		}
	}
	if o.nodes.len() == 0 && o.leaves.len() > 0 && held.n == 0 {
		return leafSet{}, fmt.Errorf("%w: the root, a leaf", blockstore.ErrNotFound)
	}
	return held, nil
}

// crowd is from how many others on a provider spreads what it sends. Those can have it from
// each other, and as soon as they have something that nobody else has, they help. So who has
// all sends a segment again only after passTime, or it would send most of what all receive,
// unless it has nothing else to send; and anybody sends a large one to maxSending peers at a time.
const (
	crowd      = 2
	maxSending = 2
	passTime   = 5 * time.Second
)

// crowded says whether enough others than p fetch from here.
func (w *swarm) crowded(p peer.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servedOthers(p) >= crowd
}

// claim says whether p may be sent a segment of o, and counts it as on its way then. That it
// was sent before does not count if there is room to spare, nor that it is on its way if p
// insists: it may be to peers that do not read.
func (w *swarm) claim(segment int, o *order, p peer.ID, insists, spare bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	spread := !insists && w.servedOthers(p) >= crowd
	if spread && (w.underWay[segment] >= maxSending && o.large(segment) ||
		// Changes are small: to spread them would only take time.
		w.all && !o.based() && (w.underWay[segment] > 0 || !spare && time.Since(w.sentLast(segment)) < passTime)) {
		return false
	}
	w.underWay[segment]++
	return true
}

// sentLast returns when a segment was sent last. The caller holds mu.
func (w *swarm) sentLast(segment int) time.Time {
	if segment < len(w.sent) {
		return w.sent[segment]
	}
	return time.Time{}
}

// sending notes that a segment that was claimed is sent now.
func (w *swarm) sending(segment int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if segment >= len(w.sent) {
		w.sent = append(w.sent, make([]time.Time, segment+1-len(w.sent))...)
	}
	w.sent[segment] = time.Now()
}

// arrived ends a claim: the segment has arrived, or may have, or nothing was sent.
func (w *swarm) arrived(segment int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.underWay[segment]--; w.underWay[segment] == 0 {
		delete(w.underWay, segment)
	}
}
