package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// taken returns how many bytes are counted.
func (b *budget) taken() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// openAt opens a stream in memory from p to n, and returns the type of the frame that answers OPEN,
// and the status if it is OPENED.
func openAt(t *testing.T, n *node, p peer.ID, o open) (f *fetcher, answer frameType, status byte) {
	t.Helper()
	mine, others := pipes()
	go func() {
		n.server.serve(others, &network.NullScope{}, p)
		others.Reset()
	}()
	t.Cleanup(func() { mine.Reset() })
	f = &fetcher{Stream: mine, r: bufio.NewReader(mine)}
	if _, err := f.Write(appendOpen(slices.Clone(hello), o)); err != nil {
		t.Fatal(err)
	}
	answer, body, err := f.next(frameOpened, frameBusy)
	if err != nil {
		t.Fatal(err)
	}
	if answer == frameOpened {
		status = body[0]
	}
	return f, answer, status
}

// TestManyBases has many peers open a site over and over, each time with another base, and keep
// their streams. The orders that are made for them take no more than there is for all, and there is
// room for an honest peer's when they have gone.
func TestManyBases(t *testing.T) {
	v1, v2 := pages(1, 400, "May 12"), pages(1, 400, "October 7")
	all := append(slices.Clone(v1), v2...)
	store := hold(all...)
	seed := nodeOn(t, newHost(t), newStore(t), store)
	root, base := v2[0].CID(), v1[0].CID()
	o, err := buildOrder(t.Context(), store, root, base)
	if err != nil {
		t.Fatal(err)
	}
	based := seed.server.swarms.based
	based.limit = 3 * o.size()
	update := func() Result {
		t.Helper()
		mirror := newNode(t, v1...)
		res, err := mirror.fetch(limit(t), Request{Root: root, Bases: []cid.Cid{base}}, seed.info())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range v2 {
			if ok, err := mirror.store.Has(b.CID()); !ok || err != nil {
				t.Fatalf("a block is missing, %v", err)
			}
		}
		return res
	}
	var hostile []*fetcher
	statuses := make(map[byte]int)
	for i := range 40 * servePerDAG {
		f, _, status := openAt(t, seed, peer.ID(fmt.Sprint(i/servePerDAG)), open{root: root, base: all[1+i].CID()})
		hostile = append(hostile, f)
		statuses[status]++
		if n := based.taken(); n > based.limit {
			t.Fatalf("%d bytes of orders, of %d", n, based.limit)
		}
	}
	if statuses[statusBased] < 2 || statuses[statusBased] > 3 || statuses[statusAbsent] > 0 {
		t.Errorf("of each status: %v", statuses)
	}
	update()
	for _, f := range hostile {
		f.Reset()
	}
	quiet(t, seed.server)
	if res := update(); res.Received > size(v2)/40 {
		t.Errorf("%d bytes were received for a version of %d", res.Received, size(v2))
	}
	quiet(t, seed.server)
	for _, b := range []*budget{based, seed.server.swarms.plain} {
		seed.server.swarms.dropIdle(b)
		if b.bytes != 0 || len(b.by) != 0 {
			t.Errorf("%d bytes are counted when nobody is served, for %d peers", b.bytes, len(b.by))
		}
	}
}

