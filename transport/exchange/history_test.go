package exchange

import (
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestHistory sends a peer all of a DAG again and again, and its first leaves alone.
func TestHistory(t *testing.T) {
	site := newTree(92, 3, 30)
	o, err := buildOrder(t.Context(), hold(site.blocks...), site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	all := newHistories()
	h := all.of("p")
	if all.of("p") != h || all.of("q") == h {
		t.Error("a peer has one history, and no other has it")
	}
	nodes, leaves := o.nodeCount(true), o.leaves.len()
	for sent := 0; sent <= enough*nodes+few; sent += nodes {
		if h.hadNodes(o) {
			t.Fatalf("had enough after %d of %d nodes", sent, nodes)
		}
		h.sentNodes(o, nodes)
	}
	if !h.hadNodes(o) || h.hadLeaves(o, 5) {
		t.Errorf("all nodes many times: had enough %v, and of leaves %v", h.hadNodes(o), h.hadLeaves(o, 5))
	}
	for range enough {
		if h.hadLeaves(o, 0) {
			t.Error("had enough of leaves too early")
		}
		h.sentLeaves(o, span{0, 2})
	}
	if !h.hadLeaves(o, 0) || h.hadLeaves(o, 1) || h.hadLeaves(o, 5) {
		t.Error("it had enough of the first leaves, and of no others")
	}
	for range enough {
		h.sentLeaves(o, span{1, leaves - 1})
	}
	h.sentLeaves(o, span{2, few})
	if !h.hadLeaves(o, 5) {
		t.Error("had all leaves many times, and not enough")
	}
	if h.wait() > 0 {
		t.Errorf("waits %v, though nothing was sent again", h.wait())
	}
	h.again(5 * againRate)
	h.again(5 * againRate)
	if d := h.wait(); d < 9*time.Second || d > 10*time.Second {
		t.Errorf("waits %v, for what takes 10 s", d)
	}
	h.again(1 << 30)
	if d := h.wait(); d < maxWait-time.Second || d > maxWait {
		t.Errorf("waits %v, want %v at most", d, maxWait)
	}
	h.began = time.Now().Add(-historyTime - time.Second)
	if all.of("p") == h {
		t.Error("nothing is forgotten")
	}
	h = all.of("p")
	for i := range 2 * maxHistories {
		all.of(peer.ID(rune(i)))
		h.sentBlock(raw(string(rune(i))).CID())
		h.sentNodes(&order{root: raw(string(rune(i))).CID()}, 1)
	}
	if all.all.Len() > maxHistories || len(h.blocks) > historyBlocks || len(h.dags) > historyDAGs {
		t.Errorf("%d peers, %d blocks and %d DAGs are kept", all.all.Len(), len(h.blocks), len(h.dags))
	}
}

// TestHadEnough asks for the same again and again, while another peer is served and when there
// is no other.
func TestHadEnough(t *testing.T) {
	site := newTree(93, 3, 30)
	var large int // the largest leaf
	for i, b := range site.blocks {
		if b.CID().Type() == cid.Raw && len(b.Data()) > len(site.blocks[large].Data()) {
			large = i
		}
	}
	block := site.blocks[large].CID()
	o, err := buildOrder(t.Context(), hold(site.blocks...), site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		ask    []byte
		answer frameType
		enough int // answers
	}{
		"LIST": {appendList(nil, list{full: true}), frameIndex, enough + few/o.nodeCount(true) + 1},
		"WANT": {appendSpanFrame(nil, frameWant, []span{o.segmentSpan(0)}), frameData, enough},
		"GET":  {appendGet(nil, []cid.Cid{block}), frameBlocks, enough},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := newNode(t, site.blocks...)
			other := dial(t, newHost(t), seed)
			other.Write(opening(site.root()))
			f := dial(t, newHost(t), seed)
			f.Write(opening(site.root()))
			ask := func() {
				t.Helper()
				f.Write(tt.ask)
				if _, _, err := f.next(tt.answer); err != nil {
					t.Fatal(err)
				}
			}
			// The first that is too many is sent, and then there is a time to wait.
			h := seed.server.had.of(f.Conn().LocalPeer())
			for range tt.enough {
				ask()
				if h.wait() > 0 {
					t.Error("has to wait before it has had enough")
				}
			}
			ask()
			if h.wait() <= 0 {
				t.Error("has had enough, and need not wait")
			}
			h.mu.Lock()
			h.until = time.Now().Add(time.Hour) // or the test might end after the wait
			h.mu.Unlock()
			until := h.until
			f.Write(tt.ask)
			fresh := site.blocks[1+large%2].CID()
			other.Write(appendGet(nil, []cid.Cid{fresh}))
			if _, _, err := other.next(frameBlocks); err != nil {
				t.Fatal(err)
			}
			again := !h.until.Equal(until)
			other.Reset()
			f.Write(appendSpanFrame(nil, frameCancel, []span{{o.leaves.len() - 1, 1}})) // so that it is looked at again
			if _, _, err := f.next(tt.answer); err != nil {
				t.Error("waits though nobody else is served:", err)
			}
			if again {
				t.Error("was sent it again while another was served")
			}
		})
	}
}

