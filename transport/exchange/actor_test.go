package exchange

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/transport/delta"
)

// An actor is a provider that follows a script: it reads frames and answers each as it is
// told. What the script does not mention it answers as an honest provider does.
type actor struct {
	host.Host
	script
	held  Store
	order *order
	enc   *encoder

	acted   chan struct{} // closed when a scripted answer was sent, or withheld
	act     sync.Once
	streams atomic.Int32
	sent    atomic.Int64 // bytes
}

// A script says what an actor answers to a frame, instead of what it should; nil is
// nothing at all. With gone the stream is closed after it, and with deaf nothing is read
// or sent any more.
type script struct {
	name   string
	hello  func(a *actor) []byte
	open   func(a *actor, o open) []byte
	list   func(a *actor, l list) []byte
	want   func(a *actor, spans []span) []byte
	get    func(a *actor, cids []cid.Cid) []byte
	after  func(a *actor) []byte // sent after each answer, the scripted ones included
	gone   bool
	deaf   bool
	slow   bool          // what the script says is sent a little at a time
	drip   time.Duration // a scripted answer goes out a byte in this time, if it is not 0
	cut    func() int64  // after how many bytes of a stream it is reset; nil: it is not
	banned bool          // whoever fetches can tell who is to blame
	based  bool          // what it does takes a base
}

// memStore is blocks in memory, to be served.
type memStore map[cid.Cid]blockstore.Block

func hold(blocks ...blockstore.Block) memStore {
	m := make(memStore)
	for _, b := range blocks {
		m[b.CID()] = b
	}
	return m
}

func (m memStore) Get(_ context.Context, c cid.Cid) (blockstore.Block, error) {
	if b, ok := m[c]; ok {
		return b, nil
	}
	return blockstore.Block{}, blockstore.ErrNotFound
}

func (m memStore) Has(c cid.Cid) (bool, error) {
	_, ok := m[c]
	return ok, nil
}

func (m memStore) Packed(ctx context.Context, c cid.Cid) ([]byte, bool, int, error) {
	b, err := m.Get(ctx, c)
	return b.Data(), false, len(b.Data()), err
}

func newActor(t testing.TB, s script, root, base cid.Cid, blocks ...blockstore.Block) *actor {
	t.Helper()
	held := hold(blocks...)
	o, err := buildOrder(t.Context(), held, root, base)
	if err != nil {
		t.Fatal(err)
	}
	return actorOn(t, newHost(t), s, held, o)
}

// actorOn makes h an actor that has what is numbered by o.
func actorOn(t testing.TB, h host.Host, s script, held Store, o *order) *actor {
	t.Helper()
	enc, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	a := &actor{Host: h, script: s, held: held, order: o, enc: enc, acted: make(chan struct{})}
	h.SetStreamHandler(Protocol, a.play)
	return a
}

func (a *actor) info() peer.AddrInfo { return peer.AddrInfo{ID: a.ID(), Addrs: a.Addrs()} }

// before returns candidates: a, and another when a has done what its script says.
func (a *actor) before(ctx context.Context, other *node) <-chan Candidate {
	candidates := make(chan Candidate, 2)
	candidates <- Candidate{a.info(), true}
	go func() {
		select {
		case <-a.acted:
		case <-ctx.Done():
		}
		candidates <- Candidate{other.info(), true}
	}()
	return candidates
}

