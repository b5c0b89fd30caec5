package exchange

import (
	"bufio"
	"bytes"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// tiny is a site of a few blocks, and the version before.
func tiny() (old, site []blockstore.Block) {
	return pages(9, 20, "May 12"), pages(9, 20, "October 7")
}

// goodFrames are good ones of each type, by name.
func goodFrames(f testing.TB) map[string][]byte {
	_, site := tiny()
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	root := site[0]
	body := enc.body([]piece{
		{kind: kindBlock, bytes: root.Data()}, {kind: kindBlock, bytes: site[1].Data()},
	}, levelFast)
	plain := enc.body([]piece{
		{kind: kindDelta, bytes: []byte{0, 1}}, {kind: kindStored, bytes: []byte("x")}, {kind: kindMissing},
	}, levelFast)
	addr := peer.AddrInfo{ID: peer.ID("\x00\x03abc"), Addrs: nowhere}
	return map[string][]byte{
		"hello":  appendFrame(nil, frameHello),
		"open":   appendOpen(nil, open{root: root.CID(), eager: 1000}),
		"based":  appendOpen(nil, open{root: root.CID(), base: site[1].CID()}),
		"list":   appendList(nil, list{from: 3, count: 5, full: true}),
		"want":   appendSpanFrame(nil, frameWant, []span{{0, 3}, {10, 1}}),
		"cancel": appendSpanFrame(nil, frameCancel, []span{{7, 300}}),
		"get":    appendGet(nil, []cid.Cid{root.CID(), site[1].CID()}),
		"got":    appendGot(nil, 300),
		"opened": appendOpened(nil, opened{status: statusBased, others: 7}),
		"index":  appendIndex(nil, 2, true, true, body),
		"have":   appendHave(nil, true, []span{{1, 2}}),
		"data":   appendData(nil, 300, plain),
		"miss":   appendSpanFrame(nil, frameMiss, []span{{0, 1}}),
		"later":  appendSpanFrame(nil, frameLater, []span{{0, 1}}),
		"blocks": appendBlocks(nil, body),
		"peers":  appendPeers(nil, 3, []peer.AddrInfo{addr}),
		"busy":   appendBusy(nil, time.Second),
		"huge":   {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 19},
	}
}

// FuzzFrame reads arbitrary bytes as a frame; what can be read reads the same when it is
// written again.
func FuzzFrame(f *testing.F) {
	for _, b := range goodFrames(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, body, err := readFrame(bufio.NewReader(bytes.NewReader(b)), maxAnswer)
		if err != nil {
			return
		}
		var again []byte
		var parse func([]byte) (any, error)
		switch typ {
		case frameOpen:
			parse = func(b []byte) (any, error) { return parsed(parseOpen(b)) }
			if o, err := parseOpen(body); err == nil {
				again = appendOpen(nil, o)
			}
		case frameList:
			parse = func(b []byte) (any, error) { return parsed(parseList(b)) }
			if l, err := parseList(body); err == nil {
				again = appendList(nil, l)
			}
		case frameWant, frameCancel, frameMiss, frameLater:
			parse = func(b []byte) (any, error) { return parsed(parseSpanFrame(b)) }
			if s, err := parseSpanFrame(body); err == nil {
				ascending(t, s)
				again = appendSpanFrame(nil, typ, s)
			}
		case frameHave:
			type have struct {
				all   bool
				spans []span
			}
			parse = func(b []byte) (any, error) {
				all, spans, err := parseHave(b)
				return have{all, spans}, err
			}
			if all, s, err := parseHave(body); err == nil {
				ascending(t, s)
				again = appendHave(nil, all, s)
			}
		case frameGet:
			parse = func(b []byte) (any, error) { return parsed(parseGet(b)) }
			if c, err := parseGet(body); err == nil {
				again = appendGet(nil, c)
			}
		case frameGot:
			parse = func(b []byte) (any, error) { return parsed(parseGot(b)) }
			if n, err := parseGot(body); err == nil {
				again = appendGot(nil, n)
			}
		case frameOpened:
			parse = func(b []byte) (any, error) { return parsed(parseOpened(b)) }
			if o, err := parseOpened(body); err == nil {
				again = appendOpened(nil, o)
			}
		case frameIndex:
			parse = func(b []byte) (any, error) { return parsed(parseIndex(b)) }
			if a, err := parseIndex(body); err == nil {
				again = appendIndex(nil, a.first, a.full, a.last, a.body)
			}
		case frameData:
			parse = func(b []byte) (any, error) { return parsed(parseData(b)) }
			if a, err := parseData(body); err == nil {
				again = appendData(nil, a.first, a.body)
			}
		case frameBlocks:
			parse = func(b []byte) (any, error) { return parsed(parseBlocks(b)) }
			if a, err := parseBlocks(body); err == nil {
				again = appendBlocks(nil, a.body)
			}
		case framePeers:
			type named struct {
				others int
				peers  []peer.AddrInfo
			}
			parse = func(b []byte) (any, error) {
				others, peers, err := parsePeers(b)
				return named{others, peers}, err
			}
			if others, p, err := parsePeers(body); err == nil {
				again = appendPeers(nil, others, p)
			}
		case frameBusy:
			parse = func(b []byte) (any, error) { return parsed(parseBusy(b)) }
			if d, err := parseBusy(body); err == nil {
				again = appendBusy(nil, d)
			}
		default:
			return
		}
		want, err := parse(body)
		if (err == nil) != (again != nil) {
			t.Fatalf("read once, and once not: %v", err)
		}
		if err != nil {
			if !errors.Is(err, errProtocol) {
				t.Fatalf("the error is not the peer's fault: %v", err)
			}
			return
		}
		typ2, body2, err := readFrame(bufio.NewReader(bytes.NewReader(again)), maxAnswer)
		if err != nil || typ2 != typ {
			t.Fatalf("written again it cannot be read: %v", err)
		}
		got, err := parse(body2)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	})
}

