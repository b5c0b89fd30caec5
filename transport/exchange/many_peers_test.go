package exchange

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"

	"pollux/blockstore"
)

// TestManyPeers has as many peers ask one provider as it serves at a time, each for a site of
// its own, so that none can help another. One more is turned away; as many as it sends DAGs to
// get theirs, over and over; the others are told that it is busy, and get single blocks; and
// when one leaves, another takes its place.
func TestManyPeers(t *testing.T) {
	t.Parallel()
	var blocks []blockstore.Block
	roots := make([]cid.Cid, serveLimit)
	for i := range roots {
		leaf := raw(fmt.Sprint("leaf ", i))
		root := nodeOf(leaf)
		roots[i] = root.CID()
		blocks = append(blocks, root, leaf)
	}
	store := newStore(t)
	if err := store.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	seed := nodeOn(t, newHost(t, libp2p.ResourceManager(&network.NullResourceManager{})), store, store)
	peers := make([]*fetcher, serveLimit)
	var tasks sync.WaitGroup
	next := make(chan int, len(peers))
	for i := range peers {
		next <- i
	}
	close(next)
	for range 8 {
		tasks.Go(func() {
			for i := range next {
				f, err := tryDial(t.Context(), newHost(t, libp2p.NoListenAddrs), seed)
				if err == nil {
					_, err = f.Write(hello)
				}
				if err == nil {
					_, _, err = f.next(frameHello)
				}
				if err != nil {
					t.Errorf("peer %d: %v", i, err)
					return
				}
				peers[i] = f
			}
		})
	}
	if tasks.Wait(); t.Failed() {
		return
	}
	late := func() error {
		f, err := tryDial(t.Context(), newHost(t, libp2p.NoListenAddrs), seed)
		if err == nil {
			_, err = f.Write(hello)
		}
		if err == nil {
			_, _, err = f.next(frameHello)
		}
		if err == nil {
			t.Cleanup(func() { f.Reset() })
		}
		return err
	}
	if late() == nil {
		t.Error("one more than are served at a time is served")
	}
	ask := func(i int) frameType {
		t.Helper()
		if _, err := peers[i].Write(appendOpen(nil, open{root: roots[i]})); err != nil {
			t.Fatal(err)
		}
		typ, _, err := peers[i].next(frameOpened, frameBusy)
		if err != nil {
			t.Fatalf("peer %d: %v", i, err)
		}
		return typ
	}
	leaf := func(i int) {
		t.Helper()
		if _, err := peers[i].Write(appendSpanFrame(nil, frameWant, []span{{0, 1}})); err != nil {
			t.Fatal(err)
		}
		typ, _, err := peers[i].next(frameData, frameLater, frameMiss, frameBusy)
		if err != nil || typ != frameData {
			t.Fatalf("peer %d, which was admitted, got a frame of type %d, %v", i, typ, err)
		}
	}
	// However long all this takes, nobody's turn is over.
	renew := func() {
		seed.server.slots.mu.Lock()
		defer seed.server.slots.mu.Unlock()
		for p := range seed.server.slots.taken {
			seed.server.slots.taken[p] = turn{began: time.Now(), asked: time.Now()}
		}
	}
	for i := range uploads {
		if typ := ask(i); typ != frameOpened {
			t.Fatalf("peer %d got a frame of type %d", i, typ)
		}
		leaf(i)
	}
	for i := uploads; i < len(peers); i++ {
		renew()
		if typ := ask(i); typ != frameBusy {
			t.Fatalf("peer %d got a frame of type %d", i, typ)
		}
		peers[i].ends(t)
		// Those that were admitted ask again meanwhile, and get what they ask for.
		leaf(i % uploads)
		f := peers[i].again(t, seed)
		if _, err := f.Write(appendGet(nil, roots[i:][:1])); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.next(frameBlocks); err != nil {
			t.Fatalf("a block for peer %d: %v", i, err)
		}
		peers[i] = f
	}
	// The provider may take a moment to notice who left.
	peers[0].Reset()
	for last := len(peers) - 1; ask(last) != frameOpened; {
		peers[last].ends(t)
		peers[last] = peers[last].again(t, seed)
	}
	leaf(len(peers) - 1)
	for _, f := range peers {
		f.Reset()
	}
	quiet(t, seed.server)
	if err := late(); err != nil {
		t.Errorf("when all have left: %v", err)
	}
}

// again opens another stream from where f was opened, which is reset. The provider may take a
// moment to notice that.
func (f *fetcher) again(t testing.TB, to *node) *fetcher {
	t.Helper()
	f.Reset()
	for ctx := limit(t); ; {
		next, err := tryDial(ctx, f.from, to)
		if err == nil {
			_, err = next.Write(hello)
		}
		if err == nil {
			_, _, err = next.next(frameHello)
		}
		if err == nil {
			return next
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestStreamsOfADAG has a peer open a DAG on as many streams as it may, and on one more, which
// is answered when one of the others has ended.
func TestStreamsOfADAG(t *testing.T) {
	site, other := newTree(97, 1, 3), newTree(98, 1, 3)
	seed := newNode(t, append(site.blocks, other.blocks...)...)
	h := newHost(t)
	open := func(root cid.Cid) *fetcher {
		t.Helper()
		f := dial(t, h, seed)
		if _, err := f.Write(opening(root)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	opened := func(f *fetcher) {
		t.Helper()
		if _, _, err := f.next(frameOpened); err != nil {
			t.Fatal(err)
		}
	}
	var streams []*fetcher
	for range servePerDAG {
		streams = append(streams, open(site.root()))
		opened(streams[len(streams)-1])
	}
	more := open(site.root())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		more.next(frameOpened)
	}()
	opened(open(other.root()))
	mirror := newNode(t)
	if _, err := mirror.fetch(limit(t), Request{Root: site.root()}, seed.info()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-answered:
		t.Errorf("the DAG is served on %d streams", servePerDAG+1)
	default:
	}
	streams[0].Reset()
	<-answered
	for _, f := range append(streams[1:], more) {
		if _, err := f.Write(appendSpanFrame(nil, frameWant, []span{{0, 3}})); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.next(frameData); err != nil {
			t.Fatal(err)
		}
	}
}
