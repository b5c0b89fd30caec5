package exchange

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
)

// TestMostAreHostile has two honest providers among eighteen hostile ones that come
// first.
func TestMostAreHostile(t *testing.T) {
	site := newTree(81, 4, 30)
	names := []string{
		"wrong leaf", "wrong node", "stored, and another block", "body longer than announced",
		"zstd without end in the body, of many frames", "leaves that nobody asked for",
		"nodes without end", "leaves before nodes", "MISS", "MISS for each", "LATER", "OPENED 0",
		"HAVE of nothing", "no answer to OPEN", "no answer to WANT", "gone in a frame", "lies and is gone",
		"PEERS of itself and the fetcher",
	}
	mirror := newNode(t)
	var actors []*actor
	candidates := make(chan Candidate, len(names)+2)
	for _, s := range scripts() {
		if slices.Contains(names, s.name) {
			a := newActor(t, s, site.root(), cid.Undef, site.blocks...)
			actors = append(actors, a)
			candidates <- Candidate{a.info(), true}
		}
	}
	if len(actors) != len(names) {
		t.Fatalf("%d hostile providers, want %d", len(actors), len(names))
	}
	honest := []*node{newNode(t, site.blocks...), newNode(t, site.blocks...)}
	for _, n := range honest {
		candidates <- Candidate{n.info(), true}
	}
	if _, err := mirror.client.Fetch(limit(t), Request{Store: mirror.store, Root: site.root()}, candidates); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	for _, n := range honest {
		if mirror.client.bans.has(n.ID()) {
			t.Error("an honest provider is banned")
		}
	}
	for _, a := range actors {
		if mirror.client.bans.has(a.ID()) && !a.banned {
			t.Errorf("%s: is banned", a.name)
		}
	}
}

// TestAllLiarsAreBanned has many lie about leaves, and two honest providers that come when all
// of those have: they are banned, and nobody else is.
func TestAllLiarsAreBanned(t *testing.T) {
	site := newTree(86, 4, 30)
	mirror := newNode(t)
	var liars []*actor
	candidates := make(chan Candidate, 100)
	for _, s := range scripts() {
		if s.banned && !s.based && s.want != nil {
			a := newActor(t, s, site.root(), cid.Undef, site.blocks...)
			liars = append(liars, a)
			candidates <- Candidate{a.info(), true}
		}
	}
	honest := []*node{newNode(t, site.blocks...), newNode(t, site.blocks...)}
	ctx := limit(t)
	go func() {
		for _, a := range liars {
			select {
			case <-a.acted:
			case <-ctx.Done():
			}
		}
		for _, n := range honest {
			candidates <- Candidate{n.info(), true}
		}
	}()
	if _, err := mirror.client.Fetch(ctx, Request{Store: mirror.store, Root: site.root()}, candidates); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	for _, a := range liars {
		if !mirror.client.bans.has(a.ID()) {
			t.Errorf("%s: is not banned", a.name)
		}
	}
	for _, n := range honest {
		if mirror.client.bans.has(n.ID()) {
			t.Error("an honest provider is banned")
		}
	}
}

// TestALieCostsAFrame has a provider lie in all that it sends, for as long as it is
// believed: no more of it is taken than one frame for each worker and those that were on
// their way, and what an honest provider sends comes once.
func TestALieCostsAFrame(t *testing.T) {
	site := newTree(82, 10, 40)
	var lies atomic.Int64
	liar := newActor(t, script{want: func(a *actor, spans []span) []byte {
		lies.Add(1)
		return wrongData(func(_ *actor, _ int, p piece) piece { return wrong(p) })(a, spans)
	}}, site.root(), cid.Undef, site.blocks...)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	candidates := make(chan Candidate, 2)
	candidates <- Candidate{liar.info(), true}
	go func() {
		<-liar.acted
		candidates <- Candidate{seed.info(), true}
	}()
	res, err := mirror.client.Fetch(limit(t), Request{Store: mirror.store, Root: site.root()}, candidates)
	if err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site.blocks)
	if n := liar.streams.Load(); n != 1 {
		t.Errorf("the liar was asked %d times", n)
	}
	if max := site.bytes + liar.sent.Load() + site.bytes/10; res.Received > max {
		t.Errorf("%d bytes were received for %d and %d of lies", res.Received, site.bytes, liar.sent.Load())
	}
	// It was asked for what its window allowed, if it packed as well as most, and a segment.
	if n := liar.sent.Load(); n > firstWindow/firstRatio+segmentBytes {
		t.Errorf("the liar sent %d bytes", n)
	}
	// Once banned it is not asked at all.
	again := newTree(83, 1, 1)
	if err := seed.store.Put(again.blocks...); err != nil {
		t.Fatal(err)
	}
	if _, err := mirror.fetch(limit(t), Request{Root: again.root()}, liar.info(), seed.info()); err != nil {
		t.Fatal(err)
	}
	if n := liar.streams.Load(); n != 1 {
		t.Errorf("the liar was asked %d times", n)
	}
}