// TestManyRoots opens more DAGs than there is room for: who comes too late is told BUSY, until
// others have gone.
func TestManyRoots(t *testing.T) {
	site := pages(1, 400, "May 12")
	var folders []blockstore.Block
	for _, b := range site[1:] {
		if b.CID().Type() == cid.DagProtobuf {
			folders = append(folders, b)
		}
	}
	seed := nodeOn(t, newHost(t), newStore(t), hold(site...))
	o, err := buildOrder(t.Context(), hold(site...), folders[0].CID(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	plain := seed.server.swarms.plain
	plain.limit = 3 * o.size()
	var streams []*fetcher
	for i, b := range folders[:6] {
		f, answer, _ := openAt(t, seed, peer.ID(fmt.Sprint(i)), open{root: b.CID()})
		streams = append(streams, f)
		// One may be more than the budget.
		if want := i < 4; want != (answer == frameOpened) {
			t.Errorf("DAG %d is answered with %d", i, answer)
		}
		if n := plain.taken(); n > plain.limit {
			t.Fatalf("%d bytes of orders, of %d", n, plain.limit)
		}
	}
	// What is there already is for all.
	if _, answer, _ := openAt(t, seed, "another", open{root: folders[0].CID()}); answer != frameOpened {
		t.Errorf("a DAG that others have open is answered with %d", answer)
	}
	streams[3].Reset()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, answer, _ := openAt(t, seed, "new", open{root: folders[5].CID()}); answer == frameOpened {
			break
		} else if time.Now().After(end) {
			t.Fatal("there is no room though one has gone")
		}
	}
}

// TestBudget counts orders.
func TestBudget(t *testing.T) {
	const size = 64 << 10
	base := raw("base").CID()
	sized := func(base cid.Cid) *order {
		o := newOrder(raw("root").CID(), base)
		o.leaves.digests = make([]byte, size-4096)
		return o
	}
	for _, base := range []cid.Cid{cid.Undef, base} {
		b := newBudget(10 * size)
		var orders []*order
		begin := func(p peer.ID) bool {
			o := sized(base)
			if !b.begin(o, p) {
				return false
			}
			if !b.grow(o) {
				o.release()
				return false
			}
			orders = append(orders, o)
			return true
		}
		n := 0
		for begin("greedy") {
			n++
		}
		// Nobody else has any, so it is told no when it has more than half.
		if n != 6 || b.bytes != 6*size {
			t.Errorf("one peer takes %d orders, %d bytes", n, b.bytes)
		}
		for i := range 4 {
			if !begin(peer.ID(fmt.Sprint(i))) {
				t.Errorf("there is no room for peer %d", i)
			}
		}
		if got := begin("one more"); got == base.Defined() {
			t.Errorf("with base %v: one more than there is room for: %v", base, got)
		}
		if begin("yet one more") {
			t.Error("two more than there is room for")
		}
		if b.bytes != 10*size {
			t.Errorf("%d bytes of %d orders", b.bytes, len(orders))
		}
		// Of a Fetch it is there anyway.
		fetched := sized(base)
		b.adopt(fetched)
		fetched.use()
		if b.bytes != 11*size {
			t.Errorf("%d bytes with that of a Fetch", b.bytes)
		}
		fetched.release()
		shared := orders[0]
		shared.use()
		for i, o := range orders {
			o.release()
			if i == 0 && b.bytes != 10*size {
				t.Error("an order that is in use is not counted")
			}
		}
		if b.bytes != size || b.by["greedy"] != size || b.extra != nil {
			t.Errorf("%d bytes of one order, %d of its peer", b.bytes, b.by["greedy"])
		}
		shared.release()
		if b.bytes != 0 || len(b.by) != 0 {
			t.Errorf("%d bytes of no order, %d peers", b.bytes, len(b.by))
		}
	}
}

// TestOrderOfMillion has room for the orders of a DAG of a million blocks.
func TestOrderOfMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 64 MiB")
	}
	for _, base := range []cid.Cid{cid.Undef, raw("base").CID()} {
		o := newOrder(raw("root").CID(), base)
		o.leaves.digests = make([]byte, 1e6*digestSize)
		if o.based() {
			o.leafBases.digests = make([]byte, 1e6*digestSize)
		}
		ss := newSwarms()
		b := ss.budget(o)
		if !b.begin(o, "mirror") || !b.grow(o) || b.extra != nil {
			t.Errorf("no room for %d bytes", o.size())
		}
	}
}

// busy counts how many read from it at a time.
type busy struct {
	memStore
	mu      sync.Mutex
	n, most int
}

func (b *busy) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	b.mu.Lock()
	b.n++
	b.most = max(b.most, b.n)
	b.mu.Unlock()
	time.Sleep(time.Millisecond) // others would come meanwhile
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.n--
	}()
	return b.memStore.Get(ctx, c)
}

// TestFewOrdersAtATime has the orders of many DAGs made.
func TestFewOrdersAtATime(t *testing.T) {
	site := newTree(54, 20, 3)
	store := &busy{memStore: hold(site.blocks...)}
	ss := newSwarms()
	var tasks sync.WaitGroup
	for _, b := range site.blocks {
		if b.CID().Type() == cid.DagProtobuf {
			tasks.Go(func() {
				w := ss.enter(b.CID())
				defer ss.leave(w)
				o, err := w.order(t.Context(), store, "mirror", cid.Undef)
				if err != nil {
					t.Error(err)
					return
				}
				o.release()
			})
		}
	}
	tasks.Wait()
	if store.most > makers {
		t.Errorf("%d orders were made at a time", store.most)
	}
	// Who waits for others' can give up.
	for range makers {
		ss.makers <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := ss.enter(site.root())
	defer ss.leave(w)
	w.forget()
	if _, err := w.order(ctx, store, "mirror", cid.Undef); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
