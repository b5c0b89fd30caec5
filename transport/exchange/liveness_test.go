package exchange

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/blockstore"
	"pollux/dag"
)

// These tests are about a fetch that must end because an honest provider is there.
// What they would do otherwise is hang, up to this limit.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// pausing is a store that takes its time, once.
type pausing struct {
	Getter
	at    cid.Cid
	pause time.Duration
}

func (p *pausing) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if c.Equals(p.at) {
		time.Sleep(p.pause)
		p.pause = 0
	}
	return p.Getter.Get(ctx, c)
}

// TestHiccup lets the only provider pause for longer than it takes to count as
// stalled, and then answer everything at once.
func TestHiccup(t *testing.T) {
	tr := newTree(6, 4, 4)
	store := newStore(t)
	if err := store.Put(tr.blocks...); err != nil {
		t.Fatal(err)
	}
	h := serving(t, &pausing{store, tr.root(), stallAfter + 300*time.Millisecond})
	c, got := newClient(t)
	if _, err := c.Fetch(limit(t), Request{Root: tr.root()}, candidates(h)); err != nil {
		t.Fatal(err)
	}
	wantTree(t, got, tr)
}

// TestBadBlockThenGone lets a liar hang up right after its lie, while an honest
// provider has nothing to do.
func TestBadBlockThenGone(t *testing.T) {
	b := blockstore.Sum(cid.Raw, []byte("the only block"))
	honest := provider(t, b)
	for range 10 {
		liar := evil(t, func(st network.Stream) {
			st.Write(appendFrame(nil, frameHello))
			readWants(st, func(cids []cid.Cid) {
				st.Write(appendFrame(nil, frameData, uvarints(1), []byte{encodingPlain}, uvarints(3), []byte("lie")))
				st.Close()
			})
		})
		c, store := newClient(t)
		if _, err := c.Fetch(limit(t), Request{Root: b.CID()}, candidates(liar, honest)); err != nil {
			t.Fatal(err)
		}
		if ok, err := store.Has(b.CID()); !ok {
			t.Fatal("not stored: ", err)
		}
	}
}

// TestDeafPeer puts the nearest provider out of action: it answers what it was
// asked first and reads no more.
func TestDeafPeer(t *testing.T) {
	tr := newTree(7, 3, 200)
	deaf := evil(t, func(st network.Stream) {
		st.Write(appendFrame(nil, frameHello))
		st.Write(appendMiss(nil, 1))
		time.Sleep(time.Minute)
	})
	c, store := newClient(t)
	if _, err := c.Fetch(limit(t), Request{Root: tr.root()}, candidates(deaf, provider(t, tr.blocks...))); err != nil {
		t.Fatal(err)
	}
	wantTree(t, store, tr)
}

// TestManyCandidates buries an honest provider among more peers that cannot be
// reached than are remembered.
func TestManyCandidates(t *testing.T) {
	tr := newTree(8, 2, 2)
	all := make(chan Candidate, maxCandidates+50)
	nowhere := ma.StringCast("/ip4/127.0.0.1/tcp/1")
	for range maxCandidates + 49 {
		id, err := test.RandPeerID()
		if err != nil {
			t.Fatal(err)
		}
		all <- Candidate{peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{nowhere}}, true}
	}
	h := provider(t, tr.blocks...)
	all <- Candidate{peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}, true}
	c, store := newClient(t)
	if _, err := c.Fetch(limit(t), Request{Root: tr.root()}, all); err != nil {
		t.Fatal(err)
	}
	wantTree(t, store, tr)
}

