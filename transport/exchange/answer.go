package exchange

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// open answers OPEN.
func (c *serving) open(o open) ([]byte, error) {
	if c.swarm != nil && !c.swarm.root.Equals(o.root) {
		return nil, violation("another root is open")
	}
	s := c.server
	if c.swarm == nil {
		c.swarm = s.swarms.enter(o.root)
		var err error
		if c.leave, err = c.swarm.serve(c.ctx, c.remote); err != nil {
			return nil, err
		}
	}
	if !s.slots.ask(c.remote, time.Now()) {
		return appendBusy(c.peers(nil), busyPause), errHung
	}
	status := byte(statusOpen)
	var err error
	var at *order
	if o.base.Defined() && !o.base.Equals(o.root) {
		if at, err = c.swarm.order(c.ctx, s.store, c.remote, o.base); err == nil {
			status = statusBased
		}
	}
	if at == nil {
		at, err = c.swarm.order(c.ctx, s.store, c.remote, cid.Undef)
	}
	if errors.Is(err, errNoRoom) {
		return appendBusy(c.peers(nil), busyPause), errHung
	}
	if err != nil {
		// Whatever the reason, the peer has to ask elsewhere. Nothing is logged, since a
		// peer could fill the log; the store reports damage itself.
		return c.peers(appendOpened(nil, opened{status: statusAbsent})), nil
	}
	first := c.order == nil
	if !first {
		c.order.release()
	}
	c.order = at
	if first {
		c.eager = o.eager
	}
	_, others := c.swarm.others(c.remote, 0)
	frame := appendOpened(nil, opened{status, others})
	if first {
		frame = c.have(frame)
		frame = c.peers(frame)
		c.news = time.Now()
	}
	return frame, nil
}

// have appends what the peer has not been told of the leaves that are held.
func (c *serving) have(frame []byte) []byte {
	w := c.swarm
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.toldAll {
		return frame
	}
	if w.known && w.all {
		c.toldAll = true
		return appendHave(frame, true, nil)
	}
	var held leafSet // none, while that is to be found out again
	if w.known {
		held = w.held
	}
	var spans []span
	for i, word := range held.words {
		var told uint64
		if i < len(c.told.words) {
			told = c.told.words[i]
		}
		if word&^told == 0 {
			continue
		}
		fresh := leafSet{words: []uint64{word &^ told}}
		fresh.each(func(s span) bool {
			s.first += i * 64
			if n := len(spans); n > 0 && spans[n-1].end() == s.first {
				spans[n-1].n += s.n
			} else {
				spans = append(spans, s)
			}
			return true
		})
		if len(spans) > maxSpans-64 {
			break // the rest with the next
		}
	}
	if len(spans) == 0 {
		if c.told.n == 0 && len(frame) > 0 {
			return appendHave(frame, false, nil)
		}
		return frame
	}
	for _, s := range spans {
		c.told.addSpan(s)
	}
	return appendHave(frame, false, spans)
}

// peers appends some of those who exchange the same DAG, if there are any.
func (c *serving) peers(frame []byte) []byte {
	ids, count := c.swarm.others(c.remote, maxPeers)
	before := c.toldPeers
	c.toldPeers = count
	var infos []peer.AddrInfo
	for _, id := range ids {
		if addrs := c.server.addrs(id); len(addrs) > 0 {
			infos = append(infos, peer.AddrInfo{ID: id, Addrs: addrs})
		}
	}
	if count == 0 && len(infos) == 0 && before == 0 {
		return frame
	}
	return appendPeers(frame, count, infos)
}

// changes returns a channel that is closed when there is news, or nil if there is now.
func (c *serving) changes() <-chan struct{} {
	w := c.swarm
	w.mu.Lock()
	defer w.mu.Unlock()
	if !c.toldAll && w.known && (w.all || w.held.n > c.told.n) || w.servedOthers(c.remote) != c.toldPeers {
		return nil
	}
	return w.changed
}

// tell makes an answer of what is new, now and then.
func (c *serving) tell() ([]byte, error) {
	if time.Since(c.news) < newsEvery {
		return nil, nil
	}
	frame := c.have(nil)
	w := c.swarm
	w.mu.Lock()
	more := w.servedOthers(c.remote) != c.toldPeers
	w.mu.Unlock()
	if more {
		frame = c.peers(frame)
	}
	if len(frame) > 0 {
		c.news = time.Now()
	}
	return frame, nil
}

