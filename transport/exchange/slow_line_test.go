package exchange

import (
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// A timed is a stream whose writes end at their deadline.
type timed struct {
	network.Stream
	deadline time.Time
}

func (s *timed) SetWriteDeadline(at time.Time) error {
	s.deadline = at
	return nil
}

func (s *timed) Write(b []byte) (int, error) {
	if !s.deadline.IsZero() {
		defer time.AfterFunc(time.Until(s.deadline), func() { s.Reset() }).Stop()
	}
	return s.Stream.Write(b)
}

// TestSlowReader has a peer take each part of an answer just before it is late, and then no
// more, or a byte now and then: its stream ends, not before.
func TestSlowReader(t *testing.T) {
	site, h := largeLeaves(20), newHost(t)
	for _, bytewise := range []bool{false, true} {
		t.Run(fmt.Sprintf("a byte now and then %v", bytewise), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := nodeOn(t, h, nil, hold(site...))
				mine, others := pipes()
				ended := make(chan error, 1)
				go func() { ended <- seed.server.serve(&timed{Stream: others}, &network.NullScope{}, "slow") }()
				mine.Write(append(opening(site[0].CID()), appendSpanFrame(nil, frameWant, []span{{0, 20}})...))
				part := make([]byte, writePart)
				for range 4 * segmentBytes / writePart {
					time.Sleep(writeLimit - 1)
					if _, err := mine.Read(part); err != nil {
						t.Fatal(err)
					}
				}
				last := time.Now()
				go func() {
					for err := error(nil); err == nil && bytewise; {
						time.Sleep(time.Second)
						_, err = mine.Read(part[:1])
					}
				}()
				if err := <-ended; err == nil || time.Since(last) != writeLimit {
					t.Errorf("ended after %v, %v", time.Since(last), err)
				}
				time.Sleep(time.Minute) // until nobody reads
			})
		})
	}
}

// TestTwoAnswers has a peer ask for much and read nothing: one answer waits for it, and another is
// made meanwhile.
func TestTwoAnswers(t *testing.T) {
	site, h := largeLeaves(8), newHost(t)
	synctest.Test(t, func(t *testing.T) {
		read := 0
		seed := nodeOn(t, h, nil, takesTime{hold(site...), func(cid.Cid) time.Duration {
			read++
			return 0
		}})
		f, _, _ := openAt(t, seed, "deaf", open{root: site[0].CID()})
		f.Write(appendSpanFrame(nil, frameWant, []span{{0, 8}}))
		for want := 2; want <= 4; want++ {
			synctest.Wait()
			if read != want {
				t.Errorf("%d answers were made, want %d", read, want)
			}
			if _, _, err := f.next(frameData); err != nil {
				t.Fatal(err)
			}
		}
		f.Reset()
		time.Sleep(time.Minute) // until nobody is served any more
	})
}

// TestFetchOverSlowLine fetches a leaf that takes longer than the provider waits for a part of it,
// and than it lets a stream be idle.
func TestFetchOverSlowLine(t *testing.T) {
	site, h := largeLeaves(1), outside(t)
	synctest.Test(t, func(t *testing.T) {
		seed, store := nodeOn(t, h, nil, hold(site...)), newStore(t)
		served := 0
		mirror := nodeOn(t, near{h, "mirror", streams{seed.ID(): func(st network.Stream, from peer.ID) {
			served++
			seed.server.serve(&timed{Stream: paced{st, 4 << 10}}, &network.NullScope{}, from)
			st.Reset()
		}}}, store, store)
		_, err := mirror.fetch(t.Context(), Request{Root: site[0].CID(), Timeout: 10 * time.Minute}, seed.info())
		time.Sleep(2 * time.Minute) // until nobody is served any more
		if err != nil || served != 1 {
			t.Fatalf("over %d streams: %v", served, err)
		}
		mirror.checkHeld(t, site)
	})
}