// TestCandidatesAreTaken feeds candidates to a fetch that needs none: whoever
// finds them must not have to wait.
func TestCandidatesAreTaken(t *testing.T) {
	store := newStore(t)
	h := newHost(t)
	c := clientOf(t, h, blocking{store, make(chan struct{})})
	ctx := limit(t)
	all := make(chan Candidate)
	done := make(chan error)
	go func() {
		_, err := c.Fetch(ctx, Request{Root: blockstore.Sum(cid.Raw, nil).CID()}, all)
		done <- err
	}()
	for range 2 * maxCandidates {
		id, err := test.RandPeerID()
		if err != nil {
			t.Fatal(err)
		}
		select {
		case all <- Candidate{AddrInfo: peer.AddrInfo{ID: id}}:
		case <-ctx.Done():
			t.Fatal("a candidate is not taken")
		}
	}
	if n := len(h.Network().Peers()); n != 0 {
		t.Errorf("%d peers were dialled for nothing", n)
	}
	close(c.store.(blocking).until) // and it turns out that the block is held
	if err := <-done; err != nil {
		t.Errorf("err = %v", err)
	}
}

// blocking is a store in which nothing is found out.
type blocking struct {
	Store
	until chan struct{}
}

func (b blocking) Has(cid.Cid) (bool, error) {
	<-b.until
	return true, nil
}

// TestTwoCodecs has a file whose bytes are a directory that is linked, too.
func TestTwoCodecs(t *testing.T) {
	leaf := blockstore.Sum(cid.Raw, []byte("leaf"))
	node := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: []dag.Link{{Name: "leaf", CID: leaf.CID(), Size: 4}}}.Encode())
	file := blockstore.Sum(cid.Raw, node.Data())
	root := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: []dag.Link{
		{Name: "a", CID: file.CID()}, {Name: "b", CID: node.CID()},
	}}.Encode())
	c, store := newClient(t)
	if _, err := c.Fetch(limit(t), Request{Root: root.CID()}, candidates(provider(t, leaf, node, root))); err != nil {
		t.Fatal(err)
	}
	if err := dag.Walk(t.Context(), store, root.CID(), func(c cid.Cid) error {
		_, err := store.Get(t.Context(), c)
		return err
	}); err != nil {
		t.Error(err)
	}
}

// fullDisk takes no more bytes.
type fullDisk struct{ blockstore.FS }

var errFull = errors.New("no space left on device")

func (fullDisk) Create(string) (blockstore.File, error) { return nil, errFull }

// TestFullDisk fails to store what arrived: the fetch says so, also if it is found
// out when all has arrived.
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
	for _, tr := range []tree{newTree(9, 1, 1), newTree(9, 20, 40)} {
		c := clientOf(t, newHost(t), store)
		if _, err := c.Fetch(limit(t), Request{Root: tr.root()}, candidates(provider(t, tr.blocks...))); !errors.Is(err, errFull) {
			t.Errorf("err = %v", err)
		}
	}
}

// counting counts what is read from a store.
type counting struct {
	Getter
	n atomic.Int64
}

func (c *counting) Get(ctx context.Context, id cid.Cid) (blockstore.Block, error) {
	c.n.Add(1)
	return c.Getter.Get(ctx, id)
}

// TestNearestFirst has a near provider, and one whose answers take a while: but for
// the first blocks, which may be asked for before anything was measured, all comes
// from the near one as long as it has nothing else to do.
func TestNearestFirst(t *testing.T) {
	tr := newTree(11, 1, 10)
	store := newStore(t)
	if err := store.Put(tr.blocks...); err != nil {
		t.Fatal(err)
	}
	far := &counting{Getter: store}
	s, err := NewServer(far, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := evil(t, func(st network.Stream) {
		time.Sleep(700 * time.Millisecond)
		s.handle(st)
	})
	c, got := newClient(t)
	if _, err := c.Fetch(limit(t), Request{Root: tr.root()}, candidates(h, provider(t, tr.blocks...))); err != nil {
		t.Fatal(err)
	}
	wantTree(t, got, tr)
	if n := far.n.Load(); n > 2 {
		t.Errorf("%d of %d blocks came from the far provider", n, len(tr.blocks))
	}
}