// nodes makes an INDEX of the LIST that is being answered, or the next.
func (c *serving) nodes() ([]byte, error) {
	if !c.listing {
		if c.list, c.listing = c.asked.list(); !c.listing {
			return nil, nil
		}
	}
	if !c.server.slots.ask(c.remote, time.Now()) {
		return appendBusy(c.peers(nil), busyPause), errHung
	}
	had := c.history.hadNodes(c.order)
	if c.holdBack(had) {
		return nil, nil
	}
	full := c.list.full || !c.order.based()
	total := c.order.nodeCount(full)
	end := total
	if n := c.list.count; n > 0 && n < total-c.list.from {
		end = c.list.from + n
	}
	key := frameKey{root: c.order.root, base: c.order.base, nodes: true, full: full, span: span{first: c.list.from}}
	b, ok, made := c.frame(key)
	defer made()
	if !ok || b.count > end-c.list.from {
		var whole bool
		var err error
		if b, whole, err = c.pack(c.list.from, end, full); err != nil {
			return nil, err
		}
		// Else it is as short as this peer wants it, or there is nothing behind the end.
		if b.count > 0 && (whole || end == total) {
			c.server.frames.add(key, b)
		}
	}
	if err := c.book(3 * len(b.payload)); err != nil {
		return nil, err
	}
	i := c.list.from + b.count
	frame := appendIndex(nil, c.list.from, full, i >= total, b)
	c.history.sentNodes(c.order, b.count)
	if had {
		c.again(len(frame))
	}
	if c.list.count > 0 {
		c.list.count -= b.count
	}
	c.list.from = i
	if i >= end {
		c.listing, c.listed = false, i >= total
	}
	c.turn = false
	return frame, nil
}

// pack packs the nodes from one on up to another, as many as go into an INDEX; whole says that
// these are not all.
func (c *serving) pack(from, end int, full bool) (b body, whole bool, err error) {
	var pieces []piece
	size, i := 0, from
	for ; i < end && (size < indexBytes || len(pieces) == 0) && len(pieces) < maxPieces; i++ {
		id, base := c.order.node(i, full)
		b, err := c.server.store.Get(c.ctx, id)
		if err != nil {
			if c.ctx.Err() == nil { // else the peer has gone, and all is as it was
				c.swarm.forget()
			}
			return body{}, false, fmt.Errorf("read a node: %w", err) // it is to open elsewhere
		}
		p := c.server.piece(b, base)
		if size > 0 && size+len(p.bytes) > frameBytes {
			break
		}
		size += len(p.bytes)
		pieces = append(pieces, p)
	}
	if err := c.book(3 * size); err != nil {
		return body{}, false, err
	}
	return c.server.encoder.body(pieces, max(c.pace.level(), levelFast)), i < end, nil
}

// leaves makes a DATA, a MISS or a LATER of the first leaves that are asked for. It makes
// nothing if there is no room.
func (c *serving) leaves() ([]byte, error) {
	if c.asked.wanted() {
		c.eager = 0
	}
	want := c.asked.leaves(&c.sentEager)
	if want.n == 0 {
		c.unclaim() // what was asked for was called off
		return nil, nil
	}
	if want.end() > c.order.leaves.len() {
		return nil, violation("leaf %d of %d", want.end()-1, c.order.leaves.len())
	}
	if !c.server.slots.ask(c.remote, time.Now()) {
		return appendBusy(c.peers(nil), busyPause), errHung
	}
	if c.holdBack(c.history.hadLeaves(c.order, want.first)) {
		c.unclaim()
		return nil, nil
	}
	number, part := c.order.segmentOf(want.first)
	if c.order.based() {
		last := min(number-number%segmentGroup+segmentGroup, len(c.order.cuts)) - 1
		part = span{part.first, c.order.segmentSpan(last).end() - part.first}
	}
	part = part.cut(want)
	rest := c.claimed >= 0 && want.first == c.rest
	if !rest && c.claimed != number {
		c.unclaim()
		if !c.claim(number) {
			if wait := c.refuse(number); wait > 0 {
				c.waitFor(wait)
				return nil, nil
			}
			c.turn = true
			c.asked.took(part)
			// What else is asked for of the segment is put off with it.
			left := c.order.segmentSpan(number).from(part.end())
			spans := append([]span{part}, c.asked.within(left, maxSpans-1)...)
			return appendSpanFrame(nil, frameLater, spans), nil
		}
	}
	if !c.enter(rest, c.history.had(c.order.leaves.at(want.first))) {
		if c.rest == noSegment && c.server.crowds.isBehind(c.member) {
			c.unclaim() // who waits behind others does not put them off
		}
		return nil, nil
	}
	defer c.leavePlace() // unless something was sent
	c.turn = true
	key := frameKey{root: c.order.root, base: c.order.base, span: part}
	b, ok, made := c.frame(key)
	defer made()
	if ok {
		if err := c.book(3 * len(b.payload)); err != nil {
			return nil, err
		}
		done := b.count == part.n
		part.n = b.count
		return c.data(part, b, done), nil
	}
	began := time.Now()
	l := c.pace.level()
	if c.order.based() {
		l = max(l, levelFast)
	}
	r, err := c.run(part, l == levelStored)
	if err != nil {
		return nil, err
	}
	if len(r.pieces) == 0 {
		c.unclaim()
		missing := part
		missing.n = 1
		for missing.n < part.n && c.missing(missing.end()) {
			missing.n++
		}
		c.asked.took(missing)
		return appendSpanFrame(nil, frameMiss, []span{missing}), nil
	}
	if r.hard {
		l = levelStored
	}
	b = c.server.encoder.body(r.pieces, l)
	if !r.hard {
		c.server.encoder.made(l, r.stands, time.Since(began))
	}
	c.pace.made(c.server.encoder, r.stands)
	done := len(r.pieces) == part.n
	if (done || r.full) && l > levelStored {
		c.server.frames.add(key, b)
	}
	part.n = len(r.pieces)
	return c.data(part, b, done), nil
}

