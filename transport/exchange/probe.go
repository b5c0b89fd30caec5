package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// probeLeaves and probeNodes are how many leaves, and nodes beside the root, a peer
	// has to bring. Of one that says nothing of what it holds, because it is busy, it is
	// busyLeaves.
	probeLeaves = 8
	probeNodes  = 4
	busyLeaves  = 32
	// Leaves may be large: probeFew are enough once probeBytes have come.
	probeFew   = 3
	probeBytes = 4 << 20
	// probeLimit is how long a peer may take for all of it.
	probeLimit = 30 * time.Second
)

// Standing is how much of a DAG a peer holds.
type Standing int

const (
	Unreachable Standing = iota // it could not be connected, does not answer, or sent something wrong
	Absent                      // it lacks the root
	Partial                     // it holds some of it, or did not bring all that it says it holds
	Full                        // it says that it holds all, and whatever it was asked for it brought
)

// Probed is what was found out about a peer.
type Probed struct {
	Peer     peer.AddrInfo // where it can be dialled, as far as is known
	Standing Standing
	RTT      time.Duration // 0 if it is unreachable
	// Share is how much of the leaves it holds, from 0 to 1: by what it says, less what it
	// then did not bring. 0 if the DAG's order is not known.
	Share float64
}

// probe asks one peer what it holds of a DAG, and has it prove that: it does not know
// which blocks it will be asked for.
type probe struct {
	client *Client
	peer   peer.ID
	root   cid.Cid
	order  *order // nil if it is not known
	news   func() // called for each block that came

	stream network.Stream
	addrs  []ma.Multiaddr
	rtt    time.Duration
	met    []peer.AddrInfo // that it named

	opened, absent bool    // it has all nodes, or not
	told, all      bool    // what it holds, all that it does
	have           leafSet // unless it is all
	gets           []cid.Cid
	wants          leafSet
	wanted         bool // leaves were asked for
	asked          int  // leaves
	brought        int
	missed         int
	rootCame       bool
	lacksNode      bool
	bytes          int  // of leaves that came
	busy           bool // it did not let us ask by numbers
	bad            bool // it sent something that is not what was asked for
}

// probe finds out how much of the DAG below root a peer holds. o is the DAG's order; if it
// is nil the peer cannot prove that it holds all.
func (c *Client) probe(ctx context.Context, info peer.AddrInfo, root cid.Cid, o *order, news func()) (p *probe) {
	p = &probe{client: c, peer: info.ID, root: root, order: o, news: news}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic while probing a peer", "peer", info.ID, "root", root, "panic", r)
			p.bad = true
		}
	}()
	err := p.talk(ctx, info, p.begin)
	if _, ok := errors.AsType[*busyError](err); ok {
		p.busy = true
		err = p.talk(ctx, info, p.beginBusy)
	}
	if err != nil {
		c.log.Debug("probe of a peer failed", "peer", info.ID, "root", root, "err", err)
	}
	return p
}

// talk opens a stream, sends what begin returns, and takes what comes until all is
// answered.
func (p *probe) talk(ctx context.Context, info peer.AddrInfo, begin func() []byte) error {
	st, release, err := p.client.stream(ctx, info)
	if err != nil {
		return err
	}
	defer release()
	defer st.Reset()
	stop := context.AfterFunc(ctx, func() { st.Reset() })
	defer stop()
	if deadline, ok := ctx.Deadline(); ok {
		if err := st.SetDeadline(deadline); err != nil {
			return err
		}
	}
	p.stream, p.addrs = st, p.client.addrs(st.Conn())
	frame := begin()
	asked := time.Now()
	if _, err := st.Write(frame); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	r := bufio.NewReaderSize(st, 16<<10)
	if t, _, err := readFrame(r, maxHello); err != nil {
		return err
	} else if t != frameHello {
		return violation("no HELLO")
	}
	p.rtt = max(time.Since(asked), 1)
	p.client.host.Peerstore().RecordLatency(p.peer, p.rtt)
	for !p.answered() {
		t, body, err := readFrame(r, maxAnswer)
		if err != nil {
			return err
		}
		if err := p.take(t, body); err != nil {
			return err
		}
		if err := p.want(); err != nil {
			return err
		}
	}
	return nil
}

