package exchange

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// A fetcher speaks to a server frame by frame.
type fetcher struct {
	network.Stream
	r    *bufio.Reader
	from host.Host
}

func dial(t testing.TB, h host.Host, to *node) *fetcher {
	t.Helper()
	f, err := tryDial(t.Context(), h, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Reset() })
	return f
}

func tryDial(ctx context.Context, h host.Host, to *node) (*fetcher, error) {
	if err := h.Connect(ctx, to.info()); err != nil {
		return nil, err
	}
	st, err := h.NewStream(ctx, to.ID(), Protocol)
	if err != nil {
		return nil, err
	}
	return &fetcher{st, bufio.NewReader(st), h}, nil
}

// next returns the next frame of one of the types, leaving out others.
func (f *fetcher) next(types ...frameType) (frameType, []byte, error) {
	f.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		t, body, err := readFrame(f.r, maxAnswer)
		if err != nil {
			return 0, nil, err
		}
		for _, want := range types {
			if t == want {
				return t, body, nil
			}
		}
	}
}

// ends reads until the stream ends, and returns how much came.
func (f *fetcher) ends(t testing.TB) int64 {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := io.Copy(io.Discard, f.r)
	if err != nil && strings.Contains(err.Error(), "deadline") {
		t.Fatal("the stream goes on")
	}
	return n
}

var hello = appendFrame(nil, frameHello)

func opening(root cid.Cid) []byte { return appendOpen(bytes.Clone(hello), open{root: root}) }

// working returns the stacks of those goroutines that serve or fetch.
func working() []string {
	return goroutines("exchange.(*serving)", "exchange.(*Server)", "exchange.(*Fetch)", "exchange.(*session)")
}

// quiet waits until nobody is served.
func quiet(t testing.TB, servers ...*Server) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := 0
		for _, s := range servers {
			s.mu.Lock()
			left += len(s.streams) + len(s.serving)
			s.mu.Unlock()
			s.swarms.mu.Lock()
			for _, w := range s.swarms.all {
				w.mu.Lock()
				left += w.refs + len(w.served) + len(w.asked) + len(w.underWay)
				w.mu.Unlock()
			}
			s.swarms.mu.Unlock()
		}
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d streams are served, or places taken: %s", left, strings.Join(working(), "\n\n"))
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHostileFetchers has fetchers ask what they should not, in a way that they should
// not, and honest ones beside them.
func TestHostileFetchers(t *testing.T) {
	site, holes := newTree(61, 4, 20), newTree(62, 4, 20)
	leaves := 4 * 20
	var blocks []blockstore.Block
	blocks = append(blocks, site.blocks...)
	hole := false
	for i, b := range holes.blocks {
		if i > 0 && b.CID().Type() == cid.DagProtobuf && !hole {
			hole = true
			continue
		}
		blocks = append(blocks, b)
	}
	root := site.root()
	want := func(first, n int) []byte { return appendSpanFrame(nil, frameWant, []span{{first, n}}) }
	get := appendGet(nil, []cid.Cid{root})
	for _, tt := range []struct {
		name   string
		send   []byte
		then   []byte // over and over
		times  int
		accept bool  // the stream is not ended
		most   int64 // bytes of answers
	}{
		{name: "no HELLO", send: want(0, 1)},
		{name: "long HELLO", send: appendFrame(nil, frameHello, make([]byte, maxHello+1))},
		{name: "HELLO twice", send: bytes.Repeat(hello, 2)},
		{name: "frame of 2^63 bytes", send: append(bytes.Clone(hello), uvarints(1<<63)...)},
		{name: "frame of no bytes", send: append(bytes.Clone(hello), 0)},
		{name: "a provider's frame", send: appendOpened(bytes.Clone(hello), opened{})},
		{name: "WANT without OPEN", send: append(bytes.Clone(hello), want(0, 1)...)},
		{name: "LIST without OPEN", send: appendList(bytes.Clone(hello), list{count: 1})},
		{name: "WANT beyond the end", send: append(opening(root), want(leaves, 1)...), most: 1000},
		{name: "WANT of all and one", send: append(opening(root), want(0, leaves+1)...), most: 1000},
		{name: "WANT of 2^24", send: append(opening(root), want(0, maxLeaves)...), most: 1000},
		{name: "WANT of 2^24 + 1", send: append(opening(root), want(0, maxLeaves+1)...), most: 1000},
		{name: "WANT of nothing", send: append(opening(root), appendSpanFrame(nil, frameWant, nil)...), most: 1000},
		{name: "LIST from 2^24 + 1", send: appendList(opening(root), list{from: maxNodes + 1, count: 1}), most: 1000},
		{name: "two roots", send: append(opening(root), appendOpen(nil, open{root: holes.root()})...), most: 1000},
		{name: "no root", send: appendFrame(bytes.Clone(hello), frameOpen, []byte{0, 0, 0})},
		{name: "GET of too many", send: appendGet(bytes.Clone(hello), make([]cid.Cid, maxGets+1))},
		{name: "GET of no CID", send: appendGet(bytes.Clone(hello), make([]cid.Cid, 1))},

		{name: "a million WANT", send: opening(root), then: want(0, leaves), times: 1 << 20},
		{name: "a million GET", send: hello, then: get, times: 1 << 20},
		{name: "a million OPEN", send: hello, then: appendOpen(nil, open{root: root}), times: 1 << 20},
		{name: "a million OPEN of others", send: opening(root),
			then: appendOpen(nil, open{root: root, base: holes.root()}), times: 1 << 20},
		{name: "a million LIST", send: opening(root), then: appendList(nil, list{}), times: 1 << 20},
		{name: "CANCEL without end", send: append(opening(root), want(0, leaves)...),
			then: appendSpanFrame(nil, frameCancel, []span{{0, maxLeaves}}), times: 10_000, accept: true},
		{name: "CANCEL that leaves much", send: append(opening(root), spread(maxSpans, maxLeaves/maxSpans)...),
			then: appendSpanFrame(nil, frameCancel, every(maxSpans, 16)), times: 1000},
		{name: "half a frame", send: get[:len(get)-1], accept: true},
		{name: "half a frame after HELLO", send: append(opening(root), get[:len(get)-1]...), accept: true},
		{name: "a root that is not held", send: opening(raw("nothing").CID()), accept: true},
		{name: "a DAG with a hole", send: opening(holes.root()), accept: true},
		{name: "WANT of a DAG with a hole", send: append(opening(holes.root()), want(0, 1)...), accept: true},
		{name: "LIST of a DAG with a hole", send: appendList(opening(holes.root()), list{}), accept: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seed := nodeWith(t, nil, hold(blocks...))
			before := heap()
			f := dial(t, newHost(t), seed)
			_, err := f.Write(tt.send)
			for n := 0; n < tt.times && err == nil; {
				m := min(tt.times-n, 1000)
				f.SetWriteDeadline(time.Now().Add(20 * time.Second))
				_, err = f.Write(bytes.Repeat(tt.then, m))
				n += m
			}
			if err != nil && tt.accept {
				t.Fatalf("the stream ended: %v", err)
			}
			if err != nil && errors.Is(err, context.DeadlineExceeded) {
				t.Fatal("the stream does not end though nobody reads")
			}
			if n := heap(); n > before+64<<20 {
				t.Errorf("%d bytes more are in use", n-before)
			}
			mirror := newNode(t)
			if _, err := mirror.fetch(limit(t), Request{Root: root}, seed.info()); err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, site.blocks)
			if tt.accept {
				f.Reset()
			} else if n := f.ends(t); tt.most > 0 && n > tt.most {
				t.Errorf("%d bytes were answered", n)
			}
			quiet(t, seed.server)
		})
	}
}

