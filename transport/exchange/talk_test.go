package exchange

import (
	"bufio"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// TestSecondOpenUnanswered updates from a seed beside a nearer peer that answers the first
// OPEN, not the second with the base, and then only says what it holds, over and over.
func TestSecondOpenUnanswered(t *testing.T) {
	old, site := newTree(101, 3, 30), newTree(102, 3, 30)
	seed, mirror := newNode(t, site.blocks...), newNode(t, old.blocks...)
	have := appendHave(nil, true, []span{{1, 1}, {3, 1}, {5, 1}})
	talker := newHost(t)
	talker.SetStreamHandler(Protocol, func(st network.Stream) {
		defer st.Reset()
		st.Write(hello)
		r := bufio.NewReader(st)
		for opens := 0; ; {
			typ, _, err := readFrame(r, maxRequest)
			switch {
			case err != nil:
				return
			case typ != frameOpen:
			case opens == 0:
				opens++
				st.Write(append(appendOpened(nil, opened{status: statusOpen}), have...))
			default:
				for {
					if _, err := st.Write(have); err != nil {
						return
					}
					time.Sleep(300 * time.Millisecond)
				}
			}
		}
	})
	far := newLink(t, 10*time.Millisecond)
	req := Request{Root: site.root(), Bases: []cid.Cid{old.root()}}
	info := peer.AddrInfo{ID: talker.ID(), Addrs: talker.Addrs()}
	if _, err := mirror.fetch(limit(t), req, info, far.to(t, seed)); err != nil {
		t.Fatal(err)
	}
	for _, b := range site.blocks {
		if ok, err := mirror.store.Has(b.CID()); !ok || err != nil {
			t.Fatalf("a block is missing, %v", err)
		}
	}
}

// talker returns a peer that says as often as it may that it has what a has, and brings no
// leaf of it, and a node after each pause.
func talker(a *actor, pause time.Duration) func(network.Stream, peer.ID) {
	have := appendHave(nil, true, every(maxSpans, 2))
	return func(st network.Stream, _ peer.ID) {
		defer st.Reset()
		time.Sleep(20 * time.Millisecond) // it is not the nearest
		st.Write(hello)
		r := bufio.NewReader(st)
		for {
			typ, body, err := readFrame(r, maxRequest)
			if err != nil {
				return
			}
			switch typ {
			case frameOpen:
				st.Write(a.opens(open{}))
				go func() {
					for err := error(nil); err == nil; {
						time.Sleep(time.Second / newsRate)
						_, err = st.Write(have)
					}
				}()
			case frameList:
				l, _ := parseList(body)
				for i := l.from; i < min(l.from+l.count, a.order.nodeCount(l.full)); i++ {
					time.Sleep(pause)
					st.Write(a.nodes(list{i, 1, l.full}))
				}
			}
		}
	}
}

// TestTalkers fetches from a seed that comes after peers that say what they hold over and
// over, and bring next to nothing. It does not have to wait until they count as slow.
func TestTalkers(t *testing.T) {
	for name, tt := range map[string]struct {
		site    []blockstore.Block
		talkers int
		pause   time.Duration
	}{
		"no leaves, in all places": {newTree(105, 1, 60).blocks, maxActive, 0},
		"a node in a second":       {chain(60), 1, time.Second},
		"nodes now and then":       {chain(120), 1, firstStall - 10*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			synctest.Test(t, func(t *testing.T) {
				a := &actor{held: hold(tt.site...)}
				root := tt.site[0].CID()
				var err error
				if a.enc, err = newEncoder(); err != nil {
					t.Fatal(err)
				}
				if a.order, err = buildOrder(t.Context(), a.held, root, cid.Undef); err != nil {
					t.Fatal(err)
				}
				seed, store := nodeOn(t, h, nil, a.held), newStore(t)
				to := streams{seed.ID(): seed.near}
				candidates := make(chan Candidate, tt.talkers+1)
				for i := range tt.talkers {
					id := peer.ID(rune('a' + i))
					to[id] = talker(a, tt.pause)
					candidates <- Candidate{peer.AddrInfo{ID: id}, true}
				}
				time.AfterFunc(time.Second/10, func() { candidates <- Candidate{seed.info(), true} })
				mirror := nodeOn(t, near{h, "mirror", to}, store, store)
				began := time.Now()
				req := Request{Store: store, Root: root}
				if _, err := mirror.client.Fetch(limit(t), req, candidates); err != nil {
					t.Error(err)
				}
				took := time.Since(began)
				time.Sleep(time.Minute) // until nobody is served any more
				mirror.checkHeld(t, tt.site)
				if took >= dropAfter {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestOthersLeave tells a fetcher of others, and that they have left.
func TestOthersLeave(t *testing.T) {
	site := newTree(103, 3, 30)
	seed := newNode(t, site.blocks...)
	f := dial(t, newHost(t), seed)
	if _, err := f.Write(opening(site.root())); err != nil {
		t.Fatal(err)
	}
	told := func(want int) {
		t.Helper()
		f.SetReadDeadline(time.Now().Add(20 * time.Second))
		for {
			_, body, err := f.next(framePeers)
			if err != nil {
				t.Fatalf("it is not told that there are %d others: %v", want, err)
			}
			if n, _, err := parsePeers(body); err != nil {
				t.Fatal(err)
			} else if n == want {
				return
			}
		}
	}
	var others []*fetcher
	for range 4 {
		// Without an address there is nothing to be told of them but that they are there.
		o := dial(t, newHost(t, libp2p.NoListenAddrs), seed)
		if _, err := o.Write(opening(site.root())); err != nil {
			t.Fatal(err)
		}
		others = append(others, o)
	}
	told(4)
	for _, o := range others {
		o.Reset()
	}
	told(0)
}

// TestGetBesideSilent gets a block where more peers than are asked at a time say HELLO and
// nothing else.
func TestGetBesideSilent(t *testing.T) {
	site := newTree(104, 1, 2)
	seed, mirror := newNode(t, site.blocks...), newNode(t)
	const silent = 2 * getActive
	candidates := make(chan Candidate, silent+1)
	for range silent {
		a := newActor(t, script{get: func(*actor, []cid.Cid) []byte { return nil }}, site.root(), cid.Undef, site.blocks...)
		candidates <- Candidate{a.info(), true}
	}
	candidates <- Candidate{seed.info(), true}
	block := site.blocks[1]
	req := GetRequest{Store: mirror.store, CID: block.CID(), Timeout: dropAfter}
	if err := mirror.client.Get(limit(t), req, candidates); err != nil {
		t.Fatal(err)
	}
	if ok, err := mirror.store.Has(block.CID()); !ok || err != nil {
		t.Fatalf("the block is missing, %v", err)
	}
}
