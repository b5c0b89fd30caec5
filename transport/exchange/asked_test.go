package exchange

import (
	"bufio"
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// TestAsked asks for leaves, and calls some off while they are answered.
func TestAsked(t *testing.T) {
	var a asked
	var sent leafSet
	add := func(typ frameType, spans ...span) {
		t.Helper()
		if err := a.add(typ, appendSpanFrame(nil, typ, spans)[2:]); err != nil {
			t.Fatal(err)
		}
	}
	next := func(want span) {
		t.Helper()
		if s := a.leaves(&sent); s != want {
			t.Fatalf("next are %v, want %v", s, want)
		}
	}
	next(span{})
	add(frameWant, span{10, 10}, span{30, 5})
	add(frameWant, span{10, 10})
	next(span{10, 10})
	next(span{10, 10}) // until they were answered
	a.took(span{10, 4})
	next(span{14, 6})
	add(frameCancel, span{10, 8})
	next(span{18, 2})
	a.took(span{14, 6}) // all was being answered then
	next(span{30, 5})
	add(frameCancel, span{30, 1})
	a.took(span{30, 1})
	next(span{31, 4})
	a.took(span{31, 4})
	next(span{18, 2}) // it was asked for twice
	a.took(span{18, 2})
	next(span{})
	a.took(span{18, 2}) // all was called off
	add(frameWant, span{0, 100})
	add(frameWant, span{0, 100})
	add(frameCancel, span{20, 10})
	a.took(span{0, 90})
	next(span{90, 10})
	a.took(span{90, 10})
	next(span{0, 20})
	a.took(span{0, 100})
	next(span{})

	// What was sent unasked is not sent again, when it is asked for the first time.
	sent.addSpan(span{5, 5})
	add(frameWant, span{0, 3})
	next(span{0, 3})
	a.took(span{0, 3})
	add(frameWant, span{3, 10})
	add(frameWant, span{3, 10})
	next(span{3, 2})
	a.took(span{3, 2})
	next(span{10, 3})
	a.took(span{10, 3})
	next(span{3, 10})
	a.took(span{3, 10})

	add(frameWant, span{1, 2}, span{4, 1}, span{6, 2}, span{9, 9})
	add(frameWant, span{1, 1})
	if got := a.within(span{0, 8}, 2); !slices.Equal(got, []span{{1, 2}, {4, 1}}) {
		t.Errorf("the first two are %v", got)
	}
	if got := a.within(span{5, 3}, 5); !slices.Equal(got, []span{{6, 2}}) {
		t.Errorf("what else there is of them is %v", got)
	}
	next(span{9, 9})
}

// TestAskedBlocks asks for as many blocks, and with as long CIDs, as may be, and for more when some
// were answered.
func TestAskedBlocks(t *testing.T) {
	for _, tt := range []struct{ bytes, most int }{
		{0, maxQueued},
		{maxCID - 5, maxQueuedCIDs / maxCID},
	} {
		var a asked
		c, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.IDENTITY}.Sum(make([]byte, tt.bytes))
		if err != nil {
			t.Fatal(err)
		}
		add := func() error {
			frame := appendGet(nil, []cid.Cid{c})
			_, body, err := readFrame(bufio.NewReader(bytes.NewReader(frame)), maxRequest)
			if err != nil {
				t.Fatal(err)
			}
			return a.add(frameGet, body)
		}
		for i := range tt.most {
			if err := add(); err != nil {
				t.Fatalf("CID %d of %d bytes: %v", i, c.ByteLen(), err)
			}
		}
		a.answered(2)
		for want := range 3 {
			if err := add(); (err != nil) != (want == 2) {
				t.Errorf("CID %d of %d bytes, when two were answered: %v", want, c.ByteLen(), err)
			}
		}
	}
}

// TestBrokenIsNotAsked has frames break the protocol at their ends: nothing of them is kept, or it
// might be answered before the stream ends.
func TestBrokenIsNotAsked(t *testing.T) {
	root := raw("a root").CID()
	var a asked
	for _, frame := range [][]byte{
		appendOpen(nil, open{root: root}), appendList(nil, list{count: 1}), spread(1, 5),
		appendGet(nil, []cid.Cid{root}), appendGot(nil, 1),
	} {
		typ, body, err := readFrame(bufio.NewReader(bytes.NewReader(frame)), maxRequest)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.add(typ, append(body, 0)); !errors.Is(err, errProtocol) {
			t.Errorf("a frame of type %d and a byte more: %v", typ, err)
		}
	}
	if !reflect.DeepEqual(&a, new(asked)) {
		t.Errorf("%+v is kept", &a)
	}
}

// TestHeldBack asks for what waits, since it was had, and then for what was not: that comes at
// once.
func TestHeldBack(t *testing.T) {
	site := newTree(94, 3, 30)
	o, err := buildOrder(t.Context(), hold(site.blocks...), site.root(), cid.Undef)
	if err != nil {
		t.Fatal(err)
	}
	seed := newNode(t, site.blocks...)
	other := dial(t, newHost(t), seed)
	other.Write(opening(site.root()))
	f := dial(t, newHost(t), seed)
	f.Write(opening(site.root()))
	for _, opened := range []*fetcher{other, f} {
		if _, _, err := opened.next(frameOpened); err != nil {
			t.Fatal(err)
		}
	}
	h := seed.server.had.of(f.Conn().LocalPeer())
	for range enough {
		h.sentBlock(site.root())
		h.sentNodes(o, o.nodeCount(true)+few)
	}
	h.mu.Lock()
	h.until = time.Now().Add(time.Hour)
	h.mu.Unlock()
	held := concat(appendGet(nil, []cid.Cid{site.root()}), appendList(nil, list{full: true}))
	for leaf := range 3 {
		f.Write(concat(held, appendSpanFrame(nil, frameWant, []span{{leaf, 1}})))
		if got, _, err := f.next(frameData, frameIndex, frameBlocks); err != nil || got != frameData {
			t.Fatalf("a frame of type %d, %v, want a DATA", got, err)
		}
	}
}
