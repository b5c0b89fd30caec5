package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// TestGet gets single blocks from a peer that has them, beside one that has not.
func TestGet(t *testing.T) {
	site := newTree(8, 2, 3)
	without, seed, mirror := newNode(t), newNode(t, site.blocks...), newNode(t)
	get := func(c cid.Cid, timeout time.Duration, from ...*node) error {
		candidates := make(chan Candidate, len(from))
		for _, n := range from {
			candidates <- Candidate{AddrInfo: n.info(), Provider: true}
		}
		return mirror.client.Get(t.Context(), GetRequest{Store: mirror.store, CID: c, Timeout: timeout}, candidates)
	}
	for _, b := range site.blocks[:3] {
		if err := get(b.CID(), 0, without, seed); err != nil {
			t.Fatal(err)
		}
		if _, err := mirror.store.Get(t.Context(), b.CID()); err != nil {
			t.Error(err)
		}
	}
	if err := get(site.blocks[1].CID(), 0); err != nil {
		t.Errorf("what is held was asked for: %v", err)
	}
	var unreachable *UnreachableError
	if err := get(blockstore.Sum(cid.Raw, []byte("nowhere")).CID(), time.Second, seed); !errors.As(err, &unreachable) {
		t.Errorf("what nobody has: %v", err)
	}
}

// TestGetManyCandidates buries an honest provider among more peers that cannot be reached than
// are remembered. All are found again and again, the honest one last.
func TestGetManyCandidates(t *testing.T) {
	h, block := newHost(t), raw("Pollux")
	infos := append(strangers(t, maxCandidates+50), peer.AddrInfo{ID: "seed"})
	synctest.Test(t, func(t *testing.T) {
		seed, store := nodeOn(t, near{h, "seed", nil}, nil, hold(block)), newStore(t)
		mirror := nodeOn(t, near{h, "mirror", streams{"seed": seed.near}}, store, store)
		ctx, cancel := context.WithCancel(t.Context())
		candidates := make(chan Candidate)
		var finds sync.WaitGroup
		finds.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				select {
				case candidates <- Candidate{infos[n%len(infos)], true}:
					time.Sleep(time.Millisecond)
				case <-ctx.Done():
				}
			}
		})
		err := mirror.client.Get(ctx, GetRequest{Store: store, CID: block.CID(), Timeout: time.Minute}, candidates)
		cancel()
		finds.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := store.Has(block.CID()); !ok || err != nil {
			t.Errorf("it is held: %v, %v", ok, err)
		}
	})
}

// TestGetHedges has three hold a block, the first of which to be asked sends it in some way:
// another is asked while it does only if that would take long.
func TestGetHedges(t *testing.T) {
	block := largeLeaves(1)[1]
	const flow = 4 * getGrowth * int(time.Second/getHedge)
	for _, tt := range []struct {
		name  string
		rate  int // bytes a second
		stops int // after so many bytes; 0 is never
		dial  time.Duration
		lacks bool // the others do not hold it, and take long to say so
		asked string
	}{
		{name: "flows", rate: flow, asked: "a"},
		{name: "drips", rate: flow / 8, asked: "ab"},
		{name: "stops", rate: flow, stops: segmentBytes / 2, asked: "ab"},
		{name: "flows late, and another lacks it", rate: flow, dial: 3 * getHedge / 2, lacks: true, asked: "ba"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := outside(t)
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				asked := ""
				ended := false
				serve := func(id peer.ID, from *node, wrap func(network.Stream) network.Stream) func(network.Stream, peer.ID) {
					return func(st network.Stream, _ peer.ID) {
						mu.Lock()
						asked += string(id)
						if ended {
							t.Errorf("%s is asked when the first has ended", id)
						}
						mu.Unlock()
						from.near(wrap(st), id)
						mu.Lock()
						defer mu.Unlock()
						ended = ended || id == "a"
					}
				}
				seed := nodeOn(t, near{h, "seed", nil}, nil, hold(block))
				other, atOnce := seed, func(st network.Stream) network.Stream { return st }
				if tt.lacks {
					other = nodeOn(t, near{h, "other", nil}, nil, hold())
					atOnce = func(st network.Stream) network.Stream { return late{st} }
				}
				to := streams{
					"a": serve("a", seed, func(st network.Stream) network.Stream {
						return paced{&stopping{st, tt.stops}, tt.rate}
					}),
					"b": serve("b", other, atOnce),
					"c": serve("c", other, atOnce),
				}
				opens := func(ctx context.Context, p peer.ID) error {
					if p == "a" {
						return after(ctx, tt.dial)
					}
					return nil
				}
				store := newStore(t)
				mirror := nodeOn(t, dialled{near{h, "mirror", to}, opens}, store, store)
				candidates := make(chan Candidate, len(to))
				for _, id := range []peer.ID{"a", "b", "c"} {
					candidates <- Candidate{peer.AddrInfo{ID: id}, true}
				}
				req := GetRequest{Store: store, CID: block.CID(), Timeout: time.Minute}
				if err := mirror.client.Get(t.Context(), req, candidates); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if asked != tt.asked {
					t.Errorf("%q were asked, want %q", asked, tt.asked)
				}
				time.Sleep(time.Minute) // until nobody is served any more
			})
		})
	}
}

