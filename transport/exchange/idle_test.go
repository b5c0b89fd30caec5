package exchange

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestIdle has peers that ask for something now and then, for nothing, or only hear news: the
// streams of all but the first end.
func TestIdle(t *testing.T) {
	site, h := largeLeaves(2), newHost(t)
	for name, tt := range map[string]struct {
		send []byte
		news bool
		kept bool
	}{
		"GET":    {send: appendGet(nil, []cid.Cid{site[1].CID()}), kept: true},
		"LIST":   {send: appendList(nil, list{}), kept: true},
		"WANT":   {send: appendSpanFrame(nil, frameWant, []span{{0, 1}}), kept: true},
		"CANCEL": {send: appendSpanFrame(nil, frameCancel, []span{{0, 1}})},
		"GOT":    {send: appendGot(nil, 0)},
		"news":   {news: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := nodeOn(t, h, nil, hold(site...)).server
				mine, others := pipes()
				go io.Copy(io.Discard, mine)
				ended := make(chan error, 1)
				go func() { ended <- server.serve(others, &network.NullScope{}, "x") }()
				mine.Write(opening(site[0].CID()))
				w := server.swarms.enter(site[0].CID())
				const times = 5
				for range times {
					time.Sleep(serveIdle * 5 / 6)
					mine.Write(tt.send)
					if tt.news {
						leave, err := w.serve(t.Context(), "y")
						if err != nil {
							t.Fatal(err)
						}
						time.Sleep(2 * newsEvery)
						leave()
					}
				}
				select {
				case err := <-ended:
					if tt.kept || !errors.Is(err, errIdle) {
						t.Errorf("ended: %v", err)
					}
				default:
					if !tt.kept {
						t.Errorf("is served after %d times", times)
					}
					mine.Reset()
					<-ended
				}
				time.Sleep(2 * serveIdle)
			})
		})
	}
}

// TestIdleMakesRoom takes all streams. A peer that has none gets the place of the one that has been
// idle longest, if for long, and of none over which something is to be sent.
func TestIdleMakesRoom(t *testing.T) {
	site, h := largeLeaves(2), newHost(t)
	synctest.Test(t, func(t *testing.T) {
		s := nodeOn(t, h, nil, hold(site...)).server
		served := make(map[peer.ID]*serving)
		begin := func(p peer.ID, asks []byte) network.Stream {
			mine, others := pipes()
			c := &serving{server: s, remote: p, stream: others, memory: &network.NullScope{}}
			if !s.enter(c) {
				t.Fatalf("no stream for %q", string(p))
			}
			served[p] = c
			go func() {
				defer s.leave(c)
				c.serve()
			}()
			mine.Write(append(opening(site[0].CID()), asks...))
			return mine
		}
		ended := func(want ...peer.ID) {
			t.Helper()
			synctest.Wait()
			for p, c := range served {
				if got := c.ctx.Err() != nil; got != slices.Contains(want, p) {
					t.Errorf("the stream of %q has ended: %v", string(p), got)
				}
			}
			if n := len(s.streams); n != serveLimit {
				t.Errorf("%d streams are served", n)
			}
		}
		takes := func(p peer.ID, want bool) {
			t.Helper()
			if got := s.takes(p); got != want {
				t.Errorf("a stream for %q: %v", string(p), got)
			}
		}
		asks := begin("asks", nil)
		go io.Copy(io.Discard, asks)
		deaf := begin("deaf", spread(4, 2))
		time.Sleep(uploadIdle / 2)
		go io.Copy(io.Discard, begin("idle", nil))
		time.Sleep(time.Nanosecond)
		go io.Copy(io.Discard, begin("later", nil))
		for i := 0; len(s.streams) < serveLimit; i++ {
			takes(peer.ID(fmt.Sprint(i)), true)
		}
		time.Sleep(uploadIdle / 4)
		asks.Write(appendGet(nil, []cid.Cid{site[1].CID()}))
		time.Sleep(uploadIdle/2 + uploadIdle/4 - 2)
		takes("a newcomer", false)
		time.Sleep(time.Nanosecond)
		ended()
		takes("0", false)
		takes("a newcomer", true)
		takes("another", false)
		ended("idle")
		time.Sleep(uploadIdle)
		takes("another", true)
		ended("idle", "later")
		takes("one more", true)
		takes("the last", false)
		ended("idle", "later", "asks")
		deaf.Reset()
		time.Sleep(time.Minute) // until nobody is served any more
	})
}

// TestStreamsAreLeft has twenty peers open as many streams as each may: there are some left
// for another, and in the end one for each.
func TestStreamsAreLeft(t *testing.T) {
	s := newNode(t).server
	for i := range 20 {
		p, n := peer.ID(fmt.Sprint("greedy ", i)), 0
		for s.takes(p) {
			n++
		}
		if i == 0 && n != servePerPeer {
			t.Errorf("%d streams of the first are served", n)
		}
	}
	if len(s.streams) == serveLimit || !s.takes("another") {
		t.Fatalf("all %d streams are taken", len(s.streams))
	}
	for i := 0; len(s.streams) < serveLimit; i++ {
		if !s.takes(peer.ID(fmt.Sprint(i))) {
			t.Fatalf("no stream for another, with %d taken", len(s.streams))
		}
	}
	if s.takes("one more") {
		t.Errorf("%d streams are served", len(s.streams))
	}
}