// TestSameLeafAgain has a provider send the same leaf unasked a thousand times, which it may as
// far as it may send any, and no other. The rest comes from an honest one, and each leaf counts
// once.
func TestSameLeafAgain(t *testing.T) {
	site := small(100)
	root := site[0].CID()
	honest, mirror := newNode(t, site...), newNode(t)
	evil := newActor(t, script{list: func(a *actor, l list) []byte {
		return append(a.nodes(l), bytes.Repeat(a.leaves([]span{{7, 1}}), 1000)...)
	}, want: func(*actor, []span) []byte { return nil }}, root, cid.Undef, site...)
	ctx := limit(t)
	res, err := mirror.client.Fetch(ctx, Request{Store: mirror.store, Root: root}, evil.before(ctx, honest))
	if err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site)
	if res.Blocks != len(site) || res.Bytes != size(site) {
		t.Errorf("%d blocks of %d bytes, want %d of %d", res.Blocks, res.Bytes, len(site), size(site))
	}
	if mirror.client.bans.has(evil.ID()) || mirror.client.bans.has(honest.ID()) {
		t.Error("somebody is banned")
	}
}

// recorder notes what is read.
type recorder struct {
	network.Stream
	mu   sync.Mutex
	read []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Stream.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read = append(r.read, b[:n]...)
	return n, err
}

// TestCutAnywhere records what an honest provider sends for a small site, and has another
// one send the first n bytes of that and close, for every n, before that or beside it.
func TestCutAnywhere(t *testing.T) {
	leaves := []blockstore.Block{raw("Castor"), raw("Pollux"), raw("Helen")}
	var links []dag.Link
	for _, b := range leaves[:2] {
		links = append(links, dag.Link{Name: string(b.Data()), CID: b.CID(), Size: 6})
	}
	below := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
	root := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: []dag.Link{
		{Name: "below", CID: below.CID(), Size: 12}, {Name: "Helen", CID: leaves[2].CID(), Size: 5},
	}, Data: []byte{8, 1}}.Encode())
	site := append([]blockstore.Block{root, below}, leaves...)
	server, err := NewServer(newHost(t), hold(site...), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	mirror := newNode(t)
	fetch := func(cut network.Stream, beside bool) []byte {
		t.Helper()
		store := newStore(t)
		f := newFetch(mirror.client, Request{Store: store, Root: root.CID(), Timeout: 20 * time.Second})
		f.swarm = mirror.server.swarms.enter(root.CID())
		defer mirror.server.swarms.leave(f.swarm)
		var tasks sync.WaitGroup
		for _, do := range []func() error{f.work, f.work, f.number} {
			tasks.Go(func() {
				if err := f.failing(do); err != nil && !errors.Is(err, errFinished) {
					t.Error(err)
				}
			})
		}
		tasks.Go(f.watch)
		<-f.needed
		run := func(p peer.ID, st network.Stream) {
			s := newSession(f, p, st)
			f.mu.Lock()
			f.sessions[s] = struct{}{}
			f.mu.Unlock()
			s.run(t.Context())
			f.mu.Lock()
			delete(f.sessions, s)
			f.mu.Unlock()
		}
		switch {
		case beside:
			tasks.Go(func() { run("cut", cut) })
		case cut != nil:
			run("cut", cut)
		}
		mine, others := pipes()
		tasks.Go(func() { server.serve(others, &network.NullScope{}, "mirror") })
		rec := &recorder{Stream: mine}
		run("honest", rec)
		tasks.Wait()
		if f.shared {
			f.swarm.end(f.err == nil)
		}
		if f.err != nil {
			t.Fatal(f.err)
		}
		(&node{store: store}).checkHeld(t, site)
		if mirror.client.bans.has("cut") || mirror.client.bans.has("honest") {
			t.Fatal("somebody is banned")
		}
		return rec.read
	}
	session := fetch(nil, false)
	if len(session) < 100 {
		t.Fatalf("a session of %d bytes", len(session))
	}
	for n := range len(session) + 1 {
		for _, beside := range []bool{false, true} {
			fetch(&replay{wire: wire{Reader: bytes.NewReader(session[:n])}, asked: make(chan struct{})}, beside)
			if t.Failed() {
				t.Fatalf("cut after %d of %d bytes, beside the honest one: %v", n, len(session), beside)
			}
		}
	}
}