// frame is get of the server's frames. The time in which another stream makes it is one in
// which this one waits.
func (c *serving) frame(k frameKey) (b body, ok bool, made func()) {
	began := time.Now()
	defer func() { c.pace.wait(time.Since(began)) }()
	return c.server.frames.get(c.ctx, k)
}

// data makes a DATA of leaves that were asked for, which are in b; done says that they are
// all that can go together.
func (c *serving) data(part span, b body, done bool) []byte {
	c.asked.took(part)
	delete(c.refused, c.claimed)
	c.rest = part.end()
	segment, claimed := noSegment, c.claimed
	if done && !c.wantsMore(claimed) {
		segment, c.claimed = claimed, noSegment
	}
	if !c.history.had(c.order.leaves.at(part.first)) {
		c.swarm.sending(claimed) // or who asks for it again and again would put off the others
	}
	c.sending(segment, len(b.payload))
	c.sent(part, len(b.payload))
	return appendData(nil, part.first, b)
}

// missing says whether a leaf is not held.
func (c *serving) missing(leaf int) bool {
	ok, err := c.server.store.Has(c.order.leaves.at(leaf))
	return !ok || err != nil
}

// choose makes a DATA of leaves that nobody asked for, as far as the peer allowed it and
// has not asked yet: the index of a small site is followed at once by its leaves, which
// saves a round trip. Of a site that others fetch too, it is what was not sent for longest.
func (c *serving) choose() ([]byte, error) {
	if c.eager <= 0 || !c.listed || c.order.leaves.len() == 0 {
		return nil, nil
	}
	if !c.enter(false, false) {
		return nil, nil
	}
	defer c.leavePlace()
	best := -1
	w := c.swarm
	w.mu.Lock()
	var first time.Time
	for i := range c.order.cuts {
		s, sent := c.order.segmentSpan(i), w.sentLast(i)
		if (best < 0 || sent.Before(first)) && !c.sentEager.has(s.first) && (w.all || w.held.hasAll(s)) {
			best, first = i, sent
		}
	}
	if best >= 0 {
		w.underWay[best]++
	}
	w.mu.Unlock()
	if best < 0 {
		c.eager = 0
		return nil, nil
	}
	part := c.order.segmentSpan(best)
	key := frameKey{root: c.order.root, base: c.order.base, span: part}
	b, ok, made := c.frame(key)
	defer made()
	if !ok {
		r, err := c.run(part, false)
		if err != nil || len(r.pieces) == 0 {
			w.arrived(best)
			c.eager = 0
			return nil, err
		}
		b = c.server.encoder.body(r.pieces, max(c.pace.level(), levelFast))
		if len(r.pieces) == part.n || r.full {
			c.server.frames.add(key, b)
		}
	}
	part.n = b.count
	if len(b.payload) > c.eager {
		w.arrived(best)
		c.eager = 0
		return nil, nil
	}
	if err := c.book(3 * len(b.payload)); err != nil {
		w.arrived(best)
		return nil, err
	}
	c.eager -= len(b.payload)
	c.sentEager.addSpan(part)
	w.sending(best)
	c.sending(best, len(b.payload))
	c.sent(part, len(b.payload))
	return appendData(nil, part.first, b), nil
}

// blocks answers GET.
func (c *serving) blocks() ([]byte, error) {
	cids := c.asked.cids()
	if len(cids) == 0 || c.holdBack(slices.ContainsFunc(cids, c.history.hadBlock)) {
		return nil, nil
	}
	var pieces []piece
	size := 0
	for _, id := range cids {
		p := piece{kind: kindMissing}
		if b, err := c.server.store.Get(c.ctx, id); err == nil {
			p = piece{kind: kindBlock, bytes: b.Data()}
		}
		if len(pieces) > 0 && size+len(p.bytes) > frameBytes {
			break
		}
		size += len(p.bytes)
		pieces = append(pieces, p)
		if p.kind == kindMissing {
			continue
		}
		if c.history.hadBlock(id) {
			c.again(len(p.bytes))
		}
		c.history.sentBlock(id)
	}
	c.asked.answered(len(pieces))
	if err := c.book(3 * size); err != nil {
		return nil, err
	}
	b := c.server.encoder.body(pieces, max(c.pace.level(), levelFast))
	return appendBlocks(nil, b), nil
}
