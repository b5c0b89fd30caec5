package exchange

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/transport/delta"
)

// FuzzServer lets a peer send arbitrary bytes to a server, after HELLO and perhaps OPEN, and
// perhaps while others have the same DAG open. Each answer is right, and an honest peer that
// comes then gets all of the DAG.
func FuzzServer(f *testing.F) {
	h := outside(f)
	old, site := tiny()
	held := hold(append(slices.Clone(old), site...)...)
	root, base := site[0].CID(), old[0].CID()
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	const always = ^uint64(0)
	crowd := false
	add := func(opened bool, frames ...[]byte) {
		crowd = !crowd // the fuzzer finds the other
		f.Add(concat(frames...), always, opened, crowd)
		f.Add(concat(frames...), uint64(0), opened, !crowd)
	}
	for _, b := range goodFrames(f) {
		add(true, b)
		add(false, b)
	}
	spans := func(t frameType, first, n int) []byte { return appendSpanFrame(nil, t, []span{{first, n}}) }
	want := func(first, n int) []byte { return spans(frameWant, first, n) }
	based := appendOpen(nil, open{root: root, base: base})
	all := appendList(nil, list{})
	add(true, all, want(0, 20), spans(frameCancel, 5, 5))
	add(true, all, want(0, 20), want(0, 20), want(3, 1), appendGot(nil, 1), want(0, 9), appendGot(nil, 3))
	add(true, appendSpanFrame(nil, frameWant, []span{{0, 2}, {5, 1}, {7, 9}}), spans(frameCancel, 1, 10), want(2, 3))
	add(true, based, all, want(3, 9))
	add(true, based, appendList(nil, list{full: true}), appendList(nil, list{from: 1, count: 1}),
		want(0, 20))
	add(true, all, want(0, 5), based, all, want(5, 5), appendOpen(nil, open{root: root}), all,
		want(10, 5))
	add(true, based, based, based, based, all)
	add(true, want(19, 2))
	add(true, want(0, 1), appendGot(nil, 2))
	add(true, appendOpen(nil, open{root: base}))
	add(true, bytes.Repeat(appendList(nil, list{count: 1}), maxLists+1))
	add(true, bytes.Repeat(appendSpanFrame(nil, frameWant, every(maxSpans, 2)), 5))
	add(false, based, all, want(0, 20))
	add(false, appendOpen(nil, open{root: base, base: root}), all, want(0, 20))
	add(false, appendOpen(nil, open{root: root, base: site[2].CID()}), all, want(0, 2))
	add(false, appendOpen(nil, open{root: root, eager: maxEager}), all, want(0, 20), want(0, 20))
	add(false, appendOpen(nil, open{root: root, base: base, eager: maxEager}), all,
		spans(frameCancel, 0, 3), want(7, 1))
	add(false, appendOpen(nil, open{root: site[1].CID()}), all, want(0, 1)) // a leaf
	gets := []cid.Cid{root, pages(3, 20, "")[0].CID(), base, site[4].CID()}
	add(false, appendGet(nil, gets), appendOpen(nil, open{root: root}), appendGet(nil, gets), all)
	add(false, all, appendOpen(nil, open{root: root}))
	add(false, appendOpen(nil, open{root: gets[1]}))
	add(false, appendOpen(nil, open{root: blockstore.Sum(cid.Raw, []byte("nowhere")).CID()}), all, want(0, 1))
	f.Fuzz(func(t *testing.T, b []byte, rests uint64, opened, crowd bool) {
		asks := bytes.Clone(hello)
		if opened {
			asks = opening(root)
		}
		asks = append(asks, b...)
		synctest.Test(t, func(t *testing.T) {
			server, err := NewServer(h, held, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			dial := func(from peer.ID) network.Stream {
				mine, others := pipes()
				serving.Go(func() {
					server.serve(others, &network.NullScope{}, from)
					others.Reset()
				})
				return mine
			}
			began := time.Now()
			if crowd {
				for _, p := range []peer.ID{"Leda", "Helen"} {
					st := dial(p)
					go io.Copy(io.Discard, st)
					st.Write(opening(root))
				}
			}
			says := tell(dial("stranger"), asks, rests)
			if limit := maxEager + 2000*len(asks); len(says) > limit {
				t.Errorf("%d bytes answered to %d", len(says), len(asks))
			}
			right(t, dec, held, asks, says)
			serving.Wait()
			if took := time.Since(began); took > 2*serveIdle {
				t.Errorf("took %v", took)
			}
			asks := concat(opening(root), all, want(0, 20))
			got := right(t, dec, held, asks, tell(dial("honest"), asks, always))
			for _, b := range site {
				if !got[b.CID()] {
					t.Errorf("an honest peer does not get %v", b.CID())
				}
			}
			serving.Wait()
			settle(t, server)
		})
	})
}

// tell sends what is asked over a stream, closes it, and returns what came. It rests as a parrot
// does, before it closes too.
func tell(st network.Stream, asks []byte, rests uint64) (came []byte) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		came, _ = io.ReadAll(st)
	}()
	for i, frame := range append(split(asks), nil) {
		if rests>>(i%64)&1 != 0 {
			synctest.Wait()
		}
		if _, err := st.Write(frame); err != nil {
			break
		}
	}
	st.CloseWrite()
	<-done
	return came
}

