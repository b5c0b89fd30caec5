package exchange

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// inMemory returns what the cache of frames says that it holds, how many bytes that is packed,
// and how many it keeps from being used otherwise.
func (c *frames) inMemory() (counted, packed, kept int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.lru.Values() {
		packed += len(b.payload)
		kept += cap(b.payload) + cap(b.front)
	}
	return c.bytes, packed, kept
}

// TestMemoryOfMedia has a crowd of mirrors fetch pages that shrink well, and among them media
// of 1 MiB that do not. What the provider keeps of packed frames is as much as it counts, and
// what it books for a stream is at most three times what goes into an answer.
func TestMemoryOfMedia(t *testing.T) {
	t.Parallel()
	r := rand.NewChaCha8([32]byte{97})
	var blocks []blockstore.Block
	for i := range 6 {
		media := make([]byte, 1<<20)
		r.Read(media)
		blocks = append(blocks, blockstore.Sum(cid.Raw, media))
		for j := range 20 {
			var page []byte
			for k := range 500 {
				page = fmt.Appendf(page, "<p class=\"twins\">page %d of part %d, line %d</p>\n", j, i, k)
			}
			blocks = append(blocks, blockstore.Sum(cid.Raw, page))
		}
	}
	blocks = append([]blockstore.Block{nodeOf(blocks...)}, blocks...)
	seed := newNode(t, blocks...)
	check := func(n *node) {
		counted, packed, kept := n.server.frames.inMemory()
		if counted > frameCache || kept > counted || kept > packed*3/2 {
			t.Errorf("the cache counts %d bytes, and keeps %d for %d", counted, kept, packed)
		}
		if s := n.inUse(t); s.Memory > int64(s.NumStreamsInbound)*3*blockstore.MaxBlockSize {
			t.Errorf("%d bytes are booked for %d streams", s.Memory, s.NumStreamsInbound)
		}
	}
	var tasks sync.WaitGroup
	var mirrors []*node
	for range 4 {
		m := newNode(t)
		mirrors = append(mirrors, m)
		tasks.Go(func() {
			req := Request{Root: blocks[0].CID(), Progress: func(Progress) { check(seed) }}
			if _, err := m.fetch(limit(t), req, seed.info()); err != nil {
				t.Error(err)
			}
			check(m)
		})
	}
	tasks.Wait()
	for _, m := range mirrors {
		m.checkHeld(t, blocks)
	}
	if counted, _, _ := seed.server.frames.inMemory(); counted == 0 {
		t.Error("nothing was packed")
	}
	quiet(t, seed.server)
	if s := seed.inUse(t); s.Memory != 0 || s.NumStreamsInbound != 0 {
		t.Errorf("in use when nobody is served: %+v", s)
	}
}

// counted serves a peer on st, which counts among the streams that are served.
func (s *Server) counted(st network.Stream, mem memory, remote peer.ID) {
	c := &serving{server: s, remote: remote, stream: st, memory: mem}
	if s.enter(c) {
		defer s.leave(c)
		c.serve()
	}
	st.Reset()
}

// TestMemoryIsReleased has a peer ask for a block, and take it later: as long as a part of the
// answer is to be written it is booked, and nothing is once the stream rests.
func TestMemoryIsReleased(t *testing.T) {
	site, h := largeLeaves(1), newHost(t)
	leaf := site[1]
	synctest.Test(t, func(t *testing.T) {
		s := nodeOn(t, h, nil, hold(site...)).server
		mine, others := pipes()
		mem := new(bookings)
		var serves sync.WaitGroup
		serves.Go(func() { s.counted(others, mem, "x") })
		for i, ask := range [][]byte{
			append(bytes.Clone(hello), appendGet(nil, []cid.Cid{leaf.CID()})...),
			appendGet(nil, []cid.Cid{leaf.CID()}),
		} {
			mine.Write(ask)
			for left := len(leaf.Data()); left > 0; {
				n := min(left, writePart)
				if left -= n; i == 0 && left == len(leaf.Data())-n {
					n += len(hello)
				}
				if _, err := io.ReadFull(mine, make([]byte, n)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(writeLimit / 2)
				if got := mem.now.Load(); got < int64(len(leaf.Data())) {
					t.Fatalf("%d bytes are booked, with more than %d to be written", got, left)
				}
			}
			// What is left is what stands before the block in the frame.
			if _, err := mine.Read(make([]byte, 64)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := mem.now.Load(); got != 0 || s.booked != 0 {
				t.Errorf("%d and %d bytes are booked when all is written", got, s.booked)
			}
		}
		mine.Reset()
		serves.Wait()
		settle(t, s)
	})
}

// TestSlowReadersHoldMemory has four peers take what they asked for over 14 streams each as
// slowly as they may. A mirror gets a site all the same, at any time.
func TestSlowReadersHoldMemory(t *testing.T) {
	const peers, streamsOfEach = 4, 14
	r := rand.NewChaCha8([32]byte{98})
	large := make([]blockstore.Block, streamsOfEach)
	for i := range large {
		b := make([]byte, frameBytes)
		r.Read(b)
		large[i] = blockstore.Sum(cid.Raw, b)
	}
	site := append([]blockstore.Block{nodeOf(large...)}, large...)
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, hold(site...))
		s := seed.server
		var tasks sync.WaitGroup
		var slow []network.Stream
		for i := range peers {
			for _, b := range large {
				mine, others := pipes()
				slow = append(slow, mine)
				tasks.Go(func() { s.counted(others, &network.NullScope{}, peer.ID(fmt.Sprint("slow ", i))) })
				tasks.Go(func() {
					mine.Write(append(bytes.Clone(hello), appendGet(nil, []cid.Cid{b.CID()})...))
					for err := error(nil); err == nil; time.Sleep(writeLimit - time.Second) {
						_, err = io.ReadFull(mine, make([]byte, writePart))
					}
				})
			}
		}
		synctest.Wait()
		if s.booked <= answerMemory-3*frameBytes {
			t.Errorf("only %d bytes are booked", s.booked)
		}
		for i := range 3 {
			store := newStore(t)
			mirror := nodeOn(t, near{h, peer.ID(fmt.Sprint("mirror ", i)), streams{
				seed.ID(): func(st network.Stream, from peer.ID) { s.counted(st, &network.NullScope{}, from) },
			}}, store, store)
			res, err := mirror.fetch(limit(t), Request{Root: site[0].CID()}, seed.info())
			if err != nil {
				t.Error(i, res, err)
			}
			time.Sleep(time.Minute)
		}
		for _, st := range slow {
			st.Reset()
		}
		tasks.Wait()
		settle(t, s)
	})
}

