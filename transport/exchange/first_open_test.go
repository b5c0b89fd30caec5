package exchange

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestAnswerToFirstOpen has a provider answer the OPEN without a base, and then the one with it: only
// the second says that it lacks the base.
func TestAnswerToFirstOpen(t *testing.T) {
	f, all := idleFetch(t, 1, 1)
	s, base := all[0], raw("base").CID()
	f.order.base = base
	f.index.spare, f.index.source = true, s
	s.base, s.opening = base, 2
	for i, want := range []bool{false, true} {
		if err := s.accepted(opened{status: statusOpen}); err != nil {
			t.Fatal(err)
		}
		if f.ended != want {
			t.Errorf("after answer %d another base is to be tried: %v", i, f.ended)
		}
	}
}

// TestBaseOfFasterPeer has the root come from one provider while slower ones have still to answer
// their first OPEN: no other base is tried, as all hold the best.
func TestBaseOfFasterPeer(t *testing.T) {
	v0, v1, v2 := pages(1, 120, "June 1"), pages(1, 120, "May 12"), pages(1, 120, "October 7")
	all := slices.Concat(v0, v1, v2)
	h := outside(t)
	other := 0
	const runs = 6
	for range runs {
		synctest.Test(t, func(t *testing.T) {
			seed := nodeOn(t, h, nil, hold(all...))
			store := newStore(t)
			w := store.NewWriter()
			for _, b := range slices.Concat(v0, v1) {
				if _, err := w.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			to := streams{"fast": seed.near}
			var from []peer.AddrInfo
			for i := range 5 {
				p := peer.ID(fmt.Sprint("slow ", i))
				from = append(from, peer.AddrInfo{ID: p})
				to[p] = func(st network.Stream, _ peer.ID) {
					seed.server.serve(slowed{st, 17 * time.Millisecond}, &network.NullScope{}, p)
					st.Reset()
				}
			}
			mirror := nodeOn(t, near{h, "mirror", to}, store, store)
			req := Request{Root: v2[0].CID(), Bases: []cid.Cid{v1[0].CID(), v0[0].CID()}}
			req.Store = store
			candidates := make(chan Candidate, len(from))
			candidates <- Candidate{peer.AddrInfo{ID: "fast"}, true}
			time.AfterFunc(time.Millisecond, func() {
				for _, p := range from {
					candidates <- Candidate{p, true}
				}
			})
			if _, err := mirror.client.Fetch(t.Context(), req, candidates); err != nil {
				t.Fatal(err)
			}
			ss := seed.server.swarms
			ss.mu.Lock()
			if ss.all[v2[0].CID()].orders[v0[0].CID()] != nil {
				other++
			}
			ss.mu.Unlock()
			time.Sleep(2 * time.Minute)
		})
	}
	if other > 0 {
		t.Errorf("another base was tried %d times of %d, though all hold the first", other, runs)
	}
}