func (a *actor) play(st network.Stream) {
	a.streams.Add(1)
	defer st.Reset()
	left := int64(math.MaxInt64)
	if a.cut != nil {
		left = a.cut()
	}
	send := func(b []byte) bool {
		if int64(len(b)) > left {
			st.Write(b[:left])
			return false
		}
		left -= int64(len(b))
		n, err := st.Write(b)
		a.sent.Add(int64(n))
		return err == nil
	}
	// scripted sends an answer of the script, and says whether to go on.
	scripted := func(b []byte) bool {
		for a.drip > 0 && len(b) > 0 && send(b[:1]) {
			b = b[1:]
			time.Sleep(a.drip)
		}
		a.trickle(st, &b)
		ok := send(b)
		a.act.Do(func() { close(a.acted) })
		if a.gone {
			st.Close()
			return false
		}
		for a.deaf && !st.Conn().IsClosed() {
			if _, err := st.Write(nil); err != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return ok && !a.deaf
	}
	if a.hello != nil {
		if !scripted(a.hello(a)) {
			return
		}
	} else if !send(appendFrame(nil, frameHello)) {
		return
	}
	r := bufio.NewReader(st)
	for {
		t, body, err := readFrame(r, maxRequest)
		if err != nil {
			return
		}
		ok := true
		switch t {
		case frameOpen:
			o, _ := parseOpen(body)
			if a.open != nil {
				ok = scripted(a.open(a, o))
			} else {
				ok = send(a.opens(o))
			}
		case frameList:
			l, _ := parseList(body)
			if a.list != nil {
				ok = scripted(a.list(a, l))
			} else {
				ok = send(a.nodes(l))
			}
		case frameWant:
			spans, _ := parseSpanFrame(body)
			if a.want != nil {
				ok = scripted(a.want(a, spans))
			} else {
				ok = send(a.leaves(spans))
			}
		case frameGet:
			cids, _ := parseGet(body)
			if a.get != nil {
				ok = scripted(a.get(a, cids))
			} else {
				ok = send(a.blocks(cids))
			}
		}
		if ok && a.after != nil {
			ok = scripted(a.after(a))
		}
		if !ok {
			return
		}
	}
}

// trickle sends of b, if the actor is slow, a little at a time: just above what ends a session.
func (a *actor) trickle(st network.Stream, b *[]byte) {
	if !a.slow {
		return
	}
	const every = 100 * time.Millisecond
	n := int(minBytes*every/dropAfter) * 5 / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ; len(*b) > n; *b = (*b)[n:] {
		if _, err := st.Write((*b)[:n]); err != nil {
			return
		}
		a.sent.Add(int64(n))
		a.act.Do(func() { close(a.acted) })
		<-tick.C
	}
}

// opens says that everything is held, the base too.
func (a *actor) opens(o open) []byte {
	status := byte(statusOpen)
	if o.base.Defined() && o.base.Equals(a.order.base) {
		status = statusBased
	}
	return appendHave(appendOpened(nil, opened{status: status}), true, nil)
}

// listed returns the nodes that l asks for.
func (a *actor) listed(l list) (pieces []piece, full, last bool) {
	full = l.full || !a.order.based()
	end := a.order.nodeCount(full)
	if l.count > 0 {
		end = min(end, l.from+l.count)
	}
	for i := min(l.from, end); i < end; i++ {
		c, _ := a.order.node(i, full)
		pieces = append(pieces, a.block(c))
	}
	return pieces, full, end == a.order.nodeCount(full)
}

func (a *actor) block(c cid.Cid) piece {
	b, err := a.held.Get(context.Background(), c)
	if err != nil {
		return piece{kind: kindMissing}
	}
	return piece{kind: kindBlock, bytes: b.Data()}
}

func (a *actor) nodes(l list) []byte {
	pieces, full, last := a.listed(l)
	return appendIndex(nil, l.from, full, last, a.enc.body(pieces, levelFast))
}

// each makes frames of the leaves that are asked for, a few in each.
func (a *actor) each(spans []span, do func(s span) []byte) (frames []byte) {
	for _, s := range spans {
		for s.n > 0 {
			n, bytes := 0, 0
			for n < min(s.n, 30) && bytes < frameBytes {
				bytes += len(a.block(a.order.leaves.at(s.first + n)).bytes)
				n++
			}
			frames = append(frames, do(span{s.first, n})...)
			s = span{s.first + n, s.n - n}
		}
	}
	return frames
}

func (a *actor) pieces(s span) (pieces []piece) {
	for i := s.first; i < s.end(); i++ {
		pieces = append(pieces, a.block(a.order.leaves.at(i)))
	}
	return pieces
}

func (a *actor) leaves(spans []span) []byte {
	return a.each(spans, func(s span) []byte {
		return appendData(nil, s.first, a.enc.body(a.pieces(s), levelFast))
	})
}

func (a *actor) blocks(cids []cid.Cid) []byte {
	var pieces []piece
	for _, c := range cids {
		pieces = append(pieces, a.block(c))
	}
	return appendBlocks(nil, a.enc.body(pieces, levelFast))
}

// wrong returns p with a byte of the block changed.
func wrong(p piece) piece {
	data := bytes.Clone(p.bytes)
	if len(data) == 0 {
		return piece{kind: kindBlock, bytes: []byte{0}}
	}
	data[len(data)/2] ^= 1
	return piece{kind: p.kind, bytes: data}
}

// wrongData answers WANT with frames whose second last piece, if there are two, is made
// by do.
func wrongData(do func(a *actor, leaf int, p piece) piece) func(*actor, []span) []byte {
	return func(a *actor, spans []span) []byte {
		return a.each(spans, func(s span) []byte {
			pieces := a.pieces(s)
			i := max(len(pieces)-2, 0)
			pieces[i] = do(a, s.first+i, pieces[i])
			return appendData(nil, s.first, a.enc.body(pieces, levelFast))
		})
	}
}

// raw makes a frame of DATA whose body says of itself what it likes.
func rawData(first, count uint64, encoding byte, raw uint64, payload []byte) []byte {
	body := binary.AppendUvarint(nil, first)
	body = binary.AppendUvarint(body, count)
	body = append(body, encoding)
	body = binary.AppendUvarint(body, raw)
	return appendFrame(nil, frameData, body, payload)
}

// bomb is a zstd frame of n zeros that does not say how many, if streamed, or does.
func bomb(n int, streamed bool) []byte {
	var b bytes.Buffer
	w, _ := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20), zstd.WithEncoderConcurrency(1))
	if !streamed {
		return w.EncodeAll(make([]byte, n), nil)
	}
	zeros := make([]byte, 1<<20)
	for ; n > 0; n -= len(zeros) {
		w.Write(zeros[:min(n, len(zeros))])
		w.Flush()
	}
	w.Close()
	return b.Bytes()
}

func concat(frames ...[]byte) []byte { return slices.Concat(frames...) }

// uvarints is a run of them.
func uvarints(v ...uint64) (b []byte) {
	for _, n := range v {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// base returns the base of a leaf, or nothing.
func (a *actor) base(leaf int) []byte {
	b, _ := a.held.Get(context.Background(), a.order.leafBases.at(leaf))
	return b.Data()
}

// deltaOf returns what makes p of a base.
func deltaOf(base []byte, p piece) piece {
	return piece{kind: kindDelta, bytes: new(delta.Encoder).Append(nil, base, p.bytes)}
}
