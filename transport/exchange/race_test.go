package exchange

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
)

// wide makes a site that has 5 MB of nodes and little else.
func wide() []blockstore.Block {
	var leaves, folders []blockstore.Block
	for i := range 300 {
		var links []dag.Link
		for j := range 100 {
			b := raw(fmt.Sprint("page ", i, j))
			leaves = append(leaves, b)
			name := fmt.Sprintf("a name of some length, as many have %04d", j)
			links = append(links, dag.Link{Name: name, CID: b.CID(), Size: uint64(len(b.Data()))})
		}
		folders = append(folders, dirBlock(links...))
	}
	return slices.Concat([]blockstore.Block{nodeOf(folders...)}, folders, leaves)
}

// lane is a stream that counts what is written to it.
type lane struct {
	network.Stream
	sent *atomic.Int64
}

func (l lane) Write(b []byte) (int, error) {
	n, err := l.Stream.Write(b)
	l.sent.Add(int64(n))
	return n, err
}

// burst is a stream that is fast for a while after each pause, and then slow.
type burst struct {
	network.Stream
	left int // bytes
	last time.Time
}

func (s *burst) Write(b []byte) (int, error) {
	if time.Since(s.last) > 100*time.Millisecond {
		s.left = 48 << 10
	}
	defer func() { s.last = time.Now() }()
	if s.left -= len(b); s.left > 0 {
		return s.Stream.Write(b)
	}
	return paced{s.Stream, 20 << 10}.Write(b)
}

// shared is a stream over a line that others use too.
type shared struct {
	network.Stream
	line chan struct{}
	rate int // bytes/s, of the line
}

func (s shared) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		m := min(len(b)-n, 1500)
		s.line <- struct{}{}
		time.Sleep(time.Duration(m) * time.Second / time.Duration(s.rate))
		<-s.line
		m, err = s.Stream.Write(b[n : n+m])
		n += m
	}
	return n, err
}

// far is a stream over which the first frame takes longer than what follows it.
type far struct {
	network.Stream
	began bool
}

func (f *far) Write(b []byte) (int, error) {
	pause := 50 * time.Millisecond
	if !f.began {
		f.began, pause = true, 6*pause
	}
	time.Sleep(pause)
	return f.Stream.Write(b)
}

// A racer serves a stream, as n does or as a does.
type racer func(n *node, a *actor, st network.Stream, from peer.ID)

// honest serves over what over makes of the stream.
func honest(over func(network.Stream) network.Stream) racer {
	return func(n *node, _ *actor, st network.Stream, from peer.ID) { n.near(over(st), from) }
}

// trickling sends a frame for each node.
func trickling(over func(network.Stream) network.Stream) racer {
	return func(_ *node, a *actor, st network.Stream, _ peer.ID) { a.play(over(st)) }
}

func as(rate int) func(network.Stream) network.Stream {
	return func(st network.Stream) network.Stream { return paced{st, rate} }
}

var (
	fast    = honest(func(st network.Stream) network.Stream { return st })
	megabit = honest(as(125_000))
	slow    = trickling(as(20 << 10))
	bursts  = trickling(func(st network.Stream) network.Stream { return &burst{Stream: st} })
	distant = honest(func(st network.Stream) network.Stream { return &far{Stream: st} })
)

// racing fetches a site from racers, of which the first is known first. It returns how long that
// took, and what each sent.
func racing(t *testing.T, h host.Host, site []blockstore.Block, racers ...racer) (took time.Duration, sent []int64) {
	t.Helper()
	held, root := hold(site...), site[0].CID()
	o, err := buildOrder(t.Context(), held, root, cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	n := nodeOn(t, h, nil, held)
	a := actorOn(t, h, script{list: func(a *actor, l list) (frames []byte) {
		pieces, full, last := a.listed(l)
		for i := range pieces {
			b := a.enc.body(pieces[i:][:1], levelFast)
			frames = appendIndex(frames, l.from+i, full, last && i == len(pieces)-1, b)
		}
		return frames
	}}, held, o)
	to := make(streams)
	counts := make([]atomic.Int64, len(racers))
	for i, serve := range racers {
		to[peer.ID(fmt.Sprint(i))] = func(st network.Stream, from peer.ID) { serve(n, a, lane{st, &counts[i]}, from) }
	}
	store := newStore(t)
	mirror := nodeOn(t, near{h, "mirror", to}, store, store)
	candidates := make(chan Candidate, len(racers))
	candidates <- Candidate{peer.AddrInfo{ID: "0"}, true}
	time.AfterFunc(time.Second/2, func() {
		for i := range racers {
			candidates <- Candidate{peer.AddrInfo{ID: peer.ID(fmt.Sprint(i))}, true}
		}
	})
	began := time.Now()
	_, err = mirror.client.Fetch(t.Context(), Request{Store: store, Root: root, Timeout: time.Minute}, candidates)
	took = time.Since(began)
	for i := range counts {
		sent = append(sent, counts[i].Load())
	}
	time.Sleep(2 * time.Minute) // until nobody is served any more
	if err != nil {
		t.Fatal(err)
	}
	return took, sent
}

func total(sent []int64) (n int64) {
	for _, s := range sent {
		n += s
	}
	return n
}

// TestSlowSource has whoever is asked for nodes bring them so that it is not too slow, and much
// slower than another would: that one brings most.
func TestSlowSource(t *testing.T) {
	h, site := outside(t), wide()
	for name, first := range map[string]racer{"trickling": slow, "slow line": megabit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, sent := racing(t, h, site, first, fast)
				if sent[0] > total(sent)/4 {
					t.Errorf("%d bytes came from the slow one, %d from the other", sent[0], sent[1])
				}
			})
		})
	}
}

// TestFastForOnce has others than the source be fast, but never for long: it takes little longer
// than it does without them.
func TestFastForOnce(t *testing.T) {
	h, site := outside(t), wide()
	synctest.Test(t, func(t *testing.T) {
		alone, _ := racing(t, h, site, megabit)
		took, sent := racing(t, h, site, megabit, bursts, bursts, bursts)
		if took > alone*5/4 {
			t.Errorf("took %v, and %v without them; they sent %d", took, alone, sent)
		}
	})
}

// TestEqualSources has all be as fast: little comes twice, and nothing if they are so fast that it
// would tell nothing.
func TestEqualSources(t *testing.T) {
	h, site := outside(t), wide()
	for _, tt := range []struct {
		name string
		with func() racer
		most int64 // bytes that come twice
	}{
		{"slow lines", func() racer { return megabit }, 3 * raceBytes},
		{"a slow line", func() racer {
			line := make(chan struct{}, 1)
			return honest(func(st network.Stream) network.Stream { return shared{st, line, 125_000} })
		}, 3 * raceBytes},
		// Less than a node: the leaves that each brings pack worse, the fewer they are.
		{"far", func() racer { return distant }, 2 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := tt.with()
				_, alone := racing(t, h, site, r)
				_, sent := racing(t, h, site, r, r, r, r)
				if more := total(sent) - total(alone); more > tt.most {
					t.Errorf("%d bytes came twice: %d", more, sent)
				}
			})
		})
	}
}
