package exchange

import (
	"bufio"
	"bytes"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// outside returns a host for bubbles, and makes what all of them use.
func outside(t testing.TB) host.Host {
	t.Helper()
	blockstore.Unpack(cid.Undef, nil) // the first call makes a decoder
	return newHost(t)
}

// bounded fails t if do takes more memory than a peer may cause with streams streams and what
// it says.
func bounded(t testing.TB, says []byte, streams int, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	// Each frame takes a buffer, at most what its pieces are when decoded, and its blocks.
	const own = 48 << 20
	frames := len(split(says)) + streams
	if took := after.TotalAlloc - before.TotalAlloc; took > own+3*maxAnswer*uint64(frames) {
		t.Errorf("%d frames of %d bytes took %d", frames, len(says), took)
	}
}

// A tape records what goes to the other side of streams.
type tape struct {
	mu  sync.Mutex
	all []byte
}

type taped struct {
	network.Stream
	tape *tape
}

func (s taped) Write(b []byte) (int, error) {
	s.tape.mu.Lock()
	s.tape.all = append(s.tape.all, b...)
	s.tape.mu.Unlock()
	return s.Stream.Write(b)
}

// update is what FuzzUpdate fetches, and what is there before.
type update struct {
	host              host.Host
	older, old, site  []blockstore.Block
	root, base, spare cid.Cid
	held              memStore // by who provides
}

func newUpdate(t testing.TB) *update {
	u := &update{host: outside(t), older: pages(9, 20, "June 1")}
	u.old, u.site = tiny()
	u.root, u.base, u.spare = u.site[0].CID(), u.old[0].CID(), u.older[0].CID()
	u.held = hold(append(slices.Clone(u.old), u.site...)...)
	return u
}

// request returns what is to be fetched, and what the store has then. There are three kinds:
// one base is held; two are, the first of which an honest provider lacks; of one a page is lost.
func (u *update) request(t testing.TB, kind int) (req Request, blocks []blockstore.Block) {
	req = Request{Root: u.root, Bases: []cid.Cid{u.base}, Store: newStore(t), Timeout: time.Minute}
	old := u.old
	switch kind {
	case 1:
		req.Bases = []cid.Cid{u.spare, u.base}
		old = append(slices.Clone(old), u.older...)
	case 2:
		old = slices.Delete(slices.Clone(old), 3, 4)
	}
	w := req.Store.NewWriter()
	for _, b := range old {
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return req, append(slices.Clone(old), u.site...)
}

// recorded returns what an honest provider says. The site is so small that its leaves are now
// and then there before another base is tried: then it is recorded again.
func (u *update) recorded(t testing.TB, kind int) (says []byte) {
	t.Helper()
	for range 20 {
		if says = u.record(t, kind); kind != 1 || len(says) < int(size(u.site))/10 {
			break
		}
	}
	return says
}

// record is recorded, once.
func (u *update) record(t testing.TB, kind int) []byte {
	t.Helper()
	server, err := NewServer(u.host, u.held, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	tape := new(tape)
	req, blocks := u.request(t, kind)
	store := req.Store.(*blockstore.Store)
	mirror := nodeOn(t, near{u.host, "mirror", streams{"honest": func(st network.Stream, from peer.ID) {
		server.serve(taped{st, tape}, &network.NullScope{}, from)
		st.Reset()
	}}}, store, store)
	if _, err := mirror.fetch(limit(t), req, peer.AddrInfo{ID: "honest"}); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, blocks)
	tape.mu.Lock()
	defer tape.mu.Unlock()
	return bytes.Clone(tape.all)
}

// FuzzUpdate fetches the next version of a site, of which the one before is held, from a peer
// that says arbitrary bytes, and then from an honest one as well. Whatever was said, the fetch
// ends soon, has all of the site and nothing else, and leaves nothing behind that waits.
func FuzzUpdate(f *testing.F) {
	u := newUpdate(f)
	const always = ^uint64(0)
	for kind := range byte(3) {
		says := u.recorded(f, int(kind))
		for _, rests := range []uint64{always, always - 3, 0} {
			f.Add(says, rests, false, kind)
		}
		f.Add(says, always, true, kind)
		f.Add(says[:len(says)*2/3], always, true, kind)
		f.Add(says[:len(says)*2/3], always, false, kind)
	}
	order, err := buildOrder(f.Context(), u.held, u.root, u.base)
	if err != nil {
		f.Fatal(err)
	}
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	a := &actor{held: u.held, order: order, enc: enc}
	opens := concat(a.opens(open{}), a.nodes(list{count: 1}), appendOpened(nil, opened{status: statusBased}))
	opens = concat(hello, opens)
	index := func(change func(i int, p piece) piece) []byte {
		pieces, full, last := a.listed(list{from: 1})
		for i := range pieces {
			_, base := order.node(1+i, full)
			pieces[i] = change(i, deltaOf(u.held[base].Data(), pieces[i]))
		}
		return appendIndex(nil, 1, full, last, a.enc.body(pieces, levelFast))
	}
	data := func(change func(i int, p piece) piece) []byte {
		pieces := a.pieces(order.all())
		for i := range pieces {
			pieces[i] = change(i, deltaOf(a.base(i), pieces[i]))
		}
		return appendData(nil, 0, a.enc.body(pieces, levelFast))
	}
	good := func(_ int, p piece) piece { return p }
	for _, bad := range []func(i int, p piece) piece{
		good,
		func(i int, p piece) piece { // other bytes
			if i%7 == 0 {
				p = wrong(p)
			}
			return p
		},
		func(_ int, p piece) piece { return piece{kind: kindDelta, bytes: p.bytes[:len(p.bytes)-1]} },
		func(_ int, p piece) piece { return piece{kind: kindDelta, bytes: append(bytes.Clone(p.bytes), 0)} },
		func(int, piece) piece { return piece{kind: kindDelta, bytes: []byte{0, 1}} }, // the base
		func(int, piece) piece { // beyond the base
			return piece{kind: kindDelta, bytes: uvarints(2, 1<<40, 1<<40)}
		},
		func(int, piece) piece { return piece{kind: kindDelta} },
		func(_ int, p piece) piece { return piece{kind: kindBlock, bytes: p.bytes} },
		func(_ int, p piece) piece { return piece{kind: kindStored, bytes: p.bytes} },
		func(int, piece) piece { return piece{kind: kindMissing} },
	} {
		for kind := range byte(3) {
			f.Add(concat(opens, index(bad), data(good)), always, false, kind)
			f.Add(concat(opens, index(good), data(bad)), always, false, kind)
		}
	}
	some := func(n int) []byte {
		pieces := a.pieces(span{0, n})
		for i := range pieces {
			pieces[i] = deltaOf(a.base(i), pieces[i])
		}
		return appendData(nil, 0, a.enc.body(pieces, levelFast))
	}
	nodes := concat(opens, index(good))
	f.Add(concat(nodes, rawData(0, 1, encodingZstd, 1<<29, bomb(1000, true))), always, false, byte(0))
	f.Add(concat(nodes, some(5), appendSpanFrame(nil, frameMiss, []span{{5, 4}})), always, false, byte(0))
	f.Add(concat(nodes, some(5), appendSpanFrame(nil, frameLater, []span{{5, 15}})), always, false, byte(0))
	f.Add(concat(nodes, some(5), appendBusy(nil, time.Second), nodes), always, false, byte(0))
	// It has the base, and not at all after another OPEN, or less.
	f.Add(concat(hello, a.opens(open{}), appendOpened(nil, opened{}), nodes), always, false, byte(1))
	plain := concat(hello, a.opens(open{}), a.nodes(list{count: 1}), appendOpened(nil, opened{status: statusOpen}))
	f.Add(concat(plain, index(good), data(good)), always, false, byte(0))
	f.Add(concat(plain, plain, index(good), data(good)), always, false, byte(1))
	// The base is damaged, and then there is none.
	f.Add(concat(opens, index(good), data(good), hello, a.opens(open{}), data(good)), always, false, byte(2))
	f.Fuzz(func(t *testing.T, says []byte, rests uint64, leaves bool, kind byte) {
		synctest.Test(t, func(t *testing.T) {
			p := newParrot(says, rests, leaves)
			server, err := NewServer(u.host, u.held, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			honest := func(st network.Stream, from peer.ID) {
				server.serve(st, &network.NullScope{}, from)
				st.Reset()
			}
			req, blocks := u.request(t, int(kind%3))
			store := req.Store.(*blockstore.Store)
			mirror := nodeOn(t, near{u.host, "mirror", streams{"parrot": p.play, "honest": honest}}, store, store)
			bounded(t, says, 1, func() {
				if _, err := mirror.client.Fetch(limit(t), req, p.before(t, "honest")); err != nil {
					t.Error(err)
				}
			})
			mirror.checkHeld(t, blocks)
			if mirror.client.bans.has("honest") {
				t.Error("the honest provider is banned")
			}
			settle(t, server, mirror.server)
		})
	})
}

// TestRecorded fetches updates from a peer alone that says what an honest one said: what
// FuzzUpdate starts from does lead through the deltas.
func TestRecorded(t *testing.T) {
	u := newUpdate(t)
	for kind := range 3 {
		says := u.recorded(t, kind)
		deltas := len(says) < int(size(u.site))/10
		if whole := kind == 2; deltas == whole {
			t.Fatalf("kind %d: %d bytes for an update of %d", kind, len(says), size(u.site))
		}
		synctest.Test(t, func(t *testing.T) {
			p := newParrot(says, ^uint64(0), false)
			req, blocks := u.request(t, kind)
			store := req.Store.(*blockstore.Store)
			mirror := nodeOn(t, near{u.host, "mirror", streams{"parrot": p.play}}, store, store)
			if _, err := mirror.fetch(limit(t), req, peer.AddrInfo{ID: "parrot"}); err != nil {
				t.Error(err)
			}
			mirror.checkHeld(t, blocks)
			settle(t, mirror.server)
		})
	}
}

// settle ends a bubble: nobody is served any more, and what waits for a time is over.
func settle(t testing.TB, servers ...*Server) {
	t.Helper()
	quiet(t, servers...)
	time.Sleep(2 * serveIdle)
}

// twins is a site of two leaves in one folder.
func twins() (site []blockstore.Block) {
	castor, pollux := blockstore.Sum(cid.Raw, []byte("Castor")), blockstore.Sum(cid.Raw, []byte("Pollux"))
	folder := nodeOf(castor, pollux)
	return []blockstore.Block{nodeOf(folder), folder, castor, pollux}
}

// occur returns which blocks stand in the DATA and BLOCKS of says.
func occur(dec *zstd.Decoder, says []byte, blocks []blockstore.Block) map[cid.Cid]bool {
	found := make(map[cid.Cid]bool)
	for _, frame := range split(says) {
		typ, body, err := readFrame(bufio.NewReader(bytes.NewReader(frame)), maxAnswer)
		if err != nil {
			continue
		}
		parse := parseData
		if typ == frameBlocks {
			parse = parseBlocks
		}
		a, err := parse(body)
		if err != nil {
			continue
		}
		pieces, _ := a.body.pieces(dec, nil)
		for _, p := range pieces {
			for _, b := range blocks {
				if got, err := whole(b.CID(), p); err == nil && bytes.Equal(got.Data(), b.Data()) {
					found[b.CID()] = true
				}
			}
		}
	}
	return found
}

// FuzzProbe probes a peer that says arbitrary bytes. It counts as one that holds all only if it
// brought all, and an honest one is then found to hold all.
func FuzzProbe(f *testing.F) {
	h, site := outside(f), twins()
	root, held := site[0].CID(), hold(site...)
	order, err := buildOrder(f.Context(), held, root, cid.Undef)
	if err != nil {
		f.Fatal(err)
	}
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	a := &actor{held: held, order: order, enc: enc}
	const always = ^uint64(0)
	numbered := false
	add := func(frames ...[]byte) {
		numbered = !numbered // the fuzzer finds the other
		f.Add(concat(frames...), always, true, numbered)
		f.Add(concat(frames...), uint64(0), false, !numbered)
	}
	for _, b := range goodFrames(f) {
		add(hello, b)
		add(hello, a.opens(open{}), b)
	}
	cids := []cid.Cid{root, site[1].CID()}
	nodes, leaves := a.blocks(cids), a.leaves([]span{{1, 1}, {0, 1}})
	blocks := func(pieces ...piece) []byte { return appendBlocks(nil, enc.body(pieces, levelFast)) }
	leaf := func(p piece) []byte { return appendData(nil, 0, enc.body([]piece{p}, levelFast)) }
	miss := appendSpanFrame(nil, frameMiss, []span{{0, 1}})
	add(hello, a.opens(open{}), nodes, leaves)
	add(hello, a.opens(open{}), a.blocks(cids[:1]))
	add(hello, a.opens(open{}), a.blocks(append(cids, cids...)))
	add(hello, a.opens(open{}), blocks(a.block(root), piece{kind: kindMissing}), leaves)
	add(hello, a.opens(open{}), blocks(a.block(root), wrong(a.block(cids[1]))), leaves)
	add(hello, a.opens(open{}), blocks(piece{kind: kindStored, bytes: bomb(maxRaw, true)}))
	add(hello, a.opens(open{}), nodes, miss, a.leaves([]span{{1, 1}}))
	add(hello, a.opens(open{}), nodes, leaf(wrong(a.block(site[2].CID()))))
	add(hello, a.opens(open{}), nodes, leaf(piece{kind: kindDelta, bytes: []byte{0, 1}}))
	add(hello, a.opens(open{}), nodes, rawData(0, 1, encodingZstd, maxRaw, bomb(maxRaw+1, true)))
	add(hello, a.opens(open{}), nodes, rawData(0, 1, encodingZstd, 1<<29, bomb(1000, true)))
	add(hello, a.opens(open{}), nodes, appendSpanFrame(nil, frameLater, []span{{0, 1}}), hello, nodes)
	add(hello, appendOpened(nil, opened{status: statusOpen}), appendHave(nil, false, []span{{1, 300}}),
		nodes, a.leaves([]span{{1, 1}}))
	add(hello, appendOpened(nil, opened{}), nodes)
	busy := concat(hello, appendBusy(nil, time.Second), hello)
	// It is asked for leaves in either order.
	add(busy, a.blocks(append(cids, site[2].CID(), site[3].CID())))
	add(busy, a.blocks(append(cids, site[3].CID(), site[2].CID())))
	add(busy, nodes, blocks(piece{kind: kindMissing}, piece{kind: kindMissing}))
	add(busy, a.opens(open{}), nodes)
	f.Fuzz(func(t *testing.T, says []byte, rests uint64, leaves, numbered bool) {
		synctest.Test(t, func(t *testing.T) {
			p := newParrot(says, rests, leaves)
			server, err := NewServer(h, held, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			honest := func(st network.Stream, from peer.ID) {
				server.serve(st, &network.NullScope{}, from)
				st.Reset()
			}
			prober := nodeOn(t, near{h, "prober", streams{"parrot": p.play, "honest": honest}}, nil, nil)
			o, best := order, Full
			if !numbered {
				o, best = nil, Partial
			}
			began := time.Now()
			came := 0
			var got *probe
			bounded(t, says, 2, func() {
				got = prober.client.probe(t.Context(), peer.AddrInfo{ID: "parrot"}, root, o, func() { came++ })
			})
			if took := time.Since(began); took > probeLimit {
				t.Errorf("took %v", took)
			}
			r := got.result()
			if r.Share < 0 || r.Share > 1 {
				t.Errorf("share %v", r.Share)
			}
			found := occur(dec, says, site)
			if r.Standing == Full && len(found) < len(site) || r.Share > 0 && len(found) == 0 {
				t.Errorf("%+v, of %d blocks", r, len(found))
			}
			if came > 0 && len(found) == 0 {
				t.Error("what was not said counts")
			}
			if bad := prober.client.bans.has("parrot"); bad != got.bad || bad && r.Standing != Unreachable {
				t.Errorf("banned: %v; %+v", bad, r)
			}
			if len(got.met) > maxCandidates+maxPeers || got.have.n > order.leaves.len() {
				t.Errorf("%d peers and %d leaves are remembered", len(got.met), got.have.n)
			}
			r = prober.client.probe(t.Context(), peer.AddrInfo{ID: "honest"}, root, o, func() {}).result()
			if r.Standing != best {
				t.Errorf("an honest one: %+v", r)
			}
			settle(t, server)
		})
	})
}

// FuzzGet gets a block from a peer that says arbitrary bytes, and then from an honest one as
// well.
func FuzzGet(f *testing.F) {
	h, site := outside(f), twins()
	held, want := hold(site...), site[2]
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	const always = ^uint64(0)
	add := func(frames ...[]byte) {
		f.Add(concat(frames...), always, true)
		f.Add(concat(frames...), uint64(0), false)
	}
	for _, b := range goodFrames(f) {
		add(hello, b)
		add(b)
	}
	blocks := func(pieces ...piece) []byte { return appendBlocks(nil, enc.body(pieces, levelFast)) }
	packed := func(count, raw int, payload []byte) []byte {
		return appendBlocks(nil, body{count: count, encoding: encodingZstd, raw: raw, payload: payload})
	}
	good := piece{kind: kindBlock, bytes: want.Data()}
	stored, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range []piece{
		good, wrong(good), {kind: kindBlock}, {kind: kindMissing}, {kind: kindDelta, bytes: []byte{0, 1}},
		{kind: kindStored, bytes: stored.EncodeAll(want.Data(), nil)},
		{kind: kindStored, bytes: bomb(maxRaw, true)}, {kind: kindStored, bytes: bomb(maxRaw, false)},
	} {
		add(hello, blocks(p))
		add(hello, blocks(piece{kind: kindMissing}), hello, blocks(p))
	}
	add(hello, blocks(good, good))
	add(hello, packed(1, maxRaw, bomb(maxRaw+1, true)))
	add(hello, packed(1, 1<<29, bomb(1000, true)))
	add(hello, packed(maxPieces, maxRaw, bomb(maxRaw, true)))
	add(appendFrame(nil, frameHello, make([]byte, maxHello+1)), blocks(good))
	f.Fuzz(func(t *testing.T, says []byte, rests uint64, leaves bool) {
		synctest.Test(t, func(t *testing.T) {
			p := newParrot(says, rests, leaves)
			server, err := NewServer(h, held, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			var asked atomic.Bool
			honest := func(st network.Stream, from peer.ID) {
				asked.Store(true)
				server.serve(st, &network.NullScope{}, from)
				st.Reset()
			}
			store := newStore(t)
			getter := nodeOn(t, near{h, "getter", streams{"parrot": p.play, "honest": honest}}, store, store)
			req := GetRequest{Store: store, CID: want.CID(), Timeout: time.Minute}
			bounded(t, says, 1, func() {
				if err := getter.client.Get(limit(t), req, p.before(t, "honest")); err != nil {
					t.Fatal(err)
				}
			})
			getter.checkHeld(t, []blockstore.Block{want})
			if !asked.Load() && !occur(dec, says, site)[want.CID()] {
				t.Error("the block came from nowhere")
			}
			if n := getter.client.readers.Load(); n != 0 || getter.client.bans.has("honest") {
				t.Errorf("%d read, or the honest provider is banned", n)
			}
			settle(t, server)
		})
	})
}
