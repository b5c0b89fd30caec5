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

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/blockstore"
)

var nowhere = []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/1")}

func strangers(t testing.TB, n int) []peer.AddrInfo {
	t.Helper()
	infos := make([]peer.AddrInfo, n)
	for i := range infos {
		id, err := test.RandPeerID()
		if err != nil {
			t.Fatal(err)
		}
		infos[i] = peer.AddrInfo{ID: id, Addrs: nowhere}
	}
	return infos
}

// TestManyCandidates buries an honest provider among more peers that cannot be reached
// than are remembered.
func TestManyCandidates(t *testing.T) {
	site := newTree(41, 2, 2)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	infos := append(strangers(t, maxCandidates+50), seed.info())
	if _, err := mirror.fetch(limit(t), Request{Root: site.root()}, infos...); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
}

// TestHearsay has a provider name thousands of peers that are not there, the mirror
// itself and its own seed among them, before the seed is found.
func TestHearsay(t *testing.T) {
	site := newTree(42, 2, 2)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	infos := strangers(t, 20*maxPeers)
	infos[0], infos[1].ID = peer.AddrInfo{ID: seed.ID(), Addrs: nowhere}, mirror.ID()
	liar := newActor(t, script{open: func(a *actor, _ open) (frames []byte) {
		for i := 0; i < len(infos); i += maxPeers {
			frames = append(frames, appendPeers(nil, len(infos), infos[i:i+maxPeers])...)
		}
		return frames
	}}, site.root(), blockstore.Block{}.CID(), site.blocks...)
	candidates := make(chan Candidate, 2)
	candidates <- Candidate{liar.info(), true}
	go func() {
		<-liar.acted
		candidates <- Candidate{seed.info(), true}
	}()
	if _, err := mirror.client.Fetch(limit(t), Request{Store: mirror.store, Root: site.root()}, candidates); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	for _, a := range mirror.Peerstore().Addrs(mirror.ID()) {
		if a.Equal(nowhere[0]) {
			t.Error("the mirror was told its own address, and believes it")
		}
	}
}

// TestCandidatesAreTaken feeds candidates to a fetch that needs none: whoever finds them
// must not have to wait, and nobody is dialled.
func TestCandidatesAreTaken(t *testing.T) {
	mirror := newNode(t)
	until := make(chan struct{})
	ctx := limit(t)
	all := make(chan Candidate)
	done := make(chan error)
	go func() {
		_, err := mirror.client.Fetch(ctx, Request{Store: blocking{mirror.store, until}, Root: raw("x").CID()}, all)
		done <- err
	}()
	for _, info := range strangers(t, 2*maxCandidates) {
		select {
		case all <- Candidate{AddrInfo: info}:
		case <-ctx.Done():
			t.Fatal("a candidate is not taken")
		}
	}
	if n := len(mirror.Network().Peers()); n != 0 {
		t.Errorf("%d peers were dialled for nothing", n)
	}
	close(until) // and it turns out that the block is held
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// largest returns what ends watching n, and returns the largest that it was when all waited.
func largest(n *atomic.Int32) (end func() int32) {
	stop, most := make(chan struct{}), make(chan int32)
	go func() {
		for m := int32(0); ; m = max(m, n.Load()) {
			select {
			case <-time.After(7*time.Millisecond + 1): // not when anything else happens
			case <-stop:
				most <- m
				return
			}
		}
	}()
	return func() int32 {
		close(stop)
		return <-most
	}
}

// TestTwelveAtATime has more candidates than a fetch asks at a time, none of which answers:
// all open streams at once, or all after their dials have left their places to others.
func TestTwelveAtATime(t *testing.T) {
	h := newHost(t)
	for name, takes := range map[string]time.Duration{"at once": 0, "late": 5 * dialTime / 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var active atomic.Int32
				silent := func(st network.Stream, _ peer.ID) {
					active.Add(1)
					defer active.Add(-1)
					io.Copy(io.Discard, st)
				}
				to, candidates := streams{}, make(chan Candidate, 2*maxActive)
				for i := range cap(candidates) {
					id := peer.ID(rune('a' + i))
					to[id] = func(st network.Stream, from peer.ID) {
						// One for which there is no place is closed unused.
						if _, err := io.ReadFull(st, make([]byte, 1)); err == nil {
							silent(st, from)
						}
					}
					candidates <- Candidate{peer.AddrInfo{ID: id}, true}
				}
				opens := func(ctx context.Context, _ peer.ID) error { return after(ctx, takes) }
				store := newStore(t)
				mirror := nodeOn(t, dialled{near{h, "mirror", to}, opens}, store, store)
				req := Request{Store: store, Root: raw("nowhere").CID(), Timeout: 5 * time.Minute}
				most := largest(&active)
				_, err := mirror.client.Fetch(t.Context(), req, candidates)
				if unreachable, ok := errors.AsType[*UnreachableError](err); !ok || unreachable.Asked != cap(candidates) {
					t.Errorf("got %v", err)
				}
				synctest.Wait()
				if n := most(); n != maxActive || active.Load() != 0 {
					t.Errorf("%d were asked at a time, want %d; %d streams are left", n, maxActive, active.Load())
				}
			})
		})
	}
}