// late is a stream over which each write takes long.
type late struct{ network.Stream }

func (s late) Write(b []byte) (int, error) {
	time.Sleep(2 * getHedge)
	return s.Stream.Write(b)
}

// stopping is a stream over which nothing goes any more after so many bytes, if not 0, until
// it ends.
type stopping struct {
	network.Stream
	left int
}

func (s *stopping) Write(b []byte) (int, error) {
	if s.left == 0 || len(b) < s.left {
		s.left = max(s.left-len(b), 0)
		return s.Stream.Write(b)
	}
	s.Stream.Write(b[:s.left])
	for {
		if _, err := s.Stream.Write(nil); err != nil {
			return 0, err
		}
		time.Sleep(getHedge)
	}
}

// TestGetNearestFirst has many hold nothing back but their answer: after the one that was known
// first, the nearest are asked first.
func TestGetNearestFirst(t *testing.T) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var asked []peer.ID
		to := streams{}
		candidates := make(chan Candidate, 10)
		know := func(id peer.ID, rtt time.Duration) {
			to[id] = func(st network.Stream, _ peer.ID) {
				mu.Lock()
				asked = append(asked, id)
				mu.Unlock()
				io.Copy(io.Discard, st)
			}
			if rtt > 0 {
				h.Peerstore().RecordLatency(id, rtt)
			}
			candidates <- Candidate{peer.AddrInfo{ID: id}, true}
		}
		know("first", 0)
		know("unknown", 0)
		want := []peer.ID{"first"}
		for i := range 5 {
			n := 1 + (i*3)%5 // neither names nor the order of arrival decide
			know(peer.ID(fmt.Sprint((n*2)%5)), time.Duration(n)*time.Millisecond)
			want = append(want, peer.ID(fmt.Sprint((i+1)*2%5)))
		}
		want = append(want, "unknown")
		store := newStore(t)
		mirror := nodeOn(t, near{h, "mirror", to}, store, store)
		req := GetRequest{Store: store, CID: raw("nowhere").CID(), Timeout: dropAfter - time.Second}
		err := mirror.client.Get(t.Context(), req, candidates)
		if _, ok := errors.AsType[*UnreachableError](err); !ok {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if !slices.Equal(asked, want) {
			t.Errorf("%q were asked, want %q", asked, want)
		}
	})
}

