package exchange

import (
	"bufio"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestCalledOff has a provider owe both leaves of a site, the first of which it sends slowly or
// not at all. Another brings that: it is called off.
func TestCalledOff(t *testing.T) {
	site := largeLeaves(2)
	root := site[0].CID()
	h := newHost(t)
	for name, drip := range map[string]int{"silent": 0, "slow": 2 * stallBytes} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, err := buildOrder(t.Context(), hold(site...), root, cid.Undef)
				if err != nil {
					t.Fatal(err)
				}
				other := actorOn(t, h, script{open: func(*actor, open) []byte {
					return appendHave(appendOpened(nil, opened{status: statusOpen}), false, []span{{0, 1}})
				}}, hold(site...), o)
				candidates := make(chan Candidate, 2)
				candidates <- Candidate{peer.AddrInfo{ID: "owes"}, true}
				asked := sync.OnceFunc(func() { candidates <- Candidate{peer.AddrInfo{ID: "other"}, true} })
				store := newStore(t)
				mirror := nodeOn(t, near{h, "mirror", streams{
					"owes":  owes(t, other, drip, asked),
					"other": func(st network.Stream, _ peer.ID) { other.play(slowed{st, 10 * time.Millisecond}) },
				}}, store, store)
				req := Request{Store: store, Root: root, Timeout: 2 * dropAfter}
				_, err = mirror.client.Fetch(t.Context(), req, candidates)
				time.Sleep(time.Second) // until nobody sends any more
				if err != nil {
					t.Fatal(err)
				}
				mirror.checkHeld(t, site)
			})
		})
	}
}

// owes returns a peer that has what a has, and calls asked when it is asked for leaves: of the
// first it sends so many bytes now and then, and the second not before the first is called off.
func owes(t *testing.T, a *actor, drip int, asked func()) func(network.Stream, peer.ID) {
	first, second := []span{{0, 1}}, []span{{1, 1}}
	return func(st network.Stream, _ peer.ID) {
		defer st.Reset()
		st.Write(hello)
		calledOff := make(chan struct{})
		send := func() {
			left := a.leaves(first)
			for err := error(nil); err == nil; {
				select {
				case <-calledOff:
					if drip > 0 {
						st.Write(left) // or the frame would have no end
					}
					st.Write(a.leaves(second))
					return
				case <-time.After(100 * time.Millisecond):
					_, err = st.Write(left[:drip])
					left = left[drip:]
				}
			}
		}
		sending := false
		for r := bufio.NewReader(st); ; {
			typ, body, err := readFrame(r, maxRequest)
			if err != nil {
				return
			}
			switch typ {
			case frameOpen:
				st.Write(a.opens(open{}))
			case frameList:
				l, _ := parseList(body)
				st.Write(a.nodes(l))
			case frameWant:
				if !sending { // both may be asked for in one WANT, or in two
					sending = true
					go send()
				}
				asked()
			case frameCancel:
				if spans, err := parseSpanFrame(body); err != nil || !slices.Equal(spans, first) {
					t.Errorf("%v are called off, %v", spans, err)
				}
				close(calledOff)
			}
		}
	}
}
