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
)

// Protocol is the libp2p protocol ID. Its last part is the version: nodes that
// do not share one do not talk.
const Protocol protocol.ID = "/pollux/sync/1"

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
	return &Server{store: store, log: log, encoder: enc, serving: make(map[peer.ID]int)}, nil
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
	const maxWantFrame = maxWants*(maxCID+2) + 16
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
		cids, err := parseWant(body)
		if err != nil {
			return err
		}
		if err := s.answer(st, mem, cids); err != nil {
			return err
		}
	}
}

// answer sends the frames that cover cids. A block that cannot be read, for
// whatever reason, is a MISS: the peer will find it elsewhere. Nothing is logged of
// it, since a peer could fill the log; the store reports damage itself.
func (s *Server) answer(st deadliner, mem memory, cids []cid.Cid) error {
	var batch []blockstore.Block
	bytes, missing := 0, 0
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
		batch, bytes, missing = batch[:0], 0, 0
		return s.send(st, frame)
	}
	booked := 0
	defer func() { mem.ReleaseMemory(booked) }()
	for _, c := range cids {
		b, err := s.store.Get(context.Background(), c)
		found := err == nil
		if found == (missing > 0) || len(batch) > 0 && bytes+len(b.Data()) > batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		if found {
			batch = append(batch, b)
			bytes += len(b.Data())
			if need := 3 * bytes; need > booked { // the blocks, and the frame plain and packed
				if err := mem.ReserveMemory(need-booked, network.ReservationPriorityMedium); err != nil {
					return err
				}
				booked = need
			}
		} else {
			missing++
		}
	}
	return flush()
}

func (s *Server) send(st deadliner, frame []byte) error {
	if err := st.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	if _, err := st.Write(frame); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}
