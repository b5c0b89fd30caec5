package exchange

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// struck says whether p has broken the protocol.
func (n *node) struck(p peer.ID) bool { return n.client.bans.peers.Contains(p) }

// TestEagerBehindOthers has one provider be so far away that a nearer one is asked for the nodes
// too, and be the first or the second to bring them: its leaves, which it may send unasked, can
// come before the nodes that the other was asked for instead. Neither is to blame.
func TestEagerBehindOthers(t *testing.T) {
	h := outside(t)
	const ms = time.Millisecond
	for _, tt := range []struct{ far, near time.Duration }{ // round trips
		{350 * ms, 50 * ms}, {400 * ms, 50 * ms}, {450 * ms, 100 * ms}, {450 * ms, 150 * ms}, {500 * ms, 150 * ms},
	} {
		t.Run(fmt.Sprint(tt.far, " and ", tt.near), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				site := newTree(120, 3, 2)
				seed, store := nodeOn(t, h, nil, hold(site.blocks...)), newStore(t)
				serve := func(st network.Stream, from peer.ID) {
					seed.server.serve(st, &network.NullScope{}, from)
				}
				mirror := nodeOn(t, near{h, "mirror", streams{
					"far":  over(tt.far, serve),
					"near": over(tt.near, serve),
				}}, store, store)
				candidates := make(chan Candidate, 2)
				candidates <- Candidate{peer.AddrInfo{ID: "far"}, true}
				time.AfterFunc(20*ms, func() { candidates <- Candidate{peer.AddrInfo{ID: "near"}, true} })
				req := Request{Store: store, Root: site.root(), Timeout: time.Minute}
				_, err := mirror.client.Fetch(t.Context(), req, candidates)
				time.Sleep(2 * time.Minute) // until nobody is served any more
				if err != nil {
					t.Fatal(err)
				}
				mirror.checkHeld(t, site.blocks)
				if far, near := mirror.struck("far"), mirror.struck("near"); far || near {
					t.Errorf("the far one broke the protocol: %v, the near one: %v", far, near)
				}
			})
		})
	}
}

// TestRootAndNoMore has a near provider bring each root before an honest one that is far away,
// and then nothing: what the honest one brings is taken as it comes, over one stream.
func TestRootAndNoMore(t *testing.T) {
	h := outside(t)
	synctest.Test(t, func(t *testing.T) {
		store, to := newStore(t), streams{}
		mirror := nodeOn(t, near{h, "mirror", to}, store, store)
		for i := range uint64(maxStrikes + 1) {
			site := newTree(130+i, 3, 2)
			held := hold(site.blocks...)
			o, err := buildOrder(t.Context(), held, site.root(), cid.Undef)
			if err != nil {
				t.Fatal(err)
			}
			evil := actorOn(t, h, script{list: func(a *actor, l list) []byte {
				if l.from > 0 {
					return nil
				}
				pieces, full, _ := a.listed(list{count: 1})
				return appendIndex(nil, 0, full, false, a.enc.body(pieces, levelFast))
			}}, held, o)
			seed, served := nodeOn(t, h, nil, held), 0
			to["far"] = over(400*time.Millisecond, func(st network.Stream, from peer.ID) {
				served++
				seed.server.serve(st, &network.NullScope{}, from)
			})
			to["evil"] = over(40*time.Millisecond, func(st network.Stream, _ peer.ID) { evil.play(st) })
			candidates := make(chan Candidate, 2)
			candidates <- Candidate{peer.AddrInfo{ID: "far"}, true}
			time.AfterFunc(20*time.Millisecond, func() { candidates <- Candidate{peer.AddrInfo{ID: "evil"}, true} })
			req := Request{Store: store, Root: site.root(), Timeout: 30 * time.Second}
			_, err = mirror.client.Fetch(t.Context(), req, candidates)
			time.Sleep(2 * time.Minute) // until nobody is served any more
			if err != nil || served != 1 || mirror.struck("far") {
				t.Errorf("site %d, over %d streams, which broke the protocol, %v: %v", i, served, mirror.struck("far"), err)
			}
		}
	})
}
