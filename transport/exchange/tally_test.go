package exchange

import (
	"bufio"
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestTally adds what one counted to another: each peer counts once.
func TestTally(t *testing.T) {
	var sum, part Tally
	for _, p := range []peer.ID{"Castor", "Pollux", "Castor"} {
		sum.came(p)
	}
	sum.received.Add(300)
	part.came("Pollux")
	part.came("Helen")
	part.received.Add(40)
	sum.Add(&part)
	if sum.Received() != 340 || sum.Peers() != 3 {
		t.Errorf("%d bytes of %d peers, want 340 of 3", sum.Received(), sum.Peers())
	}
	if part.Received() != 40 || part.Peers() != 2 {
		t.Errorf("what was added is now %d bytes of %d peers", part.Received(), part.Peers())
	}
}

// sending counts what is written to a stream.
type sending struct {
	network.Stream
	bytes *atomic.Int64
}

func (s sending) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	s.bytes.Add(int64(n))
	return n, err
}

// TestGetTally gets blocks from a peer that comes after one which is cut off and one which lacks
// them: what those sent counts as well, and they do not count as peers that sent blocks.
func TestGetTally(t *testing.T) {
	h, blocks := newHost(t), twins()
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, near{h, "seed", nil}, nil, hold(blocks...))
		absent := nodeOn(t, near{h, "absent", nil}, nil, hold())
		var sent atomic.Int64
		counts := func(do func(network.Stream, peer.ID)) func(network.Stream, peer.ID) {
			return func(st network.Stream, from peer.ID) { do(sending{st, &sent}, from) }
		}
		cut := func(st network.Stream, _ peer.ID) {
			go io.Copy(io.Discard, st)
			st.Write(hello)
			st.Reset()
		}
		store := newStore(t)
		mirror := nodeOn(t, near{h, "mirror", streams{
			"cut": counts(cut), "absent": counts(absent.near), "seed": counts(seed.near),
		}}, store, store)
		var tally Tally
		for i, b := range blocks {
			candidates := make(chan Candidate, 3)
			for _, p := range []peer.ID{"cut", "absent", "seed"} {
				candidates <- Candidate{peer.AddrInfo{ID: p}, true}
			}
			req := GetRequest{Store: store, CID: b.CID(), Tally: &tally}
			if err := mirror.client.Get(t.Context(), req, candidates); err != nil {
				t.Fatal(err)
			}
			got := tally.Received()
			synctest.Wait() // until what was written last is in sent
			if want := sent.Load(); got != want || tally.Peers() != 1 {
				t.Errorf("%d bytes of %d peers after %d blocks, want %d of 1", got, tally.Peers(), i+1, want)
			}
		}
		settle(t, seed.server, absent.server)
	})
}

// written keeps what is written to a stream, as far as it is read.
type written struct {
	network.Stream
	mu    sync.Mutex
	bytes []byte
}

func (w *written) Write(b []byte) (int, error) {
	n, err := w.Stream.Write(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes = append(w.bytes, b[:n]...)
	return n, err
}

// TestFetchTally fetches from providers that send each type of frame there is: all count, also
// those that bring nothing.
func TestFetchTally(t *testing.T) {
	h, site := outside(t), newTree(90, 3, 100)
	held, root := hold(site.blocks...), site.root()
	o, err := buildOrder(t.Context(), held, root, cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		wants := 0
		actors := map[peer.ID]*actor{
			"seed": actorOn(t, h, script{open: func(a *actor, o open) []byte {
				return appendPeers(a.opens(o), 1, []peer.AddrInfo{{ID: h.ID(), Addrs: nowhere}})
			}, want: func(a *actor, s []span) []byte {
				switch wants++; wants {
				case 1:
					return appendSpanFrame(nil, frameLater, s)
				case 2:
					first, rest := span{s[0].first, 1}, s[0].from(s[0].first+1)
					return append(appendSpanFrame(nil, frameMiss, []span{first}), a.leaves(append([]span{rest}, s[1:]...))...)
				}
				return a.leaves(s)
			}}, held, o),
			"busy": actorOn(t, h, script{open: func(*actor, open) []byte { return appendBusy(nil, time.Hour) }}, held, o),
			"absent": actorOn(t, h, script{open: func(*actor, open) []byte {
				return appendOpened(nil, opened{status: statusAbsent})
			}}, held, o),
		}
		to, candidates := make(streams), make(chan Candidate, len(actors))
		var mu sync.Mutex
		var all []*written
		for id, a := range actors {
			to[id] = func(st network.Stream, _ peer.ID) {
				w := &written{Stream: st}
				mu.Lock()
				all = append(all, w)
				mu.Unlock()
				a.play(w)
			}
			candidates <- Candidate{peer.AddrInfo{ID: id}, true}
		}
		store := newStore(t)
		mirror := nodeOn(t, near{h, "mirror", to}, store, store)
		var tally Tally
		res, err := mirror.client.Fetch(t.Context(), Request{Store: store, Root: root, Timeout: time.Minute, Tally: &tally}, candidates)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until what was written last is kept
		var sent int64
		types := make(map[frameType]int)
		for _, w := range all {
			sent += int64(len(w.bytes))
			for r := bufio.NewReader(bytes.NewReader(w.bytes)); ; {
				typ, _, err := readFrame(r, maxAnswer)
				if err != nil {
					break
				}
				types[typ]++
			}
		}
		for _, typ := range []frameType{
			frameOpened, frameHave, framePeers, frameIndex, frameData, frameMiss, frameLater, frameBusy,
		} {
			if types[typ] == 0 {
				t.Errorf("no frame of type %d was sent", typ)
			}
		}
		if tally.Received() != sent || res.Received != sent || tally.Peers() != 1 {
			t.Errorf("%d bytes of %d peers, and %d as the result; want %d of 1", tally.Received(), tally.Peers(), res.Received, sent)
		}
		time.Sleep(time.Minute) // until nobody is served any more
	})
}
