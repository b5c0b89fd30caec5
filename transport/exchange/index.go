package exchange

import (
	"context"
	"errors"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
)

// index is how far a Fetch has come with the nodes of its DAG. It is guarded by the
// Fetch's mutex.
type index struct {
	undecided bool     // which earlier version to use, for want of the root
	spare     bool     // another one may be as good, if a provider lacks it
	waiting   bool     // for a node to come from peers
	lost      bool     // that node is one that the base is to have in the same place
	all       int      // number of the node that is next, among all
	differ    int      // and among those that differ from the base
	source    *session // that is asked for nodes
	open      bool     // for whoever answers first, as the last source did not
	sure      bool     // the source has brought a good node
	full      bool     // in numbers among all
	next      int      // that it is to be asked for next
	last      bool     // it has no more
	count     int      // of the last list, where nodes are held already
	held      bool     // a node was there already
	queued    int      // answers that came and were not looked at
	failed    int      // sources that were too slow
	// What had come when it was last looked whether the source is slow.
	looked time.Time
	nodes  int
	read   int64
	race   race
}

const (
	// nodeCost is what the answer to a node counts for before there was one.
	nodeCost = 1 << 10
	// minList is how many nodes are asked for at a time, unless there are not so many.
	minList = 16
	// maxLists is how many LIST a provider owes at a time.
	maxLists = 16
)

// lists says what s should be asked for now, if it should be. The caller holds f.mu.
func (x *index) lists(f *Fetch, s *session) (list, bool) {
	if x.source == nil && x.waiting && x.queued == 0 && len(s.lists) == 0 {
		if s.ended && !x.lost {
			s.slow = true // it said that it has no more, and that was not all
		}
		if (s.slow || x.open && !s.opened) && f.other(s) {
			return list{}, false
		}
		if s.again && !s.opened {
			// Others that come meanwhile would wait until it said, again, that it has nothing.
			return list{}, false
		}
		l := x.first(s)
		if x.open {
			s.lists = append(s.lists, l)
			return l, true
		}
		x.use(f, s, l.full, l.from)
	}
	if x.race.rival == s && x.source != nil && len(s.lists) == 0 {
		l := x.first(s)
		l.count, x.race.read = x.race.count, x.source.received.Load()
		s.lists = append(s.lists, l)
		return l, true
	}
	if x.source != s || x.last || len(s.lists) == maxLists {
		return list{}, false
	}
	l := list{from: x.next, full: x.full}
	switch {
	case x.undecided || x.held:
		// For want of the root it is not known what else is missing. And where a node is
		// held, what comes next may be held too: ask for one, and for more as long as
		// all of it is missing.
		if len(s.lists) > 0 || !x.waiting {
			return list{}, false
		}
		l.count = 1
		if !x.undecided {
			l.count = min(max(4*x.count, 1), maxPieces)
			x.count = l.count
		}
	default:
		l.count = min(int(float64(s.window.size-s.owedSize)/s.nodeCost)-s.unlisted(), maxPieces)
		if l.count < minList {
			if len(s.lists) > 0 {
				return list{}, false
			}
			l.count = minList
		}
	}
	x.next += l.count
	s.lists = append(s.lists, l)
	return l, true
}

// first returns what asks s for the node that is next. The caller holds the Fetch's mutex.
func (x *index) first(s *session) list {
	if x.lost || x.all != x.differ && !s.based {
		// Which numbers would be meant if the provider lacks the base?
		return list{from: x.all, count: 1, full: true}
	}
	return list{from: x.differ, count: 1}
}

// use makes s the source of nodes, from number next on. The caller holds f.mu.
func (x *index) use(f *Fetch, s *session, full bool, next int) {
	x.source, x.full, x.next, x.last, x.open, x.sure = s, full, next, false, false, false
	x.race.rival, x.race.races = nil, 0
	x.look(s, time.Now())
	f.checkBase(s) // it may have answered before there was something to ask for
}

// answers says whether a has the node that is next. The caller holds the Fetch's mutex.
func (x *index) answers(a answer) bool {
	number := x.differ
	if a.full {
		number = x.all
	}
	return a.first <= number && number < a.first+a.body.count && (a.full || !x.lost)
}

// proved notes that s has brought a good node. If the source was found out meanwhile, s, which
// was asked as well, is the source from number next on. The caller holds f.mu.
func (x *index) proved(f *Fetch, s *session, full bool, next int) {
	if x.source == nil && x.open && s.err == nil {
		if n := len(s.lists); n > 0 {
			next = s.lists[n-1].from + s.lists[n-1].count
		}
		x.use(f, s, full, next)
	}
	x.sure = x.sure || x.source == s
}

