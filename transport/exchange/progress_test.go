package exchange

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
)

// small is a site of many leaves of a few bytes.
func small(n int) []blockstore.Block {
	blocks := make([]blockstore.Block, 1, n+1)
	var links []dag.Link
	for i := range n {
		b := blockstore.Sum(cid.Raw, fmt.Appendf(nil, "%08d", i))
		blocks = append(blocks, b)
		links = append(links, dag.Link{Name: fmt.Sprintf("%08d", i), CID: b.CID(), Size: 8})
	}
	blocks[0] = blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
	return blocks
}

// TestFragments fetches a site of which every second leaf is held, in more pieces than a
// provider lets be asked for at a time.
func TestFragments(t *testing.T) {
	site := small(16_000)
	seed, mirror := newNode(t, site...), newNode(t)
	for i := 0; i < len(site); i += 2 {
		if err := mirror.store.Put(site[i]); err != nil {
			t.Fatal(err)
		}
	}
	req := Request{Root: site[0].CID(), Timeout: 20 * time.Second}
	if _, err := mirror.fetch(t.Context(), req, seed.info()); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site)
}

// TestFragmentsOfPeers fetches a site of which two peers have every second leaf each.
func TestFragmentsOfPeers(t *testing.T) {
	site := small(12_000)
	mirror := newNode(t)
	var infos []peer.AddrInfo
	for k := range 2 {
		n := newNode(t, site[0])
		for i := 1; i < len(site); i++ {
			if i%2 == k {
				if err := n.store.Put(site[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
		infos = append(infos, n.info())
	}
	req := Request{Root: site[0].CID(), Timeout: 20 * time.Second}
	if _, err := mirror.fetch(t.Context(), req, infos...); err != nil {
		t.Fatal(err)
	}
	mirror.checkHeld(t, site)
}

// idleFetch is a Fetch with n tasks of a leaf each, and sessions that hold everything.
func idleFetch(t *testing.T, n, sessions int) (*Fetch, []*session) {
	t.Helper()
	f := newFetch(newNode(t).client, Request{Root: blockstore.Sum(cid.Raw, nil).CID()})
	for i := range n {
		s := dag.Step{CID: blockstore.Sum(cid.Raw, fmt.Append(nil, i)).CID(), Size: segmentBytes}
		done, ok, err := f.order.addLeaf(s)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		f.left++
		f.add(done, 1, segmentBytes)
	}
	f.order.finish()
	var list []*session
	for i := range sessions {
		s := newSession(f, peer.ID(fmt.Sprint(i)), nil)
		s.opened, s.opens, s.all, s.rtt = true, 1, true, 10*time.Millisecond
		f.sessions[s] = struct{}{}
		list = append(list, s)
	}
	return f, list
}

// TestDoneTasksLeave has a stall offer what arrives after all.
func TestDoneTasksLeave(t *testing.T) {
	f, s := idleFetch(t, 10, 1)
	s[0].want(nil)
	f.pool.put(s[0].owed[0].task)
	a := answer{first: 0, body: body{count: 1}}
	f.settle(arrival{session: s[0], answer: a, tasks: f.tasks(span{0, 1})}, []int{1})
	if slices.ContainsFunc(f.pool.queue, func(t *task) bool { return t.left == 0 }) {
		t.Error("a task that is done waits in the pool")
	}
}

// TestTrickle takes a task from a peer that sends a little all the time.
func TestTrickle(t *testing.T) {
	_, s := idleFetch(t, 1, 2)
	s[0].want(nil)
	if len(s[0].owed) != 1 {
		t.Fatal("nothing was asked for")
	}
	if len(s[1].want(nil)) != 0 {
		t.Fatal("it was asked for twice at once")
	}
	s[0].owed[0].asked = time.Now().Add(-time.Minute)
	if len(s[1].want(nil)) == 0 {
		t.Error("a peer that had nothing to do did not take it over")
	}
}

// TestNearerFirst leaves what is to be asked for to a nearer peer that has room for it, and
// asks for it at once if there is none.
func TestNearerFirst(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(f *Fetch, near, far *session)
		asks bool // the one that is farther away
	}{
		{name: "waits", do: func(*Fetch, *session, *session) {}},
		{name: "has just asked", do: func(_ *Fetch, near, _ *session) {
			near.waiting, near.askedLast = false, time.Now().Add(time.Hour)
		}},
		{name: "is about to be asked", do: func(_ *Fetch, _, far *session) { far.rtt = 0 }},
		{name: "asked long ago", do: func(_ *Fetch, near, _ *session) {
			near.waiting, near.askedLast = false, time.Now().Add(-backSoon)
		}, asks: true},
		{name: "is as near", do: func(_ *Fetch, near, far *session) { near.rtt = far.rtt }, asks: true},
		{name: "has no distance yet", do: func(_ *Fetch, near, _ *session) { near.rtt = 0 }, asks: true},
		{name: "lacks it", do: func(_ *Fetch, near, _ *session) { near.all = false }, asks: true},
		{name: "owes enough", do: func(_ *Fetch, near, _ *session) { near.owedSize = near.limit() }, asks: true},
		{name: "has stalled", do: func(_ *Fetch, near, _ *session) { near.stalled = true }, asks: true},
		{name: "failed to bring leaves", do: func(f *Fetch, near, _ *session) {
			f.barren[near.peer] = struct{}{}
		}, asks: true},
		{name: "has brought less", do: func(_ *Fetch, _, far *session) { far.window.rates[0] = 1e6 }, asks: true},
		{name: "is in a crowd", do: func(f *Fetch, _, _ *session) { f.crowd = true }, asks: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, s := idleFetch(t, 1, 2)
			near, far := s[0], s[1]
			near.rtt, near.waiting = far.rtt/2, true
			tt.do(f, near, far)
			if got := len(far.want(nil)) > 0; got != tt.asks {
				t.Errorf("the one that is farther away is asked: %v, want %v", got, tt.asks)
			}
		})
	}
}

// TestStalledIdle ends a session that stalled and owes nothing any more: no byte would
// say that the peer is back.
func TestStalledIdle(t *testing.T) {
	f, s := idleFetch(t, 1, 1)
	s[0].want(nil)
	s[0].stalled = true
	f.callOff(s[0].owed[0].task)
	if s[0].stream = (noStream{}); len(s[0].owed) > 0 {
		t.Fatal("it owes what was called off")
	}
	s[0].check(time.Now())
	if s[0].err == nil {
		t.Error("the session goes on")
	}
}

// noStream is a stream that can be reset.
type noStream struct{ network.Stream }

func (noStream) Reset() error { return nil }
