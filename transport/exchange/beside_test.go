package exchange

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// overLine fetches site over a line that two honest providers share with hostile ones, which are
// known first, and returns how long it took.
func overLine(t *testing.T, h host.Host, site tree, hostile []play) (took time.Duration) {
	t.Helper()
	held := hold(site.blocks...)
	o, err := buildOrder(t.Context(), held, site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	line := &cable{rate: 512 << 10, delay: 50 * time.Millisecond}
	to, candidates := make(streams), make(chan Candidate, len(hostile)+2)
	add := func(id peer.ID, serve func(network.Stream, peer.ID)) {
		to[id] = func(st network.Stream, from peer.ID) {
			st = line.carry(st)
			defer st.Reset()
			serve(st, from)
		}
		candidates <- Candidate{peer.AddrInfo{ID: id}, true}
	}
	var actors []*actor
	for i, k := range hostile {
		a := actorOn(t, h, k.script, held, o)
		actors = append(actors, a)
		add(peer.ID(fmt.Sprint("hostile ", i)), func(st network.Stream, _ peer.ID) { a.play(st) })
	}
	for i := range 2 {
		seed := nodeOn(t, h, nil, held)
		add(peer.ID(fmt.Sprint("honest ", i)), func(st network.Stream, from peer.ID) {
			seed.server.serve(st, &network.NullScope{}, from)
		})
	}
	store := newStore(t)
	mirror := nodeOn(t, near{h, "mirror", to}, store, store)
	began := time.Now()
	_, err = mirror.client.Fetch(t.Context(), Request{Store: store, Root: site.root(), Timeout: 5 * time.Minute}, candidates)
	took = time.Since(began)
	time.Sleep(2 * time.Minute) // until nobody is served any more
	if err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	for _, a := range actors {
		if a.streams.Load() == 0 {
			t.Errorf("nobody asked %q", a.name)
		}
	}
	for id := range to {
		if strings.HasPrefix(string(id), "honest") && mirror.client.bans.has(id) {
			t.Errorf("%s is banned", id)
		}
	}
	return took
}

// TestBesideHostile fetches beside hostile providers: it takes at most three times as long as
// without them.
func TestBesideHostile(t *testing.T) {
	h, site := outside(t), newTree(91, 10, 40)
	var clean time.Duration
	synctest.Test(t, func(t *testing.T) { clean = overLine(t, h, site, nil) })
	for _, names := range [][]string{
		{"a byte in 10 s", "a byte in 10 s, of nodes", "a byte in 10 s, of leaves"},
		{"a byte in 10 s, of leaves", "a byte in 10 s, of leaves", "a byte in 10 s, of leaves"},
		{"no answer to LIST and WANT", "no answer to WANT", "no answer to LIST"},
		{"wrong leaf", "wrong node", "lies and is gone", "MISS", "LATER", "OPENED 0"},
	} {
		t.Run(names[0]+" and others", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took := overLine(t, h, site, plays(t, names))
				if took > 3*clean {
					t.Errorf("took %v, and %v without them", took, clean)
				}
			})
		})
	}
}