// addrs returns where the other side of a connection can be dialled.
func (c *Client) addrs(conn network.Conn) []ma.Multiaddr {
	addrs := c.server.addrs(conn.RemotePeer())
	if now := conn.RemoteMultiaddr(); conn.Stat().Direction == network.DirOutbound || len(addrs) == 0 {
		addrs = slices.DeleteFunc(addrs, now.Equal)
		addrs = append([]ma.Multiaddr{now}, addrs...)
	}
	return addrs[:min(len(addrs), maxAddrs)]
}

// begin asks for the DAG and for nodes of it.
func (p *probe) begin() []byte {
	p.gets = p.nodes()
	frame := appendOpen(appendFrame(nil, frameHello), open{root: p.root})
	return appendGet(frame, p.gets)
}

// beginBusy asks for blocks by their CIDs, which peers answer that send DAGs to as many
// as they can.
func (p *probe) beginBusy() []byte {
	p.gets = p.nodes()
	if p.order != nil {
		for _, i := range pick(p.order.leaves.len(), busyLeaves) {
			p.gets = append(p.gets, p.order.leaves.at(i))
			p.asked++
		}
	}
	return appendGet(appendFrame(nil, frameHello), p.gets)
}

// nodes returns the root, if it is a node, and some others by chance.
func (p *probe) nodes() []cid.Cid {
	if p.order == nil {
		return []cid.Cid{p.root}
	}
	var nodes []cid.Cid
	if n := p.order.nodes.len(); n > 0 {
		nodes = append(nodes, p.order.nodes.at(0))
		for _, i := range pick(n-1, probeNodes) {
			nodes = append(nodes, p.order.nodes.at(1+i))
		}
	}
	return nodes
}

