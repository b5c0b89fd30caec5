package exchange

import (
	"bufio"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestFirstLacksIt has the only peer there say that it does not hold the site. A seed is then
// asked as the first is, for leaves too: when it comes after that, and when it comes while the
// peer, which is asked again, owes an answer.
func TestFirstLacksIt(t *testing.T) {
	site := newTree(90, 1, 3)
	h := newHost(t)
	for name, tries := range map[string]int32{"before it is asked again": 1, "while it is asked again": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				candidates := make(chan Candidate, 2)
				candidates <- Candidate{peer.AddrInfo{ID: "empty"}, true}
				var opens atomic.Int32
				empty := func(st network.Stream, _ peer.ID) {
					asked := opens.Add(1)
					r := bufio.NewReader(st)
					for {
						f, body, err := readFrame(r, maxRequest)
						if err != nil {
							return // once the stream is reset
						}
						if f != frameOpen {
							continue
						}
						if o, err := parseOpen(body); err != nil || asked > 1 && o.eager > 0 {
							t.Errorf("OPEN %+v, %v: want no eager leaves", o, err)
						}
						if asked == 1 {
							st.Write(appendOpened(appendFrame(nil, frameHello), opened{status: statusAbsent}))
						}
						if asked == tries {
							time.AfterFunc(time.Millisecond, func() {
								candidates <- Candidate{peer.AddrInfo{ID: "seed"}, true}
							})
						}
					}
				}
				// seen is what the seed is sent, which answers nothing.
				var mu sync.Mutex
				var seen []frameType
				to := func(st network.Stream, from peer.ID) {
					mu.Lock()
					defer mu.Unlock()
					r := bufio.NewReader(st)
					for len(seen) < 3 {
						f, body, err := readFrame(r, maxRequest)
						if err != nil {
							t.Error(err)
							return
						}
						if seen = append(seen, f); f == frameOpen {
							if o, err := parseOpen(body); err != nil || o.eager == 0 {
								t.Errorf("OPEN %+v, %v: want eager leaves", o, err)
							}
						}
					}
					st.Reset()
				}
				store := newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{"empty": empty, "seed": to}}, store, store)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				mirror.client.Fetch(ctx, Request{Store: store, Root: site.root()}, candidates)
				mu.Lock()
				defer mu.Unlock()
				if len(seen) < 3 || seen[2] != frameList {
					t.Errorf("the seed was sent %v, want LIST too", seen)
				}
			})
		})
	}
}
