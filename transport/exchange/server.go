package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
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
	serveIdle = 2 * time.Minute
	// writeLimit ends a stream whose reader takes longer than this for one
	// frame: it holds memory that others could use.
	writeLimit = 30 * time.Second
	// serveLimit is how many streams are served at a time; more are reset.
	serveLimit = 128
)

// Getter reads verified blocks.
type Getter interface {
	Get(context.Context, cid.Cid) (blockstore.Block, error)
}

// Server answers other nodes' wants from a store. It holds at most one WANT and
// two DATA frames in memory for each stream.
type Server struct {
	store   Getter
	log     *slog.Logger
	encoder *zstd.Encoder
	slots   chan struct{}
}

// NewServer returns a Server that reads from store.
func NewServer(store Getter, log *slog.Logger) (*Server, error) {
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	return &Server{store: store, log: log, encoder: enc, slots: make(chan struct{}, serveLimit)}, nil
}

// Register makes h serve the protocol.
func (s *Server) Register(h host.Host) { h.SetStreamHandler(Protocol, s.handle) }

func (s *Server) handle(st network.Stream) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		st.Reset()
		return
	}
	remote := st.Conn().RemotePeer()
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
	err := s.serve(st)
	if err == nil {
		st.Close()
		return
	}
	st.Reset()
	s.log.Debug("stopped serving a peer", "peer", remote, "err", err)
}

// deadliner is the part of a stream that bounds how long a peer may dawdle.
type deadliner interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

func (s *Server) serve(st deadliner) error {
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
		if err := s.answer(st, cids); err != nil {
			return err
		}
	}
}

// answer sends the frames that cover cids. A block that cannot be read, for
// whatever reason, is a MISS: the peer will find it elsewhere. Nothing is logged of
// it, since a peer could fill the log; the store reports damage itself.
func (s *Server) answer(st deadliner, cids []cid.Cid) error {
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
		batch, bytes, missing = batch[:0], 0, 0
		return s.send(st, frame)
	}
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