// right fails t unless each of the frames that a server says, which has all that is held, is an
// answer to what it was asked. It returns the blocks in them.
func right(t testing.TB, dec *zstd.Decoder, held memStore, asks, says []byte) map[cid.Cid]bool {
	t.Helper()
	var (
		opens  []open
		gets   []cid.Cid
		wanted = make(map[int]int) // how often
		eager  int
		order  *order
		got    = make(map[cid.Cid]bool)
	)
	for _, frame := range split(asks) {
		typ, body, err := readFrame(bufio.NewReader(bytes.NewReader(frame)), maxRequest)
		if err != nil {
			break
		}
		switch typ {
		case frameOpen:
			o, err := parseOpen(body)
			if err == nil {
				opens = append(opens, o)
			}
		case frameGet:
			cids, err := parseGet(body)
			if err == nil {
				gets = append(gets, cids...)
			}
		case frameWant:
			spans, _ := parseSpanFrame(body)
			for _, s := range spans {
				for i := s.first; i < min(s.end(), 100); i++ {
					wanted[i]++
				}
			}
		}
	}
	if len(opens) > 0 {
		eager = opens[0].eager
	}
	check := func(c, base cid.Cid, p piece) {
		var err error
		if p.kind == kindDelta {
			p.kind = kindBlock
			p.bytes, err = delta.Apply(nil, p.bytes, held[base].Data(), maxRaw)
		}
		if err == nil {
			_, err = whole(c, p)
		}
		if err != nil {
			t.Errorf("%v: %v", c, err)
		}
		got[c] = true
	}
	r := bufio.NewReader(bytes.NewReader(says))
	for n := 0; ; n++ {
		typ, body, err := readFrame(r, maxAnswer)
		if err != nil { // the last frame may be cut short
			return got
		}
		if (n == 0) != (typ == frameHello) {
			t.Fatalf("frame %d is of type %d", n, typ)
		}
		var a answer
		switch typ {
		case frameHello:
		case frameOpened:
			var o opened
			if o, err = parseOpened(body); err != nil || len(opens) == 0 {
				t.Fatalf("OPENED to nothing, or %v", err)
			}
			asked := opens[0]
			opens = opens[1:]
			if o.status != statusBased {
				asked.base = cid.Undef
			}
			at, err := buildOrder(t.Context(), held, asked.root, asked.base)
			if err != nil && o.status != statusAbsent {
				t.Fatalf("OPENED of status %d: %v", o.status, err)
			}
			if o.status != statusAbsent { // it may be what the peer closed meanwhile
				order = at
			}
		case frameIndex:
			if a, err = parseIndex(body); err != nil {
				break
			}
			pieces, _ := a.body.pieces(dec, nil)
			for i, p := range pieces {
				c, base := order.node(a.first+i, a.full)
				check(c, base, p)
			}
		case frameData:
			if a, err = parseData(body); err != nil {
				break
			}
			pieces, _ := a.body.pieces(dec, nil)
			unasked := false
			for i, p := range pieces {
				leaf := a.first + i
				unasked = unasked || wanted[leaf] == 0
				wanted[leaf]--
				check(order.leaves.at(leaf), order.leafBase(leaf), p)
			}
			if unasked {
				eager -= len(a.body.payload)
			}
		case frameBlocks:
			if a, err = parseBlocks(body); err != nil {
				break
			}
			pieces, _ := a.body.pieces(dec, nil)
			for i, p := range pieces {
				if _, ok := held[gets[i]]; ok {
					check(gets[i], cid.Undef, p)
				} else if p.kind != kindMissing {
					t.Errorf("a piece of kind %d for what is not held", p.kind)
				}
			}
			gets = gets[len(pieces):]
		case frameHave:
			_, _, err = parseHave(body)
		case framePeers:
			_, _, err = parsePeers(body)
		case frameLater:
			_, err = parseSpanFrame(body)
		default:
			t.Errorf("frame of type %d", typ)
		}
		if err != nil || eager < 0 {
			t.Errorf("type %d: %v; eager: %d", typ, err, eager)
		}
	}
}
