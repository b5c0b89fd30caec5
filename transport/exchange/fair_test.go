package exchange

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
)

// turns is a store of some sites, slower than all else, which reads one leaf at a time for
// whoever came first, and notes of which site it was. It begins when somebody waits for a
// leaf of each site that is awaited.
type turns struct {
	memStore
	site  map[cid.Cid]int // of each leaf
	turn  chan struct{}
	begin chan struct{} // closed when it begins
	await int

	mu    sync.Mutex
	came  map[int]struct{} // sites of which a leaf was asked for
	order []int            // the site of each leaf that was read
	read  func(order []int)
}

func newTurns(await int, sites ...tree) *turns {
	s := &turns{
		memStore: make(memStore), site: make(map[cid.Cid]int), await: await,
		turn: make(chan struct{}, 1), begin: make(chan struct{}),
		came: make(map[int]struct{}), read: func([]int) {},
	}
	for i, site := range sites {
		for _, b := range site.blocks {
			s.memStore[b.CID()] = b
			s.site[b.CID()] = i
		}
	}
	return s
}

// Packed waits for a turn, and takes as long as a slow disk does.
func (s *turns) Packed(ctx context.Context, c cid.Cid) ([]byte, bool, int, error) {
	s.mu.Lock()
	n := len(s.came)
	if s.came[s.site[c]] = struct{}{}; n < s.await && len(s.came) == s.await {
		close(s.begin)
	}
	s.mu.Unlock()
	select {
	case <-s.begin:
	case <-ctx.Done():
		return nil, false, 0, ctx.Err()
	}
	s.turn <- struct{}{} // who sends first is let in first
	sha256.Sum256(make([]byte, 1<<20))
	s.mu.Lock()
	s.order = append(s.order, s.site[c])
	s.read(s.order)
	s.mu.Unlock()
	<-s.turn
	return s.memStore.Packed(ctx, c)
}

// count returns how many leaves of a site are in order.
func count(order []int, site int) (n int) {
	for _, s := range order {
		if s == site {
			n++
		}
	}
	return n
}

// during is the part of order from the first to the last leaf of a site.
func during(order []int, site int) []int {
	last := len(order) - 1
	for last >= 0 && order[last] != site {
		last--
	}
	return order[max(slices.Index(order, site), 0) : last+1]
}

// fetchAll has each mirror fetch the site beside it from seed, all at once.
func fetchAll(t *testing.T, seed *node, mirrors []*node, sites []tree) {
	t.Helper()
	var tasks sync.WaitGroup
	for i, m := range mirrors {
		tasks.Go(func() {
			if _, err := m.fetch(limit(t), Request{Root: sites[i].root()}, seed.info()); err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
}

// TestFairShares fetches two sites of a size at once from a seed that can read one leaf at
// a time. When one is whole, at least a third of the other was sent too.
func TestFairShares(t *testing.T) {
	a, b := newTree(201, 8, 50), newTree(202, 40, 10)
	check := func(t *testing.T, mirrors ...*node) {
		store := newTurns(2, a, b)
		fetchAll(t, nodeWith(t, nil, store), mirrors, []tree{a, b})
		for site := range 2 {
			other := 1 - site
			if n := count(during(store.order, site), other); n < 400/3 {
				t.Errorf("when site %d was whole, %d of 400 leaves of the other had been sent", site, n)
			}
		}
	}
	t.Run("one mirror", func(t *testing.T) {
		mirror := newNode(t)
		check(t, mirror, mirror)
		mirror.checkHeld(t, slices.Concat(a.blocks, b.blocks))
	})
	t.Run("two mirrors", func(t *testing.T) {
		one, two := newNode(t), newNode(t)
		check(t, one, two)
		one.checkHeld(t, a.blocks)
		two.checkHeld(t, b.blocks)
	})
}

// TestSmallBesideLarge begins to fetch a small site when a tenth of a large one was sent,
// into the
// same store or another. A third at least of what is sent from then on is for it, until it is
// whole.
func TestSmallBesideLarge(t *testing.T) {
	large, small := newTree(203, 10, 100), newTree(204, 2, 60)
	for name, mirrors := range map[string]int{"one mirror": 1, "two mirrors": 2} {
		t.Run(name, func(t *testing.T) {
			nodes := []*node{newNode(t), newNode(t)}
			store := newTurns(1, large, small)
			begin := make(chan struct{})
			store.read = func(order []int) {
				if len(order) == 100 {
					close(begin)
				}
			}
			seed := nodeWith(t, nil, store)
			var tasks sync.WaitGroup
			tasks.Go(func() { fetchAll(t, seed, nodes[:1], []tree{large}) })
			select {
			case <-begin:
			case <-limit(t).Done():
				t.Fatal("a tenth of the large site was not sent")
			}
			fetchAll(t, seed, nodes[mirrors-1:mirrors], []tree{small})
			tasks.Wait()
			if part := during(store.order, 1); count(part, 1) < len(part)/3 {
				t.Errorf("%d of %d leaves that were sent meanwhile are of the small site", count(part, 1), len(part))
			}
		})
	}
}

// TestPlainBesideCrowd has a crowd fetch one site, and one mirror another of the same size.
// That gets at least half of what each of the crowd gets from the seed, and does not keep the
// crowd waiting until it is whole itself.
func TestPlainBesideCrowd(t *testing.T) {
	const members = 4
	popular, plain := newTree(205, 10, 40), newTree(206, 10, 40)
	store := newTurns(2, popular, plain)
	seed := nodeWith(t, nil, store)
	var mirrors []*node
	var sites []tree
	for range members {
		mirrors, sites = append(mirrors, newNode(t)), append(sites, popular)
	}
	mirrors, sites = append(mirrors, newNode(t)), append(sites, plain)
	fetchAll(t, seed, mirrors, sites)
	part := during(store.order, 0)
	if n, each := count(part, 1), count(part, 0)/members; n < each/2 {
		t.Errorf("%d leaves were sent beside a crowd, each of which was sent %d", n, each)
	}
	if n := count(during(store.order, 1), 0); n < 400/3 {
		t.Errorf("%d leaves were sent to a crowd until a fetch beside it was whole", n)
	}
	for i, m := range mirrors {
		m.checkHeld(t, sites[i].blocks)
	}
}
