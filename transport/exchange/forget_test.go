package exchange

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

type stuck struct {
	memStore
	on      atomic.Bool
	reading chan struct{}
}

func (s *stuck) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if s.on.Load() {
		s.reading <- struct{}{}
		<-ctx.Done()
		return blockstore.Block{}, ctx.Err()
	}
	return s.memStore.Get(ctx, c)
}

func TestLeavesDuringIndex(t *testing.T) {
	site := newTree(114, 3, 3)
	store := &stuck{memStore: hold(site.blocks...), reading: make(chan struct{}, 1)}
	seed := nodeOn(t, newHost(t), nil, store)
	f, _, status := openAt(t, seed, "p", open{root: site.root()})
	if status != statusOpen {
		t.Fatal(status)
	}
	store.on.Store(true)
	if _, err := f.Write(appendList(nil, list{})); err != nil {
		t.Fatal(err)
	}
	<-store.reading
	f.Reset()
	quiet(t, seed.server)
	ss := seed.server.swarms
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if w := ss.all[site.root()]; w == nil || len(w.orders) != 1 || !w.known || !w.all {
		t.Errorf("what was known is forgotten: %+v", w)
	}
}

func TestForgottenMeanwhile(t *testing.T) {
	v1, v2 := pages(1, 40, "May 12"), pages(1, 40, "October 7")
	w := newSwarms().enter(v2[0].CID())
	all := hold(append(v1, v2...)...)
	o, err := w.order(t.Context(), all, "mirror", cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	o.release()
	forgets := forgets{all, w}
	if o, err = w.order(t.Context(), forgets, "mirror", v1[0].CID()); err != nil {
		t.Fatal(err)
	}
	o.release()
	if w.known && !w.all {
		t.Errorf("%d of %d leaves are said to be held", w.held.n, o.leaves.len())
	}
}

type forgets struct {
	memStore
	w *swarm
}

func (f forgets) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	f.w.forget()
	return f.memStore.Get(ctx, c)
}

// TestHaveOfForgotten tells a peer that opens what is held when that was just forgotten, which may
// be after its order was made: nothing, and once it is known again the rest.
func TestHaveOfForgotten(t *testing.T) {
	site := largeLeaves(2)
	s := nodeOn(t, newHost(t), nil, hold(site...)).server
	w := s.swarms.enter(site[0].CID())
	defer s.swarms.leave(w)
	c := &serving{server: s, remote: "x", swarm: w}
	order := func() {
		o, err := w.order(t.Context(), s.store, "x", cid.Undef)
		if err != nil {
			t.Fatal(err)
		}
		o.release()
	}
	order()
	w.forget()
	if got, want := c.have([]byte{0}), appendHave([]byte{0}, false, nil); !bytes.Equal(got, want) {
		t.Errorf("with OPENED comes %x, want %x", got, want)
	}
	if got := c.have(nil); len(got) > 0 {
		t.Errorf("later comes %x", got)
	}
	order()
	if got, want := c.have(nil), appendHave(nil, true, nil); !bytes.Equal(got, want) {
		t.Errorf("once it is known comes %x, want %x", got, want)
	}
}
