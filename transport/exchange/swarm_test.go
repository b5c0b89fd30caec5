package exchange

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

func raw(s string) blockstore.Block { return blockstore.Sum(cid.Raw, []byte(s)) }

// blocking is a store in which nothing is found out for a while.
type blocking struct {
	*blockstore.Store
	until chan struct{}
}

func (b blocking) Has(cid.Cid) (bool, error) {
	<-b.until
	return true, nil
}

// counted counts what is read.
type counted struct {
	memStore
	gets int
}

func (c *counted) Get(ctx context.Context, id cid.Cid) (blockstore.Block, error) {
	c.gets++
	return c.memStore.Get(ctx, id)
}

func TestSwarmKeepsOrders(t *testing.T) {
	v1, v2 := pages(1, 40, "May 12"), pages(1, 40, "October 7")
	store := &counted{memStore: hold(append(v1, v2...)...)}
	w := newSwarms().enter(v2[0].CID())
	order := func(base cid.Cid) *order {
		t.Helper()
		o, err := w.order(t.Context(), store, "mirror", base)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	plain, based := order(cid.Undef), order(v1[0].CID())
	if plain.based() || !based.based() {
		t.Error("the order has not the base that was asked for")
	}
	gets := store.gets
	if order(cid.Undef) != plain || order(v1[0].CID()) != based || store.gets != gets {
		t.Error("an order was made again")
	}
	if !w.known || !w.all {
		t.Error("it is not known that all is held")
	}
	for i := range 2 * maxOrders { // more than are kept
		order(v1[1+21*(i%2)].CID())
		order(v2[1].CID())
	}
	if len(w.orders) > maxOrders {
		t.Errorf("%d orders are kept", len(w.orders))
	}
	w.forget()
	delete(store.memStore, v2[0].CID())
	if _, err := w.order(t.Context(), store, "mirror", cid.Undef); !errors.Is(err, blockstore.ErrNotFound) {
		t.Errorf("the order of a root that is gone: %v", err)
	}
}

func TestSwarmHeld(t *testing.T) {
	site := newTree(51, 2, 100)
	store := hold(site.blocks...)
	w := newSwarms().enter(site.root())
	o, err := buildOrder(t.Context(), store, site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	delete(store, o.leaves.at(7))
	if _, err := w.order(t.Context(), store, "mirror", cid.Undef); err != nil {
		t.Fatal(err)
	}
	if !w.known || w.all || w.held.n != o.leaves.len()-1 || w.held.has(7) {
		t.Errorf("%d of %d leaves are held, all: %v", w.held.n, o.leaves.len(), w.all)
	}
}

// TestSwarmInPart serves a DAG of which a leaf is lacking. Who comes while an order is made for
// another does not wait for that; and when the leaf has come unseen, the next who comes finds it,
// and the others hear of it.
func TestSwarmInPart(t *testing.T) {
	site := newTree(53, 2, 20)
	store := hold(site.blocks...)
	w := newSwarms().enter(site.root())
	o, err := buildOrder(t.Context(), store, site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	lacking := o.leaves.at(7)
	leaf := store[lacking]
	delete(store, lacking)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	comes := func(when string, looks bool) {
		t.Helper()
		w.making <- struct{}{}
		if _, err := w.order(gone, store, "mirror", cid.Undef); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		<-w.making
		if looks {
			return
		}
		if _, err := w.order(t.Context(), store, "mirror", cid.Undef); err != nil || w.held.n != 7 {
			t.Errorf("%s: %d leaves are held, want those that were fetched, %v", when, w.held.n, err)
		}
	}
	if !w.begin(o, nil) {
		t.Fatal("it cannot begin")
	}
	w.ordered()
	w.add([]span{{0, 7}})
	comes("during a fetch", false)
	w.end(false)
	comes("after it", false)
	w.looked = time.Now().Add(-lookAgain)
	comes("long after it", true)
	for _, want := range []int{o.leaves.len() - 1, o.leaves.len()} {
		changed := w.changed
		w.looked = time.Now().Add(-lookAgain)
		if _, err := w.order(t.Context(), store, "mirror", cid.Undef); err != nil {
			t.Fatal(err)
		}
		if w.held.n != want || w.all != (want == o.leaves.len()) {
			t.Errorf("%d leaves are held, want %d", w.held.n, want)
		}
		select {
		case <-changed:
		default:
			t.Error("nobody is told of leaves that came")
		}
		store[lacking] = leaf
	}
}

// TestSwarmOfFetch serves what a fetch brings, in step with it.
func TestSwarmOfFetch(t *testing.T) {
	site := newTree(52, 2, 100)
	store := hold(site.blocks...)
	o, err := buildOrder(t.Context(), store, site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	ss := newSwarms()
	w := ss.enter(site.root())
	if !w.begin(o, nil) {
		t.Fatal("it cannot begin")
	}
	if w.begin(o, nil) {
		t.Error("two fetches have one swarm")
	}
	type result struct {
		o   *order
		err error
	}
	results := make(chan result, 2)
	for range 2 {
		go func() {
			o, err := w.order(t.Context(), store, "mirror", cid.Undef)
			results <- result{o, err}
		}()
	}
	// Who waits for the order can give up, whether or not it is first in line.
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, err := w.order(ctx, store, "mirror", cid.Undef); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before there is an order: %v", err)
		}
		cancel()
	}
	w.mu.Lock()
	changed := w.changed
	w.mu.Unlock()
	w.add([]span{{3, 4}, {10, 1}})
	<-changed
	w.forget() // is for swarms without a fetch
	if w.held.n != 5 || !w.known {
		t.Errorf("%d leaves are held", w.held.n)
	}
	w.ordered()
	for range 2 {
		if r := <-results; r.o != o || r.err != nil {
			t.Errorf("another order, or %v", r.err)
		}
	}
	w.end(true)
	if !w.all || !w.known || w.held.n != 0 {
		t.Error("all is not held at the end")
	}
	if !w.begin(o, nil) {
		t.Error("nobody else can fetch")
	}
	w.end(false)
	if w.known {
		t.Error("what is held is known though the fetch failed")
	}
	if got, err := w.order(t.Context(), store, "mirror", cid.Undef); err != nil || got == o {
		t.Errorf("the order of a fetch that failed was kept, or %v", err)
	}
}

func TestSwarmMembers(t *testing.T) {
	w := newSwarms().enter(raw("root").CID())
	var leave []func()
	for _, p := range []peer.ID{"a", "b", "c", "a"} {
		l, err := w.serve(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	some, count := w.others("a", 1)
	if len(some) != 1 || some[0] == "a" || count != 2 {
		t.Errorf("others are %q of %d", some, count)
	}
	leave[0]()
	if _, count := w.others("b", 0); count != 2 {
		t.Errorf("%d others, but one of two streams is left", count)
	}
	leave[3]()
	if some, count := w.others("b", 5); count != 1 || some[0] != "c" {
		t.Errorf("others are %q", some)
	}
}

// TestSwarmsAreForgotten uses more swarms than there is room for.
func TestSwarmsAreForgotten(t *testing.T) {
	site := newTree(53, 1, 3)
	ss := newSwarms()
	w := ss.enter(site.root())
	if ss.enter(site.root()) != w {
		t.Error("two swarms for a root")
	}
	if _, err := w.order(t.Context(), hold(site.blocks...), "mirror", cid.Undef); err != nil {
		t.Fatal(err)
	}
	ss.leave(w)
	ss.leave(w)
	if ss.enter(site.root()) != w {
		t.Error("it was forgotten at once")
	}
	ss.leave(w)
	// Roots of which nothing is known are not kept.
	for i := range 1000 {
		ss.leave(ss.enter(raw(string(rune(i))).CID()))
	}
	if len(ss.all) != 1 {
		t.Errorf("%d swarms are kept", len(ss.all))
	}
	// Those that are large push out those that were not used for longest.
	for i := range 5 {
		big := ss.enter(raw(string(rune(i))).CID())
		o := &order{leaves: cidList{digests: make([]byte, idleSwarms/3)}}
		ss.plain.adopt(o)
		big.keep(o)
		ss.leave(big)
	}
	if len(ss.all) > 3 || ss.all[site.root()] != nil {
		t.Errorf("%d swarms are kept", len(ss.all))
	}
	for _, w := range ss.all {
		w.used = w.used.Add(-2 * idleTime)
	}
	ss.leave(ss.enter(raw("another").CID()))
	if len(ss.all) != 0 {
		t.Errorf("%d swarms are kept for longer than %v", len(ss.all), idleTime)
	}
}

func TestFramesAreForgotten(t *testing.T) {
	c := newFrames()
	root := raw("root").CID()
	key := func(i int) frameKey { return frameKey{root: root, span: span{i, 1}} }
	for i := range 40 {
		c.add(key(i), body{payload: make([]byte, 1<<20)})
		c.add(key(i), body{payload: make([]byte, 1<<20)}) // counts once
		c.get(t.Context(), key(0))
	}
	if c.bytes > frameCache || c.lru.Len() != 31 {
		t.Errorf("%d frames of %d bytes", c.lru.Len(), c.bytes)
	}
	if _, ok, _ := c.get(t.Context(), key(0)); !ok {
		t.Error("what was used last is gone")
	}
	_, ok, made := c.get(t.Context(), key(1))
	if ok {
		t.Error("what was not used for longest is there")
	}
	made()
}

// TestFramesAreMadeOnce has many want the same at a time: one makes it. If that fails, another.
func TestFramesAreMadeOnce(t *testing.T) {
	for _, fails := range []int32{0, 3} {
		c := newFrames()
		k := frameKey{root: raw("root").CID()}
		var tries atomic.Int32
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				_, ok, made := c.get(t.Context(), k)
				defer made()
				if !ok && tries.Add(1) > fails {
					c.add(k, body{})
				}
			})
		}
		all.Wait()
		if n := tries.Load(); n != fails+1 || len(c.making) != 0 {
			t.Errorf("made %d times, where %d fail; %d are being made", n, fails, len(c.making))
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, _, made := c.get(ctx, frameKey{})
		cancel()
		if _, ok, _ := c.get(ctx, frameKey{}); ok {
			t.Error("there is what is still being made")
		}
		made()
	}
}

// TestCrowdIsPackedOnce has many list the nodes of a DAG, and want its leaves: they are read once
// for all of them.
func TestCrowdIsPackedOnce(t *testing.T) {
	old, site := pages(1, 40, "May 12"), pages(1, 40, "October 7")
	both := hold(append(old, site...)...)
	store := newStore(t)
	reads := &readCounts{memStore: both, n: make(map[cid.Cid]int)}
	seed := nodeOn(t, newHost(t), store, reads)
	var all sync.WaitGroup
	for range 6 {
		mirror := newNode(t, old...)
		all.Go(func() {
			req := Request{Root: site[0].CID(), Bases: []cid.Cid{old[0].CID()}}
			if _, err := mirror.fetch(limit(t), req, seed.info()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	most := 0
	for _, b := range site[1:] { // the root is listed alone
		most = max(most, reads.n[b.CID()])
	}
	// Nodes are read for two orders as well.
	if most > 3 {
		t.Errorf("a block was read %d times for six that wanted the same", most)
	}
}

// readCounts counts how often each block is read.
type readCounts struct {
	memStore
	mu sync.Mutex
	n  map[cid.Cid]int
}

func (r *readCounts) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	r.mu.Lock()
	r.n[c]++
	r.mu.Unlock()
	return r.memStore.Get(ctx, c)
}

func (r *readCounts) Packed(ctx context.Context, c cid.Cid) ([]byte, bool, int, error) {
	r.mu.Lock()
	r.n[c]++
	r.mu.Unlock()
	return r.memStore.Packed(ctx, c)
}