func parsed[T any](v T, err error) (any, error) { return v, err }

func ascending(t *testing.T, spans []span) {
	at := 0
	for _, s := range spans {
		if s.first < at || s.n < 1 || s.end() > maxLeaves {
			t.Fatalf("spans %v", spans)
		}
		at = s.end()
	}
}

// FuzzPieces decodes arbitrary bytes as a body, and packs again what came out.
func FuzzPieces(f *testing.F) {
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range goodFrames(f) {
		if _, body, err := readFrame(bufio.NewReader(bytes.NewReader(b)), maxAnswer); err == nil {
			f.Add(body)
		}
	}
	for _, n := range []int{10, 1000, maxRaw, maxRaw + 1} {
		f.Add(append(uvarints(1, encodingZstd, uint64(min(n, maxRaw))), bomb(n, true)...))
	}
	same := func(a, b piece) bool { return a.kind == b.kind && bytes.Equal(a.bytes, b.bytes) }
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseBlocks(b)
		if err != nil {
			return
		}
		pieces, err := a.body.pieces(dec, make([]byte, 0, 100))
		if err != nil {
			return
		}
		if len(pieces) != a.body.count {
			t.Fatalf("%d pieces of %d", len(pieces), a.body.count)
		}
		total := 0
		for _, p := range pieces {
			if p.kind > kindMissing || len(p.bytes) > blockstore.MaxBlockSize {
				t.Fatalf("piece of kind %d, of %d bytes", p.kind, len(p.bytes))
			}
			total += len(p.bytes)
		}
		if total > maxRaw {
			t.Fatalf("%d bytes", total)
		}
		for _, l := range []level{levelStored, levelFast} {
			again, err := enc.body(pieces, l).pieces(dec, nil)
			if err != nil || !slices.EqualFunc(pieces, again, same) {
				t.Fatalf("packed again they are others: %v", err)
			}
		}
	})
}

