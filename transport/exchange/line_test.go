package exchange

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// largeLeaves makes a site of n leaves, each a segment of its own, that do not shrink.
func largeLeaves(n int) []blockstore.Block {
	r := rand.NewChaCha8([32]byte{})
	leaves := make([]blockstore.Block, n)
	for i := range leaves {
		b := make([]byte, segmentBytes)
		r.Read(b)
		leaves[i] = blockstore.Sum(cid.Raw, b)
	}
	return append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
}

// asker is a stream to a provider in the same bubble.
type asker struct {
	network.Stream
	came chan answered
}

// answered is an INDEX, a DATA, a BLOCKS or a LATER.
type answered struct {
	frameType
	body []byte
}

// asks opens a stream to n in the name of a peer, and sends what it begins with.
func (n *node) asks(name string, begin []byte) *asker {
	mine, others := pipes()
	go n.near(others, peer.ID(name))
	a := &asker{Stream: mine, came: make(chan answered, 1000)}
	go func() {
		for r := bufio.NewReader(mine); ; {
			typ, body, err := readFrame(r, maxAnswer)
			if err != nil {
				return
			}
			switch typ {
			case frameIndex, frameData, frameBlocks, frameLater:
				a.came <- answered{typ, body}
			}
		}
	}()
	a.Write(begin)
	return a
}

// crowdAsks has peers of the given names open a site, which seed serves, calls do, and ends
// their streams.
func crowdAsks(t *testing.T, site []blockstore.Block, names string, do func(seed *node, all []*asker)) {
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, hold(site...))
		var all []*asker
		for _, name := range strings.Split(names, "") {
			all = append(all, seed.asks(name, opening(site[0].CID())))
		}
		time.Sleep(2 * newsEvery) // all have heard of all
		do(seed, all)
		for _, a := range all {
			a.Reset()
		}
		time.Sleep(time.Minute) // until nobody serves them any more
	})
}

// want asks for leaves, and returns what comes.
func (a *asker) want(spans ...span) frameType {
	a.Write(appendSpanFrame(nil, frameWant, spans))
	return a.next()
}

// next returns the next that comes, 0 if nothing does in time for a few frames.
func (a *asker) next() frameType {
	select {
	case got := <-a.came:
		return got.frameType
	case <-time.After(100 * time.Millisecond):
		return 0
	}
}

// TestNextIsNoRest has one ask for segments in order: only the rest of a segment passes those
// who wait.
func TestNextIsNoRest(t *testing.T) {
	crowdAsks(t, largeLeaves(8), "xab", func(seed *node, all []*asker) {
		x, a, b := all[0], all[1], all[2]
		u := seed.server.crowds
		u.mu.Lock()
		u.window.size, u.answer = 1, segmentBytes/2
		u.mu.Unlock()
		if got := x.want(span{0, 1}); got != frameData {
			t.Errorf("a frame of type %d", got)
		}
		for _, ask := range []struct {
			from *asker
			frameType
			leaf int
		}{{a, frameWant, 6}, {b, frameWant, 7}, {x, frameWant, 1}, {x, frameCancel, 5}} { // it looks again
			ask.from.Write(appendSpanFrame(nil, ask.frameType, []span{{ask.leaf, 1}}))
			time.Sleep(firstWayTime / 10) // so all is done before there is room
		}
		if len(x.came) > 0 {
			t.Errorf("a frame of type %d, without room, before two that came first", (<-x.came).frameType)
		}
	})
}

// TestListInLine has the first in line ask for nodes: it keeps its place.
func TestListInLine(t *testing.T) {
	crowdAsks(t, largeLeaves(8), "xab", func(seed *node, all []*asker) {
		x, a, b := all[0], all[1], all[2]
		b.want(span{0, 1})
		x.want(span{2, 1})
		a.want(span{4, 1})
		u := seed.server.crowds
		line := func() []*member {
			u.mu.Lock()
			defer u.mu.Unlock()
			return append([]*member(nil), u.line...)
		}
		before := line()
		x.Write(appendList(nil, list{count: 1}))
		if got := x.next(); got != frameIndex {
			t.Errorf("a frame of type %d", got)
		}
		if after := line(); len(before) == 0 || len(after) != len(before) || after[0] != before[0] {
			t.Errorf("%d were in line, now %d, or another is the first", len(before), len(after))
		}
	})
}

// TestBehindPutsOffNobody has one that reports nothing wait for a segment behind others: it is
// sent to whoever else asks for it.
func TestBehindPutsOffNobody(t *testing.T) {
	crowdAsks(t, largeLeaves(40), "mabd", func(seed *node, all []*asker) {
		m, d := all[0], all[3]
		m.want(span{0, 1})
		time.Sleep(2 * firstWayTime)
		for i, other := range all[1:3] { // the line is taken
			for n := range 15 {
				other.want(span{10 + 15*i + 14 - n, 1})
			}
		}
		m.want(span{1, 1})
		for range 20 {
			switch d.want(span{1, 1}) {
			case frameLater:
				t.Fatal("is put off by who waits behind it")
			case frameData:
				return
			}
			time.Sleep(firstWayTime)
		}
		t.Error("is never sent it")
	})
}

