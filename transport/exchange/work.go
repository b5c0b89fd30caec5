package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/transport/delta"
)

// unflushed is how many bytes a worker writes at most before what it wrote can be read,
// and passed on.
const unflushed = 4 << 20

// work takes answers with leaves until the fetch has ended, and then makes what was
// written readable.
func (f *Fetch) work() error {
	w := &worker{fetch: f, writer: f.request.Store.NewWriter()}
	for {
		select {
		case <-f.end:
			return w.flush()
		case a := <-f.arrivals:
			err := w.take(a)
			if err == nil && (len(f.arrivals) == 0 || w.bytes > unflushed) {
				err = w.flush()
			}
			if err != nil {
				w.writer.Flush()
				return err
			}
		}
	}
}

// worker decodes, verifies and stores leaves. It is for one goroutine.
type worker struct {
	fetch  *Fetch
	writer *blockstore.Writer
	bytes  int    // written since the last flush
	held   []span // of them
}

// flush makes what was written readable, and says so to others.
func (w *worker) flush() error {
	if err := w.writer.Flush(); err != nil {
		return err
	}
	f := w.fetch
	if len(w.held) > 0 && f.shared {
		f.swarm.add(w.held)
	}
	w.bytes, w.held = 0, w.held[:0]
	return nil
}

// leaf is one leaf that an answer is to have.
type leaf struct{ cid, base cid.Cid }

// take stores the leaves of a. An error is the store's or the DAG's; a peer's ends its
// session only.
func (w *worker) take(a arrival) error {
	f := w.fetch
	var good []int                       // the lengths of those stored
	defer func() { f.settle(a, good) }() // with what leaves does to it
	leaves, err := f.leaves(&a)
	if err != nil {
		f.mu.Lock()
		a.session.end(err)
		f.mu.Unlock()
		return nil
	}
	defer func() { f.client.done(a.frame) }()
	scratch := f.client.scratch.Get().(*[]byte)
	defer f.client.scratch.Put(scratch)
	if cap(*scratch) < a.answer.body.raw && a.answer.body.encoding == encodingZstd {
		*scratch = make([]byte, 0, a.answer.body.raw)
	}
	pieces, err := a.answer.body.pieces(f.client.decoder, *scratch)
	if err != nil {
		f.blame(a.session, err)
		return nil
	}
	solid := true // whoever holds none of it can read it
	for i, l := range leaves {
		select {
		case <-f.end:
			return nil
		default:
		}
		solid = solid && pieces[i].kind == kindBlock
		b, err := f.decode(l.cid, l.base, pieces[i])
		if errors.Is(err, errNoBase) {
			return err
		}
		if err != nil {
			f.blame(a.session, err)
			return nil
		}
		if _, err := w.writer.Write(b); err != nil {
			return err
		}
		w.bytes += len(b.Data())
		good = append(good, len(b.Data()))
	}
	w.held = append(w.held, a.answer.span())
	if b := a.answer.body; solid && b.encoding == encodingZstd && len(b.payload) <= b.raw-b.raw/minSaving && f.shared {
		// As it came it can be passed on. The buffer it is in may be much larger.
		b.payload = slices.Clone(b.payload)
		f.client.server.frames.add(frameKey{root: f.request.Root, span: a.answer.span()}, b)
	}
	return nil
}

// leaves returns what a is to have. If the peer was let choose, the index may still be on
// its way, and nobody knows yet what tasks that answers.
func (f *Fetch) leaves(a *arrival) ([]leaf, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := a.answer.span()
	var err error
	for err == nil && f.order.leaves.len()-f.order.segment.n < s.end() {
		switch {
		case f.order.complete:
			err = violation("leaf %d of %d", s.end()-1, f.order.leaves.len())
		case f.ended:
			err = errFinished
		case f.index.waiting && f.index.queued == 0:
			// Whoever waits for the nodes of others keeps from them that takes what they
			// send. An honest peer may have sent the nodes, too late to be taken.
			err = fmt.Errorf("leaf %d before the nodes that lead to it", s.end()-1)
		default:
			f.changed.Wait()
		}
	}
	if a.chosen {
		f.chosen.removeSpan(s) // so that what follows is for others, if this is not it
		done := span{0, f.order.leaves.len() - f.order.segment.n}
		a.tasks = f.tasks(s.cut(done))
		for _, t := range a.tasks {
			t.working++
		}
	}
	if err != nil {
		return nil, err
	}
	leaves := make([]leaf, s.n)
	for i := range leaves {
		leaves[i] = leaf{f.order.leaves.at(s.first + i), f.order.leafBase(s.first + i)}
	}
	return leaves, nil
}

// decode makes the block c of a piece. Errors are the peer's fault, but for those that
// wrap errNoBase.
func (f *Fetch) decode(c, base cid.Cid, p piece) (blockstore.Block, error) {
	data := p.bytes
	switch p.kind {
	case kindBlock:
	case kindDelta:
		if !base.Defined() {
			return blockstore.Block{}, violation("a delta without a base")
		}
		from, err := f.request.Store.Get(context.Background(), base)
		if err != nil {
			return blockstore.Block{}, fmt.Errorf("%w: %w", errNoBase, err)
		}
		if data, err = delta.Apply(nil, p.bytes, from.Data(), blockstore.MaxBlockSize); err != nil {
			return blockstore.Block{}, err
		}
	case kindStored:
		return unpack(c, p.bytes)
	default:
		return blockstore.Block{}, violation("piece of kind %d", p.kind)
	}
	return blockstore.NewBlock(c, data)
}

// settle counts the first leaves of a as held, whose lengths are given, and lets others
// provide the rest.
func (f *Fetch) settle(a arrival, good []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(good) > 0 {
		f.came(a.session)
		delete(f.barren, a.session.peer)
	}
	for _, t := range a.tasks {
		t.working--
		stored := span{a.answer.first, len(good)}.cut(t.span)
		for i := stored.first; i < stored.end(); i++ {
			if f.got.add(i) {
				f.left--
				t.left--
				n := good[i-a.answer.first]
				f.sent(n)
			}
		}
		if t.left == 0 {
			f.callOff(t)
		} else {
			f.offer(t)
		}
	}
	f.settled()
	f.changed.Broadcast()
}
