package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"pollux/blockstore"
	"pollux/transport/delta"
)

// Protocol is the libp2p protocol ID. Its last part is the version: nodes that
// do not share one do not talk.
const Protocol protocol.ID = "/pollux/sync/2"

// Service is the name under which the resource manager limits the protocol.
const Service = "pollux.sync"

const (
	// serveIdle ends a stream on which nothing was asked for so long.
	serveIdle = time.Minute
	// writeLimit ends a stream whose reader takes longer than this for one
	// frame: it holds memory that others could use.
	writeLimit = 30 * time.Second
	// serveLimit is how many streams are served at a time, and servePerPeer how
	// many of one peer; more are reset.
	serveLimit   = 256
	servePerPeer = 32
)

// Getter reads verified blocks.
type Getter interface {
	Get(context.Context, cid.Cid) (blockstore.Block, error)
}

// Server answers other nodes' wants from a store. It holds at most one WANT and a
// DATA frame, as blocks and encoded, in memory for each stream, and books the
// frame with the resource manager.
type Server struct {
	store   Getter
	log     *slog.Logger
	encoder *zstd.Encoder
	deltas  sync.Pool // of *delta.Encoder

	mu      sync.Mutex // guards the fields below
	serving map[peer.ID]int
	total   int
}

// NewServer returns a Server that reads from store.
func NewServer(store Getter, log *slog.Logger) (*Server, error) {
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	s := &Server{store: store, log: log, encoder: enc, serving: make(map[peer.ID]int)}
	s.deltas.New = func() any { return new(delta.Encoder) }
	return s, nil
}

// Register makes h serve the protocol.
func (s *Server) Register(h host.Host) { h.SetStreamHandler(Protocol, s.handle) }

func (s *Server) handle(st network.Stream) {
	remote := st.Conn().RemotePeer()
	if !s.enter(remote) {
		st.Reset()
		return
	}
	defer s.leave(remote)
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic while serving a peer", "peer", remote, "panic", r)
			st.Reset()
		}
	}()
	if err := st.Scope().SetService(Service); err != nil {
		st.Reset()
		return
	}
	err := s.serve(st, st.Scope())
	if err == nil {
		st.Close()
		return
	}
	st.Reset()
	s.log.Debug("stopped serving a peer", "peer", remote, "err", err)
}

func (s *Server) enter(p peer.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= serveLimit || s.serving[p] >= servePerPeer {
		return false
	}
	s.total++
	s.serving[p]++
	return true
}

func (s *Server) leave(p peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.serving[p]--; s.serving[p] == 0 {
		delete(s.serving, p)
	}
}

// deadliner is the part of a stream that bounds how long a peer may dawdle.
type deadliner interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// memory is where the bytes that a stream takes are booked.
type memory interface {
	ReserveMemory(size int, prio uint8) error
	ReleaseMemory(size int)
}

func (s *Server) serve(st deadliner, mem memory) error {
	r := bufio.NewReaderSize(st, 16<<10)
	const maxWantFrame = maxWants*2*(maxCID+2) + 16
	if err := s.send(st, appendFrame(nil, frameHello)); err != nil {
		return err
	}
	for first := true; ; first = false {
		if err := st.SetReadDeadline(time.Now().Add(serveIdle)); err != nil {
			return err
		}
		t, body, err := readFrame(r, maxWantFrame)
		switch {
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		case first && t == frameHello && len(body) <= maxHello:
			continue
		case first || t != frameWant:
			return violation("unexpected frame of type %d", t)
		}
		asks, err := parseWant(body)
		if err != nil {
			return err
		}
		if err := s.answer(st, mem, asks); err != nil {
			return err
		}
	}
}

// answer sends the frames that cover asks. A block that cannot be read, for
// whatever reason, is a MISS: the peer will find it elsewhere. Nothing is logged of
// it, since a peer could fill the log; the store reports damage itself.
func (s *Server) answer(st deadliner, mem memory, asks []ask) error {
	var batch []piece
	packed, stands, missing := 0, 0, 0 // bytes of the batch and of its blocks, and blocks
	flush := func() error {
		var frame []byte
		switch {
		case missing > 0:
			frame = appendMiss(nil, missing)
		case len(batch) > 0:
			frame = appendData(nil, s.encoder, batch)
		default:
			return nil
		}
		clear(batch)
		batch, packed, stands, missing = batch[:0], 0, 0, 0
		return s.send(st, frame)
	}
	booked := 0
	defer func() { mem.ReleaseMemory(booked) }()
	for _, a := range asks {
		b, err := s.store.Get(context.Background(), a.cid)
		if err != nil {
			if len(batch) > 0 {
				if err := flush(); err != nil {
					return err
				}
			}
			missing++
			continue
		}
		p := s.piece(b, a.base)
		full := len(batch) > 0 && (packed+len(p.bytes) > batchBytes || stands+len(b.Data()) > maxBatchStands)
		if missing > 0 || full {
			if err := flush(); err != nil {
				return err
			}
		}
		batch = append(batch, p)
		packed += len(p.bytes)
		stands += len(b.Data())
		// The pieces, the frame plain and packed, and a block and its base.
		if need := 3*packed + 2*len(b.Data()); need > booked {
			if err := mem.ReserveMemory(need-booked, network.ReservationPriorityMedium); err != nil {
				return err
			}
			booked = need
		}
	}
	return flush()
}

// piece returns what to send for b: itself, or if base is held and it is worth it a delta.
func (s *Server) piece(b blockstore.Block, base cid.Cid) piece {
	if !base.Defined() {
		return piece{bytes: b.Data()}
	}
	from, err := s.store.Get(context.Background(), base)
	if err != nil {
		return piece{bytes: b.Data()}
	}
	d := s.deltas.Get().(*delta.Encoder)
	defer s.deltas.Put(d)
	ops := d.Append(nil, from.Data(), b.Data())
	if len(ops) > len(b.Data())/minDelta {
		return piece{bytes: b.Data()} // which compresses better together with its like
	}
	return piece{ops, true}
}

// minDelta is how many times shorter than its block a delta is to be.
const minDelta = 2

func (s *Server) send(st deadliner, frame []byte) error {
	if err := st.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	if _, err := st.Write(frame); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}
