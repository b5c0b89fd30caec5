package exchange

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestBans has peers do wrong as often as they may, and once more.
func TestBans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBans()
		b.add("wrong bytes")
		for range maxStrikes - 1 {
			b.broke("twice")
			b.broke("thrice")
			b.broke("now and then")
			time.Sleep(time.Minute)
		}
		b.broke("thrice")
		time.Sleep(banTime - time.Minute)
		b.broke("now and then") // the others were long ago
		banned := func(p peer.ID, want bool) {
			t.Helper()
			if got := b.has(p); got != want {
				t.Errorf("%s: banned %v", p, got)
			}
		}
		banned("nobody", false)
		banned("twice", false)
		banned("thrice", true)
		banned("now and then", false)
		banned("wrong bytes", false) // for an hour
		b.add("wrong bytes")
		banned("wrong bytes", true)
	})
}

// TestBreaksAgain has the only provider break the protocol each time it is asked: that is not
// often.
func TestBreaksAgain(t *testing.T) {
	site, h := newTree(121, 2, 5), newHost(t)
	unknown := appendFrame(nil, frameType(99))
	for _, s := range []script{
		{name: "Fetch", open: func(*actor, open) []byte { return unknown }},
		{name: "Get", get: func(*actor, []cid.Cid) []byte { return unknown }},
	} {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, err := buildOrder(t.Context(), hold(site.blocks...), site.root(), cid.Undef)
				if err != nil {
					t.Fatal(err)
				}
				evil := actorOn(t, h, s, hold(site.blocks...), o)
				asked, store := 0, newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{"evil": func(st network.Stream, _ peer.ID) {
					asked++
					evil.play(st)
				}}}, store, store)
				candidates := make(chan Candidate, 1)
				candidates <- Candidate{peer.AddrInfo{ID: "evil"}, true}
				if s.get == nil {
					_, err = mirror.client.Fetch(t.Context(), Request{Store: store, Root: site.root(), Timeout: time.Minute}, candidates)
				} else {
					err = mirror.client.Get(t.Context(), GetRequest{Store: store, CID: site.root(), Timeout: time.Minute}, candidates)
				}
				if err == nil || asked > 2*maxStrikes || !mirror.client.bans.has("evil") {
					t.Errorf("asked %d times in a minute, %v", asked, err)
				}
				time.Sleep(time.Minute) // until nobody is tried again
			})
		})
	}
}