// FuzzSession fetches from a provider that says arbitrary bytes after HELLO and OPENED.
// The fetch has to go on, and to store nothing but blocks of the site.
func FuzzSession(f *testing.F) {
	old, site := tiny()
	all := append(slices.Clone(old), site...)
	root := site[0].CID()
	n := newNode(f, old...)
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	a := &actor{held: hold(all...), enc: enc}
	server, err := NewServer(newHost(f), a.held, testLog(f))
	if err != nil {
		f.Fatal(err)
	}
	if a.order, err = buildOrder(f.Context(), a.held, root, cid.Undef); err != nil {
		f.Fatal(err)
	}
	for _, b := range goodFrames(f) {
		f.Add(b)
	}
	index := a.nodes(list{})
	f.Add(index)
	f.Add(concat(index, a.leaves([]span{{0, 20}})))
	few := appendData(nil, 0, enc.body(a.pieces(span{0, 3}), levelStored))
	f.Add(concat(index, few, appendSpanFrame(nil, frameMiss, []span{{3, 4}})))
	f.Add(concat(index, appendData(nil, 15, enc.body(make([]piece, 20), levelFast))))
	f.Add(concat(appendData(nil, 5, enc.body(make([]piece, 20), levelFast)), index))
	deltas := slices.Repeat([]piece{{kind: kindDelta, bytes: []byte{0, 1}}}, 20) // of no base
	f.Add(concat(index, appendData(nil, 0, enc.body(deltas, levelFast))))
	lie := wrongData(func(_ *actor, _ int, p piece) piece { return wrong(p) })
	f.Add(concat(index, lie(a, []span{{0, 20}})))
	f.Add(concat(appendHave(nil, false, []span{{0, 5}}), index, appendBusy(nil, time.Second)))
	f.Fuzz(func(t *testing.T, b []byte) {
		n.client.log, server.log = testLog(t), testLog(t)
		in := concat(hello, a.opens(open{}), b)
		store := newStore(t)
		ft := newFetch(n.client, Request{Store: store, Root: root, Timeout: 20 * time.Second})
		ft.swarm = n.server.swarms.enter(root)
		defer n.server.swarms.leave(ft.swarm)
		var tasks sync.WaitGroup
		do := func(do func() error) {
			tasks.Go(func() {
				if err := ft.failing(do); err != nil && !errors.Is(err, errFinished) {
					t.Error(err)
				}
			})
		}
		do(ft.work)
		do(ft.work)
		do(ft.number)
		tasks.Go(ft.watch)
		<-ft.needed
		session := func(p peer.ID, st network.Stream) *session {
			s := newSession(ft, p, st)
			ft.mu.Lock()
			ft.sessions[s] = struct{}{}
			ft.mu.Unlock()
			s.run(t.Context())
			ft.mu.Lock()
			defer ft.mu.Unlock()
			delete(ft.sessions, s)
			for _, task := range ft.pool.all {
				if task != nil && slices.Contains(task.owers, s) {
					t.Errorf("leaves %v are owed by who is gone", task.span)
				}
			}
			if s.owedSize != 0 || len(s.owed) != 0 || s.err == nil {
				t.Errorf("%d bytes are owed, %v", s.owedSize, s.err)
			}
			return s
		}
		session("hostile", &replay{wire: wire{Reader: bytes.NewReader(in)}, asked: make(chan struct{})})
		// An honest provider completes it, whatever was said before.
		mine, others := pipes()
		tasks.Go(func() { server.serve(others, &network.NullScope{}, "mirror") })
		session("honest", mine)
		tasks.Wait()
		if ft.shared {
			ft.swarm.end(ft.err == nil)
		}
		if ft.err != nil {
			t.Errorf("the fetch failed: %v", ft.err)
		}
		for _, b := range site {
			if _, err := store.Get(t.Context(), b.CID()); err != nil {
				t.Error(err)
			}
		}
		if got := store.Stats().Blocks; got != len(site) {
			t.Errorf("%d blocks are held, want %d", got, len(site))
		}
		if n.client.bans.has("honest") {
			t.Error("the honest provider is banned")
		}
		n.client.bans = newBans()
	})
}