// TestHadWaitsBehind has one wait for what it was sent before, and another for what it was not:
// that is sent first, though it came last.
func TestHadWaitsBehind(t *testing.T) {
	crowdAsks(t, largeLeaves(8), "xab", func(seed *node, all []*asker) {
		x, a := all[0], all[1]
		if got := x.want(span{0, 1}); got != frameData {
			t.Errorf("a frame of type %d", got)
		}
		x.Write(appendGot(nil, 1)) // or it would be behind for that
		time.Sleep(passTime)
		u := seed.server.crowds
		room := func(n int) { // for so many answers
			u.mu.Lock()
			defer u.mu.Unlock()
			u.window.size, u.onWay = 1, 2*u.answer-n
			u.call()
		}
		room(0)
		if got := [...]frameType{x.want(span{0, 1}), a.want(span{1, 1})}; got != [2]frameType{} {
			t.Errorf("frames of types %d, and no wait", got)
		}
		room(1)
		if got := [...]frameType{a.next(), x.next()}; got != [2]frameType{frameData, 0} {
			t.Errorf("frames of types %d, want a DATA and none", got)
		}
		room(1)
		if got := x.next(); got != frameData {
			t.Errorf("a frame of type %d in the end", got)
		}
	})
}

// TestHeldBackPutsOffNobody has one wait for what it had enough of.
func TestHeldBackPutsOffNobody(t *testing.T) {
	site := newTree(97, 4, 100)
	crowdAsks(t, site.blocks, "xy", func(seed *node, all []*asker) {
		o, err := buildOrder(t.Context(), hold(site.blocks...), site.root(), cid.Undef)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []peer.ID{"x", "y"} { // or they would be alone
			seed.server.takes(name)
		}
		h := seed.server.had.of("x")
		h.mu.Lock()
		h.blocks[o.leaves.at(2)] = enough
		h.until = time.Now().Add(maxWait)
		h.mu.Unlock()
		if got := all[0].want(span{0, 1}, span{2, 1}); got != frameData {
			t.Errorf("a frame of type %d", got)
		}
		time.Sleep(maxWait / 2)
		if _, _, n := seed.onWay(site.root()); n > 0 {
			t.Errorf("%d answers count as on their way, when all is held back", n)
		}
	})
}

// TestWaitingIsNotIdle has one wait for longer than a stream may be idle, in line or for what it
// had enough of: it is sent what it asked for after all.
func TestWaitingIsNotIdle(t *testing.T) {
	site := largeLeaves(8)
	leaf := site[1].CID()
	for name, keep := range map[string]func(seed *node) (release func()){
		"in line": func(seed *node) func() {
			u, much := seed.server.crowds, 1<<30
			add := func(n int) {
				u.mu.Lock()
				defer u.mu.Unlock()
				u.onWay += n
				u.call()
			}
			add(much)
			return func() { add(-much) }
		},
		"had enough": func(seed *node) func() {
			seed.server.takes("a") // or it would be alone
			h := seed.server.had.of("x")
			h.mu.Lock()
			defer h.mu.Unlock()
			h.blocks[leaf], h.until = enough, time.Now().Add(4*serveIdle/3)
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			crowdAsks(t, site, "xab", func(seed *node, all []*asker) {
				x := all[0]
				release := keep(seed)
				if got := x.want(span{0, 1}); got != 0 {
					t.Errorf("a frame of type %d, and no wait", got)
				}
				for range 4 {
					for _, other := range all[1:] { // or they would be idle
						other.Write(appendGet(nil, []cid.Cid{raw("nothing").CID()}))
					}
					time.Sleep(serveIdle / 3)
				}
				release()
				if got := x.next(); got != frameData {
					t.Errorf("a frame of type %d when the wait is over", got)
				}
			})
		})
	}
}

// TestEagerEnds asks for just what was sent unasked: nothing more is sent unasked then.
func TestEagerEnds(t *testing.T) {
	leaves := make([]blockstore.Block, 20)
	for i := range leaves {
		b := make([]byte, segmentBytes)
		b[0] = byte(i)
		leaves[i] = blockstore.Sum(cid.Raw, b)
	}
	site := append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
	h := newHost(t)
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, hold(site...))
		begin := appendOpen(bytes.Clone(hello), open{root: site[0].CID(), eager: maxEager})
		p := seed.asks("p", appendList(begin, list{}))
		<-p.came // an INDEX
		a, err := parseData((<-p.came).body)
		if err != nil {
			t.Error(err)
		}
		p.Write(appendSpanFrame(nil, frameWant, []span{a.span()}))
		time.Sleep(time.Second)
		if n := len(p.came); n > len(leaves)/2 { // a few were made before
			t.Errorf("%d more DATA", n)
		}
		p.Reset()
		time.Sleep(time.Minute) // until nobody serves it any more
	})
}

// TestNothingElseToSend has one ask for what another was sent a while ago: it is not put off
// while nobody else is sent anything, and gets all that it asks for.
func TestNothingElseToSend(t *testing.T) {
	crowdAsks(t, largeLeaves(8), "xab", func(seed *node, all []*asker) {
		x, a, b := all[0], all[1], all[2]
		u := seed.server.crowds
		u.mu.Lock()
		u.window.size = 1 << 30
		u.mu.Unlock()
		for leaf := range 4 {
			if got := x.want(span{leaf, 1}); got != frameData {
				t.Errorf("leaf %d: a frame of type %d", leaf, got)
			}
		}
		time.Sleep(firstWayTime) // nothing is on its way any more
		if got := a.want(span{0, 1}); got != frameLater {
			t.Errorf("a frame of type %d, for what is being passed on", got)
		}
		time.Sleep(spareTime)
		for leaf := range 4 {
			if got := a.want(span{leaf, 1}); got != frameData {
				t.Errorf("leaf %d again: a frame of type %d", leaf, got)
			}
		}
		time.Sleep(firstWayTime)
		if got := b.want(span{0, 1}); got != frameLater {
			t.Errorf("a frame of type %d, while another is sent something", got)
		}
	})
}