// TestGetOverSlowLine gets a block that takes longer than a peer may take at first.
func TestGetOverSlowLine(t *testing.T) {
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(data)
	b := blockstore.Sum(cid.Raw, data)
	h := outside(t)
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, hold(b))
		store := newStore(t)
		mirror := nodeOn(t, near{h, "mirror", streams{seed.ID(): func(st network.Stream, from peer.ID) {
			seed.server.serve(paced{st, 50 << 10}, &network.NullScope{}, from)
			st.Reset()
		}}}, store, store)
		candidates := make(chan Candidate, 1)
		candidates <- Candidate{seed.info(), true}
		err := mirror.client.Get(t.Context(), GetRequest{Store: store, CID: b.CID(), Timeout: 10 * time.Minute}, candidates)
		time.Sleep(2 * time.Minute) // until nobody is served any more
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestGetOverSharedLine has many peers at the end of one line, which brings a block little
// faster than it must for nobody else to be asked at once: it comes from the first, within the time that
// each may take, whoever else is asked meanwhile.
func TestGetOverSharedLine(t *testing.T) {
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(data)
	b := blockstore.Sum(cid.Raw, data)
	const rate = 5 * getGrowth / 4 * int(time.Second/time.Millisecond) / int(getHedge/time.Millisecond)
	h := outside(t)
	synctest.Test(t, func(t *testing.T) {
		seed, store := nodeOn(t, h, nil, hold(b)), newStore(t)
		to, line := streams{}, make(chan struct{}, 1)
		asked := make(map[peer.ID]int)
		var mu sync.Mutex
		candidates := make(chan Candidate, getMost)
		for i := range getMost {
			id := peer.ID(fmt.Sprint(i))
			to[id] = func(st network.Stream, from peer.ID) {
				mu.Lock()
				asked[id]++
				mu.Unlock()
				seed.near(shared{st, line, rate}, from)
			}
			candidates <- Candidate{peer.AddrInfo{ID: id}, true}
		}
		mirror := nodeOn(t, near{h, "mirror", to}, store, store)
		req := GetRequest{Store: store, CID: b.CID(), Timeout: 10 * time.Minute}
		err := mirror.client.Get(t.Context(), req, candidates)
		time.Sleep(2 * time.Minute) // until nobody is served any more
		if n := len(asked); err != nil || n > 3 || asked["0"] != 1 {
			t.Errorf("%d peers were asked, the first %d times: %v", n, asked["0"], err)
		}
	})
}

// TestGetBesideDrips has peers drip what may be a large block, just fast enough: another is asked
// while the first still does.
func TestGetBesideDrips(t *testing.T) {
	block := raw("Pollux")
	const each, every = getGrowth / 2, getHedge * 2 / 5
	h := outside(t)
	for _, drips := range []int{1, 2} {
		t.Run(fmt.Sprint(drips), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed, store := nodeOn(t, h, nil, hold(block)), newStore(t)
				ended := false
				drip := func(st network.Stream, _ peer.ID) {
					defer st.Reset()
					go io.Copy(io.Discard, st)
					zeros := make([]byte, blockstore.MaxBlockSize)
					b := body{count: 1, payload: appendPieces(nil, []piece{{kind: kindBlock, bytes: zeros}})}
					b.raw = len(b.payload)
					frames, err := appendBlocks(appendFrame(nil, frameHello), b), error(nil)
					for n := 0; len(frames) > 0 && err == nil; frames = frames[n:] {
						n, err = st.Write(frames[:min(each, len(frames))])
						time.Sleep(every)
					}
					ended = true
				}
				to := streams{"honest": func(st network.Stream, from peer.ID) {
					if ended {
						t.Error("it is asked when one that drips has ended")
					}
					seed.near(st, from)
				}}
				candidates := make(chan Candidate, drips+1)
				for i := range drips {
					id := peer.ID(fmt.Sprint("drips ", drips, i)) // its round trip is not known
					to[id] = drip
					candidates <- Candidate{peer.AddrInfo{ID: id}, true}
				}
				candidates <- Candidate{peer.AddrInfo{ID: "honest"}, true}
				mirror := nodeOn(t, near{h, "mirror", to}, store, store)
				req := GetRequest{Store: store, CID: block.CID(), Timeout: 10 * time.Minute}
				if err := mirror.client.Get(t.Context(), req, candidates); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute) // until nobody is served any more
			})
		})
	}
}
