package exchange

import (
	"bufio"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
)

// ask gets one block from one peer. It calls place when a stream is open, and goes on if that
// returns no error.
func (c *Client) ask(ctx context.Context, info peer.AddrInfo, id cid.Cid, patience time.Duration, place func() error, counts ...*atomic.Int64) (b blockstore.Block, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic while fetching", "cid", id, "panic", r)
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	if err := c.doors.enter(ctx, info.ID); err != nil {
		return blockstore.Block{}, err
	}
	defer c.doors.leave(info.ID)
	st, release, err := c.stream(ctx, info)
	if err != nil {
		return blockstore.Block{}, err
	}
	defer release()
	defer st.Reset()
	c.asks.Add(1)
	defer c.asks.Add(-1)
	stop := context.AfterFunc(ctx, func() { st.Reset() })
	defer stop()
	if err := place(); err != nil {
		return blockstore.Block{}, err
	}
	if err := st.SetDeadline(time.Now().Add(patience)); err != nil {
		return blockstore.Block{}, err
	}
	asked := time.Now()
	if _, err := st.Write(appendGet(appendFrame(nil, frameHello), []cid.Cid{id})); err != nil {
		return blockstore.Block{}, err
	}
	r := bufio.NewReaderSize(countingReader{st, counts}, 16<<10)
	t, _, err := readFrame(r, maxHello)
	if err != nil {
		return blockstore.Block{}, err
	}
	if t != frameHello {
		return blockstore.Block{}, violation("no HELLO")
	}
	c.host.Peerstore().RecordLatency(info.ID, time.Since(asked))
	t, body, err := readFrame(r, maxAnswer)
	if err != nil {
		return blockstore.Block{}, err
	}
	if t != frameBlocks {
		return blockstore.Block{}, violation("unexpected frame of type %d", t)
	}
	a, err := parseBlocks(body)
	if err != nil {
		return blockstore.Block{}, err
	}
	if a.body.count != 1 {
		return blockstore.Block{}, violation("%d blocks for one", a.body.count)
	}
	b, err = c.only(id, a.body)
	if err != nil && err != errAbsent {
		c.bans.add(info.ID)
		c.log.Warn("peer sent a bad block", "peer", info.ID, "err", err)
	}
	return b, err
}

// only returns the block of a body that has one piece.
func (c *Client) only(id cid.Cid, b body) (blockstore.Block, error) {
	pieces, err := b.pieces(c.decoder, nil)
	if err != nil {
		return blockstore.Block{}, err
	}
	return whole(id, pieces[0])
}

// whole makes the block of a piece that is no delta. It fails with errAbsent if the piece
// says that the provider lacks the block; other errors are the peer's fault.
func whole(id cid.Cid, p piece) (blockstore.Block, error) {
	switch p.kind {
	case kindBlock:
		return blockstore.NewBlock(id, p.bytes)
	case kindStored:
		return unpack(id, p.bytes)
	case kindMissing:
		return blockstore.Block{}, errAbsent
	default:
		return blockstore.Block{}, violation("piece of kind %d", p.kind)
	}
}