// TestRefuse refuses a segment again and again.
func TestRefuse(t *testing.T) {
	c := &serving{refused: make(map[int]refusal)}
	if d := c.refuse(7); d != 0 {
		t.Errorf("waits %v before it is told for the first time", d)
	}
	if d := c.refuse(7); d <= 0 || d > putOffTime {
		t.Errorf("did not wait, and is told in %v", d)
	}
	if d := c.refuse(8); d != 0 {
		t.Errorf("waits %v for another segment", d)
	}
	first := time.Now().Add(-maxRefusal)
	c.refused[7] = refusal{first, first}
	if d := c.refuse(7); d != 0 || !c.refused[7].first.Equal(first) {
		t.Errorf("waits %v, and was told first at %v", d, c.refused[7].first)
	}
}

// TestNotHad asks for what is not there, and for the same while nobody else is served: neither
// counts later.
func TestNotHad(t *testing.T) {
	site := newTree(93, 3, 30)
	seed := newNode(t, site.blocks...)
	f := dial(t, newHost(t), seed)
	f.Write(opening(site.root()))
	h := seed.server.had.of(f.Conn().LocalPeer())
	missing := raw("missing").CID()
	for range 2 * enough {
		for answer, ask := range map[frameType][]byte{
			frameBlocks: appendGet(nil, []cid.Cid{missing}),
			frameData:   appendSpanFrame(nil, frameWant, []span{{0, 30}}),
		} {
			f.Write(ask)
			if _, _, err := f.next(answer); err != nil {
				t.Fatal(err)
			}
		}
	}
	if h.hadBlock(missing) {
		t.Error("had a block that was not there")
	}
	if d := h.wait(); d > 0 {
		t.Errorf("has to wait %v for what it was sent alone", d)
	}
}

// TestHadAgain has one of a crowd be sent a segment again: that does not put off another.
func TestHadAgain(t *testing.T) {
	crowdAsks(t, newTree(93, 3, 30).blocks, "abc", func(_ *node, all []*asker) {
		for _, ask := range []struct {
			who   int
			after time.Duration
			want  frameType
		}{
			{0, 0, frameData},
			{1, firstWayTime + 50*time.Millisecond, frameLater}, // it was sent to another just now
			{0, passTime, frameData},
			{2, firstWayTime + 50*time.Millisecond, frameData}, // it was sent again to who had it
		} {
			time.Sleep(ask.after)
			if got := all[ask.who].want(span{0, 1}); got != ask.want {
				t.Errorf("a frame of type %d to number %d, want %d", got, ask.who, ask.want)
			}
		}
	})
}