// TestStalledDials has many more peers than places never open a stream: an honest provider
// that is found after them, and takes its time too, is used while their dials go on, or, if
// those are too many, though none has come to its limit.
func TestStalledDials(t *testing.T) {
	block := raw("Pollux")
	for _, tt := range []struct {
		name  string
		peers int
		takes time.Duration // for the honest to open a stream
	}{
		{name: "the honest at once", peers: 3 * maxActive / 2},
		{name: "the honest late", peers: 3 * maxActive / 2, takes: 3 * dialTime},
		{name: "too many", peers: 3 * (maxActive + maxLate)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t) // to which nobody is near
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var now, most, ended, expired int
				opens := func(ctx context.Context, p peer.ID) error {
					mu.Lock()
					now++
					most = max(most, now)
					mu.Unlock()
					takes := time.Hour
					if p == "seed" {
						takes = tt.takes
					}
					err := after(ctx, takes)
					mu.Lock()
					defer mu.Unlock()
					now--
					if err != nil {
						ended++
					}
					if errors.Is(err, context.DeadlineExceeded) {
						expired++
					}
					return err
				}
				seed, store := nodeOn(t, near{h, "seed", nil}, nil, hold(block)), newStore(t)
				serve := func(st network.Stream, from peer.ID) {
					mu.Lock()
					if tt.peers <= maxLate && ended > 0 || expired > 0 {
						t.Errorf("it is used after %d dials have ended, %d of them at their limit", ended, expired)
					}
					mu.Unlock()
					seed.near(st, from)
				}
				mirror := nodeOn(t, dialled{near{h, "mirror", streams{"seed": serve}}, opens}, store, store)
				candidates := make(chan Candidate, tt.peers+1)
				for i := range tt.peers {
					candidates <- Candidate{peer.AddrInfo{ID: peer.ID(fmt.Sprint(i))}, true}
				}
				candidates <- Candidate{peer.AddrInfo{ID: "seed"}, true}
				req := Request{Store: store, Root: block.CID(), Timeout: time.Minute}
				if _, err := mirror.client.Fetch(t.Context(), req, candidates); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if most > maxActive+maxLate || now > 0 {
					t.Errorf("%d dials at a time, want %d; %d are left", most, maxActive+maxLate, now)
				}
			})
		})
	}
}

// TestNearestFirst has more candidates than are asked at a time, all there before anything is to
// be fetched: the nearest are asked.
func TestNearestFirst(t *testing.T) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var asked, want []peer.ID
		to := streams{}
		silent := func(id peer.ID) {
			to[id] = func(st network.Stream, _ peer.ID) {
				mu.Lock()
				asked = append(asked, id)
				mu.Unlock()
				io.Copy(io.Discard, st)
			}
		}
		mirror := nodeOn(t, near{h, "mirror", to}, newStore(t), nil)
		f := newFetch(mirror.client, Request{Store: mirror.store, Root: raw("nowhere").CID()})
		f.early = append(f.early, peer.AddrInfo{ID: "unknown"})
		silent("unknown")
		for i := range 2 * maxActive {
			id := peer.ID(rune('a' + (i*7)%(2*maxActive))) // neither names nor the order of arrival decide
			h.Peerstore().RecordLatency(id, time.Duration(2*maxActive-i)*time.Millisecond)
			f.early = append(f.early, peer.AddrInfo{ID: id})
			silent(id)
			if i >= maxActive {
				want = append(want, id)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var first []peer.ID
		time.AfterFunc(firstStall, func() { // before any makes room
			mu.Lock()
			defer mu.Unlock()
			first = slices.Sorted(slices.Values(asked))
			cancel()
		})
		f.run(ctx, make(chan Candidate))
		slices.Sort(want)
		if !slices.Equal(first, want) {
			t.Errorf("%q were asked, want %q", first, want)
		}
	})
}