// spread is a WANT of n spans of so many leaves, all the same.
func spread(n, leaves int) (frames []byte) {
	for range n {
		frames = appendSpanFrame(frames, frameWant, []span{{0, leaves}})
	}
	return frames
}

// every is n spans of a leaf each, so far from each other.
func every(n, apart int) (spans []span) {
	for i := range n {
		spans = append(spans, span{i * apart, 1})
	}
	return spans
}

// TestManyStreams opens more streams than are served, from one peer and from many, asks
// for everything and reads nothing.
func TestManyStreams(t *testing.T) {
	site := newTree(64, 20, 40)
	seed := newNode(t, site.blocks...)
	greedy := append(opening(site.root()), appendSpanFrame(nil, frameWant, []span{{0, 20 * 40}})...)
	before := heap()
	var streams []*fetcher
	deaf := func(h host.Host) {
		if f, err := tryDial(t.Context(), h, seed); err == nil {
			streams = append(streams, f)
			f.SetWriteDeadline(time.Now().Add(time.Second))
			f.Write(greedy)
		}
	}
	one := newHost(t)
	for range 300 {
		deaf(one)
	}
	served := func() (n int) {
		seed.server.mu.Lock()
		defer seed.server.mu.Unlock()
		return seed.server.serving[one.ID()]
	}
	if n := served(); n > servePerPeer {
		t.Errorf("%d streams of a peer are served", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	mirror := newNode(t)
	if _, err := mirror.fetch(ctx, Request{Root: site.root()}, seed.info()); err != nil {
		t.Fatalf("with %d others that read nothing: %v", len(streams), err)
	}
	mirror.checkHeld(t, site.blocks)
	if n := heap(); n > before+128<<20 {
		t.Errorf("%d bytes more are in use", n-before)
	}
	for _, f := range streams {
		f.Reset()
	}
	quiet(t, seed.server)
	for end := time.Now().Add(10 * time.Second); len(working()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("goroutines are left: %s", strings.Join(working(), "\n\n"))
		}
	}
}

// TestDeafCrowd has as many peers as make a crowd ask for everything and read nothing. A
// fetcher is put off for some seconds, and then gets what it asks for.
func TestDeafCrowd(t *testing.T) {
	t.Parallel()
	site := newTree(66, 5, 40)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	for range maxSending + crowd {
		f := dial(t, newHost(t), seed)
		if _, err := f.Write(append(opening(site.root()), appendSpanFrame(nil, frameWant, []span{{0, 5 * 40}})...)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.next(frameData, frameLater); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mirror.fetch(limit(t), Request{Root: site.root()}, seed.info()); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
}

// TestTurnEnds gives the slot of a peer, whose turn is over, to another. The first is BUSY when it
// asks for more over the same stream, but for blocks, which take no slot.
func TestTurnEnds(t *testing.T) {
	site := newTree(116, 2, 20)
	for name, tt := range map[string]struct {
		ask  []byte
		want frameType
	}{
		"WANT": {appendSpanFrame(nil, frameWant, []span{{0, 1}}), frameBusy},
		"LIST": {appendList(nil, list{}), frameBusy},
		"GET":  {appendGet(nil, []cid.Cid{site.root()}), frameBlocks},
	} {
		t.Run(name, func(t *testing.T) {
			seed := newNode(t, site.blocks...)
			f, _, _ := openAt(t, seed, "first", open{root: site.root()})
			s := seed.server.slots
			for i := range uploads - 1 {
				s.ask(peer.ID(fmt.Sprint(i)), time.Now())
			}
			s.mu.Lock()
			first := s.taken["first"]
			first.began = first.began.Add(-turnTime - 1)
			s.taken["first"] = first
			s.mu.Unlock()
			if !s.ask("another", time.Now()) {
				t.Fatal("the turn is not over")
			}
			if _, err := f.Write(tt.ask); err != nil {
				t.Fatal(err)
			}
			got, _, err := f.next(frameIndex, frameData, frameBlocks, frameBusy)
			if err != nil || got != tt.want {
				t.Errorf("a frame of type %d, %v", got, err)
			}
		})
	}
}

// TestBusy fills all places. Who is told so hangs up, or is hung up on; a fetcher goes to
// the others that it was told of, and comes back.
func TestBusy(t *testing.T) {
	t.Parallel()
	site := newTree(65, 4, 20)
	seed, other := newNode(t, site.blocks...), newNode(t, site.blocks...)
	fill := func() {
		for i := range uploads {
			seed.server.slots.ask(peer.ID(fmt.Sprint(i)), time.Now())
		}
	}
	empty := func() {
		seed.server.slots.mu.Lock()
		defer seed.server.slots.mu.Unlock()
		clear(seed.server.slots.taken)
	}
	fill()
	t.Run("hung up on", func(t *testing.T) {
		f := dial(t, newHost(t), seed)
		if _, err := f.Write(opening(site.root())); err != nil {
			t.Fatal(err)
		}
		_, body, err := f.next(frameBusy)
		if err != nil {
			t.Fatal(err)
		}
		if pause, err := parseBusy(body); err != nil || pause != busyPause {
			t.Errorf("busy for %v, %v", pause, err)
		}
		f.ends(t)
		for end := time.Now().Add(3 * hangUp); ; time.Sleep(10 * time.Millisecond) {
			seed.server.mu.Lock()
			total := len(seed.server.streams)
			seed.server.mu.Unlock()
			if total == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the stream is served")
			}
		}
	})
	t.Run("goes elsewhere", func(t *testing.T) {
		// The seed knows of the other since that fetches from it.
		f := dial(t, other.Host, seed)
		empty()
		if _, err := f.Write(opening(site.root())); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.next(frameOpened); err != nil {
			t.Fatal(err)
		}
		fill()
		mirror := newNode(t)
		res, err := mirror.fetch(limit(t), Request{Root: site.root()}, seed.info())
		if err != nil {
			t.Fatal(err)
		}
		mirror.checkHeld(t, site.blocks)
		if res.Peers != 1 {
			t.Errorf("%d peers gave something", res.Peers)
		}
		f.Reset()
	})
	t.Run("comes back", func(t *testing.T) {
		fill()
		mirror := newNode(t)
		var once sync.Once
		_, err := mirror.fetch(limit(t), Request{Root: site.root(), Progress: func(p Progress) {
			if p.Asked > 0 && p.Received > 0 {
				once.Do(empty)
			}
		}}, seed.info())
		if err != nil {
			t.Fatal(err)
		}
		mirror.checkHeld(t, site.blocks)
	})
	quiet(t, other.server)
}