// TestGetStalledDials has peers that never open a stream: who is found after them is asked
// while their dials go on, or, if those are too many, though none has come to its limit.
func TestGetStalledDials(t *testing.T) {
	block := raw("Pollux")
	for _, peers := range []int{3 * getMost / 2, 3 * maxLate} {
		t.Run(fmt.Sprint(peers), func(t *testing.T) {
			h := newHost(t)
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var now, most, ended, expired int
				opens := func(ctx context.Context, p peer.ID) error {
					if p == "seed" {
						return nil
					}
					mu.Lock()
					now++
					most = max(most, now)
					mu.Unlock()
					<-ctx.Done()
					mu.Lock()
					defer mu.Unlock()
					now--
					ended++
					if errors.Is(ctx.Err(), context.DeadlineExceeded) {
						expired++
					}
					return ctx.Err()
				}
				seed, store := nodeOn(t, near{h, "seed", nil}, nil, hold(block)), newStore(t)
				serve := func(st network.Stream, from peer.ID) {
					mu.Lock()
					if peers < maxLate && ended > 0 || expired > 0 {
						t.Errorf("it is asked after %d dials have ended, %d of them at their limit", ended, expired)
					}
					mu.Unlock()
					seed.near(st, from)
				}
				mirror := nodeOn(t, dialled{near{h, "mirror", streams{"seed": serve}}, opens}, store, store)
				candidates := make(chan Candidate, peers+1)
				for i := range peers {
					candidates <- Candidate{peer.AddrInfo{ID: peer.ID(fmt.Sprint(i))}, true}
				}
				candidates <- Candidate{peer.AddrInfo{ID: "seed"}, true}
				req := GetRequest{Store: store, CID: block.CID(), Timeout: time.Minute}
				if err := mirror.client.Get(t.Context(), req, candidates); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if most > maxLate || now > 0 {
					t.Errorf("%d dials at a time, want %d; %d are left", most, maxLate, now)
				}
			})
		})
	}
}

// mute are twice as many peers as are asked for a block at a time, which answer nothing. They count
// in active while they are asked.
func mute(active *atomic.Int32) (streams, <-chan Candidate) {
	to, candidates := streams{}, make(chan Candidate, 2*getMost)
	for i := range cap(candidates) {
		id := peer.ID(rune('a' + i))
		to[id] = func(st network.Stream, _ peer.ID) {
			if _, err := io.ReadFull(st, make([]byte, 1)); err != nil {
				return // it had to wait
			}
			active.Add(1)
			defer active.Add(-1)
			io.Copy(io.Discard, st)
		}
		candidates <- Candidate{peer.AddrInfo{ID: id}, true}
	}
	return to, candidates
}

// TestGetLateDials has more peers than are asked for a block at a time open their streams late,
// and answer nothing.
func TestGetLateDials(t *testing.T) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		var active atomic.Int32
		to, candidates := mute(&active)
		opens := func(ctx context.Context, _ peer.ID) error { return after(ctx, maxLate*getHedge) }
		store := newStore(t)
		mirror := nodeOn(t, dialled{near{h, "mirror", to}, opens}, store, store)
		req := GetRequest{Store: store, CID: raw("nowhere").CID(), Timeout: time.Minute}
		most := largest(&active)
		err := mirror.client.Get(t.Context(), req, candidates)
		if _, ok := errors.AsType[*UnreachableError](err); !ok {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if n := most(); n != getMost || active.Load() != 0 {
			t.Errorf("%d were asked at a time, want %d; %d streams are left", n, getMost, active.Load())
		}
	})
}

// TestGetBesideMany has a Get know more peers that say nothing than it may ask at a time. While
// all Gets together have many streams open it asks few of them, and more when the others have
// ended, though none of those that it asks has.
func TestGetBesideMany(t *testing.T) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		var active atomic.Int32
		to, candidates := mute(&active)
		store := newStore(t)
		mirror := nodeOn(t, near{h, "mirror", to}, store, store)
		mirror.client.asks.Add(getTogether)
		ctx, cancel := context.WithCancel(t.Context())
		go mirror.client.Get(ctx, GetRequest{Store: store, CID: raw("nowhere").CID()}, candidates)
		time.Sleep(dropAfter / 3)
		if n := active.Load(); n != getActive {
			t.Errorf("it asks %d beside the others, want %d", n, getActive)
		}
		mirror.client.asks.Add(-getTogether)
		time.Sleep(dropAfter / 3)
		if n := active.Load(); n <= getActive {
			t.Errorf("it asks %d when the others have ended", n)
		}
		cancel()
		time.Sleep(time.Minute) // until nobody is tried again
		if n := mirror.client.asks.Load(); n != 0 {
			t.Errorf("%d streams count as open", n)
		}
	})
}