// want asks for leaves, by chance, once the peer has said which it holds.
func (p *probe) want() error {
	if !p.told || p.wanted || p.order == nil {
		return nil
	}
	p.wanted = true
	var leaves []int
	if p.all {
		leaves = pick(p.order.leaves.len(), probeLeaves)
	} else {
		leaves = pickOf(&p.have, probeLeaves)
	}
	var frame []byte
	for _, i := range leaves {
		p.wants.add(i)
		p.asked++
		// In frames of their own, so that it need not be the lowest that come first.
		frame = appendSpanFrame(frame, frameWant, []span{{i, 1}})
	}
	if len(frame) == 0 {
		return nil
	}
	if _, err := p.stream.Write(frame); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// answered says whether enough has come to judge.
func (p *probe) answered() bool {
	if p.busy {
		return len(p.gets) == 0 || p.enough()
	}
	if len(p.gets) > 0 {
		return false
	}
	return p.absent || p.told && (p.order == nil || p.wanted && (p.wants.n == 0 || p.enough()))
}

// enough says whether so many bytes have come that the rest may be spared.
func (p *probe) enough() bool { return p.brought >= probeFew && p.bytes > probeBytes }

// take acts on a frame.
func (p *probe) take(t frameType, body []byte) error {
	switch t {
	case frameOpened:
		o, err := parseOpened(body)
		if err == nil && (p.busy || p.opened || p.absent) {
			err = violation("OPENED without OPEN")
		}
		p.opened, p.absent = o.status != statusAbsent, o.status == statusAbsent
		return err
	case frameHave:
		all, spans, err := parseHave(body)
		if err == nil && !p.opened {
			err = violation("HAVE without OPENED")
		}
		if err != nil {
			return err
		}
		p.told, p.all = true, p.all || all
		if p.order != nil {
			for _, s := range spans {
				p.have.addSpan(s.cut(p.order.all()))
			}
		}
		return nil
	case frameData:
		return p.data(body)
	case frameMiss:
		spans, err := parseSpanFrame(body)
		for _, s := range spans {
			if err == nil && !p.wants.hasAll(s) {
				err = violation("MISS that nobody asked for")
			}
			if err == nil {
				p.wants.removeSpan(s)
				p.missed += s.n
			}
		}
		return err
	case frameBlocks:
		return p.blocks(body)
	case framePeers:
		_, peers, err := parsePeers(body)
		if len(p.met) < maxCandidates {
			p.met = append(p.met, peers...)
		}
		return err
	case frameBusy:
		pause, err := parseBusy(body)
		if err != nil {
			return err
		}
		return &busyError{pause}
	case frameLater:
		return &busyError{} // a crowd comes before whoever only wants to know
	default:
		return violation("unexpected frame of type %d", t)
	}
}

// data takes in leaves.
func (p *probe) data(body []byte) error {
	a, err := parseData(body)
	if err != nil {
		return err
	}
	if !p.wants.hasAll(a.span()) {
		return violation("leaves that nobody asked for")
	}
	pieces, err := a.body.pieces(p.client.decoder, nil)
	if err != nil {
		return p.blame(err)
	}
	for i, piece := range pieces {
		b, err := whole(p.order.leaves.at(a.first+i), piece)
		if err != nil {
			return p.blame(err)
		}
		p.leaf(len(b.Data()))
	}
	p.wants.removeSpan(a.span())
	return nil
}

// blocks takes in what was asked for by CID.
func (p *probe) blocks(body []byte) error {
	a, err := parseBlocks(body)
	if err != nil {
		return err
	}
	if a.body.count > len(p.gets) {
		return violation("%d blocks for %d", a.body.count, len(p.gets))
	}
	pieces, err := a.body.pieces(p.client.decoder, nil)
	if err != nil {
		return p.blame(err)
	}
	for i, piece := range pieces {
		id := p.gets[i]
		b, err := whole(id, piece)
		leaf := id.Type() == cid.Raw
		switch {
		case err == errAbsent && leaf:
			p.missed++
		case err == errAbsent:
			p.lacksNode = true
		case err != nil:
			return p.blame(err)
		case leaf:
			p.leaf(len(b.Data()))
		default:
			p.rootCame = p.rootCame || id.Equals(p.root)
			p.news()
		}
	}
	p.gets = p.gets[a.body.count:]
	return nil
}

// leaf counts a leaf that came and is what was asked for.
func (p *probe) leaf(size int) {
	p.brought++
	p.bytes += size
	p.news()
}

// blame keeps away a peer that sent something wrong.
func (p *probe) blame(err error) error {
	p.bad = true
	p.client.bans.add(p.peer)
	p.client.log.Warn("peer sent a bad block", "peer", p.peer, "err", err)
	return err
}

// result judges what came.
func (p *probe) result() Probed {
	r := Probed{Peer: peer.AddrInfo{ID: p.peer, Addrs: p.addrs}}
	if p.bad {
		return r
	}
	answered := p.rtt > 0 && p.answered()
	switch {
	case answered && p.order != nil && p.claimsAll() && !p.lacksNode && p.missed == 0:
		r.Standing = Full
	case p.opened, p.rootCame, p.brought > 0:
		r.Standing = Partial
	case answered:
		r.Standing = Absent
	default:
		return r
	}
	r.RTT = p.rtt
	if r.Standing != Absent {
		r.Share = p.share(answered)
	}
	return r
}

// claimsAll says whether the peer says that it holds all leaves, or had no occasion to say
// which it does.
func (p *probe) claimsAll() bool { return p.all || p.busy && !p.told }

func (p *probe) share(answered bool) float64 {
	if p.order == nil {
		return 0
	}
	claimed, leaves := 1.0, p.order.leaves.len()
	if !p.claimsAll() && leaves > 0 {
		claimed = float64(p.have.n) / float64(leaves)
	}
	of := p.brought + p.missed
	if !answered {
		of = p.asked // it kept silent about the rest
	}
	if of == 0 {
		if leaves == 0 && answered {
			return claimed
		}
		return 0
	}
	return claimed * float64(p.brought) / float64(of)
}

// pick returns up to k numbers below n, by chance and in no order.
func pick(n, k int) []int {
	if n <= k {
		return rand.Perm(max(n, 0))
	}
	picked := make([]int, 0, k)
	for len(picked) < k {
		if i := rand.IntN(n); !slices.Contains(picked, i) {
			picked = append(picked, i)
		}
	}
	return picked
}

// pickOf returns up to k leaves of a set, by chance and in no order.
func pickOf(s *leafSet, k int) []int {
	places := pick(s.n, k)
	picked := make([]int, 0, len(places))
	before := 0 // leaves of the set before the run
	s.each(func(run span) bool {
		for _, i := range places {
			if i >= before && i < before+run.n {
				picked = append(picked, run.first+i-before)
			}
		}
		before += run.n
		return len(picked) < len(places)
	})
	rand.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked
}