// TestMemoryIsShared books memory for peers that hold much and little, and have been slow for long
// or not, until some have to give it back.
func TestMemoryIsShared(t *testing.T) {
	h := newHost(t)
	type booking struct {
		from  peer.ID
		bytes int
		ago   time.Duration
	}
	const part = answerMemory / 8
	const slow = uploadIdle
	seven := func(ago time.Duration) (held []booking) {
		for i := range 7 {
			held = append(held, booking{peer.ID(fmt.Sprint("little ", i)), part, ago - time.Duration(i)})
		}
		return held
	}
	for name, tt := range map[string]struct {
		held  []booking
		asks  []int // bytes, of "x" over one stream
		ends  []int // of those who hold
		fails bool
	}{
		"there is room":            {held: []booking{{"a", part, slow}}, asks: []int{7 * part}},
		"there is not":             {held: []booking{{"a", part, 0}}, asks: []int{7*part + 1}, fails: true},
		"who holds most":           {held: []booking{{"a", 2 * part, slow}, {"b", 3 * part, 0}, {"c", 3*part - 1, slow / 2}, {"c", 1, slow / 3}}, asks: []int{1}, ends: []int{2}},
		"of that the slowest":      {held: []booking{{"a", 3 * part, 1}, {"a", 5 * part, 0}}, asks: []int{1}, ends: []int{0}},
		"several":                  {held: []booking{{"a", part, 2}, {"a", part, 1}, {"a", 6 * part, 0}}, asks: []int{part + 1}, ends: []int{0, 1}},
		"who asks holds most":      {held: []booking{{"a", 3 * part, slow}, {"x", 5 * part, slow}}, asks: []int{1}, fails: true},
		"who asks would":           {held: []booking{{"a", 4 * part, slow}, {"x", 4*part - 1, slow}}, asks: []int{2}, fails: true},
		"many with little, slow":   {held: seven(2 * slow), asks: []int{part, part / 2}, ends: []int{0}},
		"many with little, fast":   {held: seven(slow - 1), asks: []int{part, part / 2}, fails: true},
		"little, over two streams": {held: append(seven(2*slow), booking{"x", 1, 0}), asks: []int{part}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := nodeOn(t, h, nil, hold()).server
				begin := func(p peer.ID) *serving {
					_, others := pipes()
					c := &serving{server: s, remote: p, stream: others, memory: &network.NullScope{}}
					if !s.enter(c) {
						t.Fatal("no stream")
					}
					return c
				}
				var all []*serving
				for _, b := range tt.held {
					c := begin(b.from)
					if err := c.book(b.bytes); err != nil {
						t.Fatal(err)
					}
					c.taken = time.Now().Add(-b.ago)
					all = append(all, c)
				}
				x := begin("x")
				var err error
				total := 0
				for _, n := range tt.asks {
					total += n
					err = x.book(total)
				}
				if (err != nil) != tt.fails {
					t.Errorf("book: %v", err)
				}
				sum := x.booked
				for i, c := range all {
					_, served := s.streams[c]
					if served == slices.Contains(tt.ends, i) {
						t.Errorf("number %d is served: %v", i, served)
					}
					if served {
						sum += c.booked
					}
				}
				if s.booked != sum || sum > answerMemory {
					t.Errorf("%d bytes are counted, of %d", s.booked, sum)
				}
				for _, c := range append(all, x) {
					c.release()
					s.leave(c)
				}
				if s.booked != 0 {
					t.Errorf("%d bytes are counted at the end", s.booked)
				}
			})
		})
	}
}