// TestCutRequests records what a fetcher asks for, and has others ask the first n bytes of that
// and then end the stream, in either way, for every n: nothing of them is left at the provider,
// and the next fetcher is served.
func TestCutRequests(t *testing.T) {
	old, site := tiny()
	both, h := slices.Concat(old, site), newHost(t)
	synctest.Test(t, func(t *testing.T) {
		seed := nodeOn(t, h, nil, hold(both...))
		var serves sync.WaitGroup
		open := func() network.Stream {
			mine, others := pipes()
			serves.Go(func() { seed.server.handle(others) })
			return mine
		}
		fetch := func() []byte {
			rec := &recorder{}
			store := newStore(t)
			if err := store.Put(old...); err != nil {
				t.Fatal(err)
			}
			mirror := nodeOn(t, near{h, "mirror", streams{"seed": func(st network.Stream, _ peer.ID) {
				rec.Stream = st
				seed.server.handle(rec)
			}}}, store, store)
			req := Request{Root: site[0].CID(), Bases: []cid.Cid{old[0].CID()}}
			if _, err := mirror.fetch(t.Context(), req, peer.AddrInfo{ID: "seed"}); err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, both)
			quiet(t, seed.server)
			return rec.read
		}
		session := fetch()
		if len(session) < 100 {
			t.Fatalf("a session of %d bytes", len(session))
		}
		for n := range len(session) + 1 {
			for _, end := range []func(network.Stream) error{network.Stream.CloseWrite, network.Stream.Reset} {
				st := open()
				go io.Copy(io.Discard, st)
				st.Write(session[:n])
				end(st)
				began := time.Now()
				serves.Wait()
				if took := time.Since(began); took > 0 {
					t.Errorf("cut after %d of %d bytes: served for %v more", n, len(session), took)
				}
				quiet(t, seed.server)
			}
		}
		for p, turn := range seed.server.slots.taken {
			if !turn.gone {
				t.Errorf("%q has a slot", p)
			}
		}
		fetch()
		settle(t, seed.server)
	})
}

// TestHostileGet asks for a single block from hostile peers first.
func TestHostileGet(t *testing.T) {
	site := newTree(84, 1, 2)
	block := site.blocks[1]
	only := func(p piece) func(*actor, []cid.Cid) []byte {
		return func(a *actor, _ []cid.Cid) []byte {
			return appendBlocks(nil, a.enc.body([]piece{p}, levelFast))
		}
	}
	for _, s := range []script{
		{name: "wrong block", banned: true, get: only(wrong(piece{kind: kindBlock, bytes: block.Data()}))},
		{name: "delta", banned: true, get: only(piece{kind: kindDelta, bytes: []byte{0, 1}})},
		{name: "stored, and no zstd", banned: true, get: only(piece{kind: kindStored, bytes: []byte("no")})},
		{name: "stored without end", banned: true, get: only(piece{kind: kindStored, bytes: bomb(64<<20, true)})},
		{name: "broken body", banned: true, get: func(*actor, []cid.Cid) []byte {
			return appendFrame(nil, frameBlocks, uvarints(1), []byte{encodingZstd}, uvarints(10), []byte("no zstd"))
		}},
		{name: "missing", get: only(piece{kind: kindMissing})},
		{name: "two blocks", get: func(a *actor, c []cid.Cid) []byte { return a.blocks(append(c, c...)) }},
		{name: "no blocks", get: func(a *actor, c []cid.Cid) []byte { return a.blocks(nil) }},
		{name: "another frame", get: func(*actor, []cid.Cid) []byte { return appendHave(nil, true, nil) }},
		{name: "nothing", get: func(*actor, []cid.Cid) []byte { return nil }},
		{name: "gone", gone: true, get: func(*actor, []cid.Cid) []byte { return nil }},
		{name: "half", deaf: true, get: func(a *actor, c []cid.Cid) []byte { b := a.blocks(c); return b[:len(b)/2] }},
		{name: "no HELLO", hello: func(*actor) []byte { return appendHave(nil, true, nil) }},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			evil := newActor(t, s, site.root(), cid.Undef, site.blocks...)
			seed, mirror := newNode(t, site.blocks...), newNode(t)
			ctx := limit(t)
			candidates := evil.before(ctx, seed)
			if err := mirror.client.Get(ctx, GetRequest{Store: mirror.store, CID: block.CID()}, candidates); err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, []blockstore.Block{block})
			if got := mirror.client.bans.has(evil.ID()); got != s.banned {
				t.Errorf("banned: %v, want %v", got, s.banned)
			}
			if mirror.client.bans.has(seed.ID()) {
				t.Error("the honest peer is banned")
			}
		})
	}
}

// fullDisk takes no more bytes.
type fullDisk struct{ blockstore.FS }

var errFull = errors.New("no space left on device")

func (fullDisk) Create(string) (blockstore.File, error) { return nil, errFull }

// TestFullDisk fails to store what arrived: the fetch says so, also if it is found out
// when all has arrived. Nobody is banned for it.
func TestFullDisk(t *testing.T) {
	dir, err := blockstore.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store, err := blockstore.Open(fullDisk{dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, site := range []tree{newTree(85, 1, 1), newTree(85, 20, 40)} {
		seed, mirror := newNode(t, site.blocks...), newNode(t)
		if _, err := mirror.fetch(limit(t), Request{Root: site.root(), Store: store}, seed.info()); !errors.Is(err, errFull) {
			t.Errorf("err = %v", err)
		}
		if mirror.client.bans.has(seed.ID()) {
			t.Error("the seed is banned")
		}
	}
}