// other says whether there is another session that could be asked for nodes. The caller
// holds mu.
func (f *Fetch) other(s *session) bool {
	now := time.Now()
	for t := range f.sessions {
		if t != s && t.opened && t.err == nil && !t.slow && !t.mute(now) {
			return true
		}
	}
	return false
}

// mute says whether s owes nodes and sends nothing. The caller holds fetch.mu.
func (s *session) mute(now time.Time) bool {
	return len(s.lists) > 0 && !s.handing && now.Sub(s.lastByte) > s.firstPatience()
}

// check lets another session provide the nodes if the one that was asked does not. The
// caller holds f.mu.
func (x *index) check(f *Fetch, now time.Time) {
	s := x.source
	if s == nil {
		return
	}
	if x.waiting && x.queued == 0 && s.mute(now) && f.other(s) {
		// What it owes it may still bring, but so may others.
		x.source, x.open = nil, true
		return
	}
	x.race.tick(f)
	// Nor does one that sends a node now and then.
	limit := x.patience(s)
	if now.Sub(x.looked) <= limit {
		return
	}
	share := float64(limit) / float64(slowTime)
	nodes, read := float64(x.all-x.nodes), float64(s.received.Load()-x.read)
	slow := x.waiting && nodes < minList*share && read < slowBytes*share
	if !slow || !f.other(s) {
		x.race.begin(f, s, now, now.Sub(x.looked), read)
		x.look(s, now)
		return
	}
	x.source, x.open = nil, true
	x.failed++
	f.slow.add(s.peer)
	if s.slow = true; f.crowded {
		s.end(errUseless)
	}
}

// look notes what had come from the source, s, by now.
func (x *index) look(s *session, now time.Time) {
	x.looked, x.nodes, x.read = now, x.all, s.received.Load()
	x.race.ticks, x.race.idle, x.race.bytes = 0, 0, 0
}

// patience returns how long s may be slow. With each source that failed it is half as long,
// down to a few round trips: whatever takes the others their time, all together are to take
// little more than two of them.
func (x *index) patience(s *session) time.Duration {
	return max(slowTime>>min(x.failed, 3), 4*s.rtt)
}

// A source of nodes is too slow if in slowTime it brought fewer than minList, and fewer
// bytes than slowBytes.
const (
	slowTime  = time.Second
	slowBytes = 16 << 10
)

// nodes are pieces of an INDEX that was taken in.
type nodes struct {
	session *session
	first   int
	full    bool
	pieces  []piece
}

