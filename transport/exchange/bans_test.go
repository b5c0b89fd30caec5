package exchange

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

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
		// One strike after the other is within an hour of the one before, and no three are.
		for range 2 * maxStrikes {
			b.broke("seldom")
			banned("seldom", false)
			time.Sleep(5 * banTime / 6)
		}
		// The hour is any, not that from the first on.
		b.broke("late")
		time.Sleep(banTime - time.Minute)
		for range maxStrikes - 1 {
			b.broke("late")
			banned("late", false)
			time.Sleep(2 * time.Minute)
		}
		b.broke("late")
		banned("late", true)
		// A ban lasts from the last strike on.
		b.broke("again")
		time.Sleep(banTime - 2*time.Minute)
		b.broke("again")
		b.broke("again")
		time.Sleep(banTime - time.Minute)
		banned("again", true)
		time.Sleep(2 * time.Minute)
		banned("again", false)
	})
}

// TestBreaksAgain has the only provider break the protocol each time it is asked: that is not
// often.
func TestBreaksAgain(t *testing.T) {
	id, h := raw("wanted").CID(), newHost(t)
	for name, from := range map[string]func(context.Context, *node, <-chan Candidate) error{
		"Fetch": func(ctx context.Context, n *node, candidates <-chan Candidate) error {
			_, err := n.client.Fetch(ctx, Request{Store: n.store, Root: id, Timeout: time.Minute}, candidates)
			return err
		},
		"Get": func(ctx context.Context, n *node, candidates <-chan Candidate) error {
			return n.client.Get(ctx, GetRequest{Store: n.store, CID: id, Timeout: time.Minute}, candidates)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, store := 0, newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{"evil": func(st network.Stream, _ peer.ID) {
					defer st.Reset()
					asked++
					st.Read(make([]byte, maxRequest))
					st.Write(appendFrame(nil, frameType(99))) // in the place of HELLO
				}}}, store, store)
				candidates := make(chan Candidate, 1)
				candidates <- Candidate{peer.AddrInfo{ID: "evil"}, true}
				err := from(t.Context(), mirror, candidates)
				if err == nil || asked != maxStrikes || !mirror.client.bans.has("evil") {
					t.Errorf("asked %d times, want %d, %v", asked, maxStrikes, err)
				}
				time.Sleep(time.Minute) // until nobody is tried again
			})
		})
	}
}