// number goes through the DAG and numbers its blocks. Nodes that the store lacks come
// from peers, and leaves that it lacks become tasks.
func (f *Fetch) number() error {
	defer close(f.numbered)
	ctx := context.Background()
	store := f.request.Store
	w := store.NewWriter()
	cursor := dag.NewCursor(f.request.Root, cid.Undef, f.request.Size)
	var (
		came    nodes
		held    []span // since the last segment
		missing int
		bytes   int // claimed of those missing
		begun   bool
	)
	// begin lets others have what is fetched, once it is known which base is used.
	begin := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		begun, f.index.undecided = true, false
		f.shared = !f.request.NodesOnly && f.swarm.begin(f.order, f.joined)
		f.changed.Broadcast()
	}
	// segment makes a task of a segment that is done, if it misses something. The caller
	// holds mu.
	segment := func(s segment) {
		if missing > 0 {
			f.add(s, missing, bytes)
		}
		missing, bytes = 0, 0
	}
	// serve lets others have what is held.
	serve := func() {
		if f.shared && len(held) > 0 {
			f.swarm.add(held)
		}
		held = held[:0]
	}
	for {
		select {
		case <-f.end:
			return errors.Join(errFinished, w.Flush())
		default:
		}
		s, ok, err := cursor.Next()
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		if !ok {
			break
		}
		if s.Leaf() {
			if !begun {
				begin()
			}
			if f.request.NodesOnly {
				f.mu.Lock()
				_, _, err := f.order.addLeaf(s)
				f.mu.Unlock()
				if err != nil {
					return errors.Join(err, w.Flush())
				}
				continue
			}
			have, err := store.Has(s.CID)
			if err != nil {
				return err
			}
			f.mu.Lock()
			leaf := f.order.leaves.len()
			done, ok, err := f.order.addLeaf(s)
			f.progress.Known++
			if have {
				f.got.add(leaf)
				f.held(s.Size)
			} else {
				f.left++
			}
			f.lastBlock = time.Now()
			switch {
			case !have:
				missing++
				bytes += claimed(s.Size)
			case len(held) > 0 && held[len(held)-1].end() == leaf:
				held[len(held)-1].n++
			default:
				held = append(held, span{leaf, 1})
			}
			if ok {
				segment(done)
			}
			f.mu.Unlock()
			if err != nil {
				return err
			}
			if ok {
				serve()
			}
			continue
		}
		b, err := f.node(w, s, &came)
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		below, err := links(b)
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		if !begun {
			if base := f.chooseBase(below); base.Defined() {
				cursor = dag.NewCursor(f.request.Root, base, f.request.Size)
				if s, _, err = cursor.Next(); err != nil {
					return err
				}
				f.mu.Lock()
				f.order = newOrder(f.request.Root, base)
				f.mu.Unlock()
			}
			begin()
		}
		old, err := oldLinks(ctx, store, s)
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		if err := cursor.Enter(below, old); err != nil {
			return errors.Join(err, w.Flush())
		}
		f.mu.Lock()
		err = f.order.addNode(s)
		f.index.all++
		if !s.Same() {
			f.index.differ++
		}
		f.count(b, below)
		f.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	f.mu.Lock()
	last, ok := f.order.finish()
	f.held(cursor.Repeated())
	if ok {
		segment(last)
	}
	f.mu.Unlock()
	serve()
	if f.shared {
		f.swarm.ordered()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled()
	f.changed.Broadcast()
	return nil
}

// count adds a node to the progress. The caller holds mu.
func (f *Fetch) count(b blockstore.Block, links []dag.Link) {
	size := uint64(len(b.Data()))
	f.lastBlock = time.Now()
	f.progress.Known++
	if b.CID().Equals(f.request.Root) {
		f.progress.TotalBytes = addSizes(0, size)
		for _, l := range links {
			f.progress.TotalBytes = addSizes(f.progress.TotalBytes, l.Size)
		}
	}
}

// node returns a node, from the store or else from peers. came is what they sent and was
// not used yet.
func (f *Fetch) node(w *blockstore.Writer, s dag.Step, came *nodes) (blockstore.Block, error) {
	ok, err := f.request.Store.Has(s.CID)
	if err != nil {
		return blockstore.Block{}, err
	}
	if ok {
		b, err := f.request.Store.Get(context.Background(), s.CID)
		if err == nil {
			f.mu.Lock()
			f.held(uint64(len(b.Data())))
			if !s.Same() {
				f.index.held, f.index.count = true, 0
			}
			f.mu.Unlock()
			return b, nil
		}
		if !errors.Is(err, blockstore.ErrCorrupt) && !errors.Is(err, blockstore.ErrNotFound) {
			return blockstore.Block{}, err
		}
	}
	f.mu.Lock()
	all, differ := f.index.all, f.index.differ
	f.index.lost = s.Same()
	f.mu.Unlock()
	for {
		number := differ
		if came.full {
			number = all
		}
		// What the base has in the same place is not in a list of what differs.
		if i := number - came.first; i >= 0 && i < len(came.pieces) && (came.full || !s.Same()) {
			b, err := f.decode(s.CID, s.Base, came.pieces[i])
			if errors.Is(err, errNoBase) {
				return blockstore.Block{}, err
			}
			if err == nil {
				f.mu.Lock()
				f.came(came.session)
				f.index.proved(f, came.session, came.full, came.first+len(came.pieces))
				f.index.race.bytes += len(b.Data())
				f.sent(len(b.Data()))
				f.mu.Unlock()
				_, err := w.Write(b)
				return b, err
			}
			f.blame(came.session, err)
		}
		*came = nodes{}
		if err := w.Flush(); err != nil { // while there is time
			return blockstore.Block{}, err
		}
		if err := f.await(came); err != nil {
			return blockstore.Block{}, err
		}
	}
}

// await takes the next INDEX that a session brings.
func (f *Fetch) await(came *nodes) error {
	f.mu.Lock()
	f.index.waiting = true
	f.need()
	f.changed.Broadcast()
	f.mu.Unlock()
	var a arrival
	select {
	case a = <-f.indexes:
	case <-f.end:
		return errFinished
	}
	f.mu.Lock()
	f.index.waiting = false
	f.index.queued--
	f.mu.Unlock()
	pieces, err := a.answer.body.pieces(f.client.decoder, nil)
	if err != nil {
		f.blame(a.session, err)
		return nil
	}
	*came = nodes{a.session, a.answer.first, a.answer.full, pieces}
	return nil
}
