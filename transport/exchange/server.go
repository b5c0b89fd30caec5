package exchange

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/blockstore"
	"pollux/transport/delta"
)

// Protocol is the libp2p protocol ID. Its last part is the version: nodes that
// do not share one do not talk.
const Protocol protocol.ID = "/pollux/sync/3"

// Service is the name under which the resource manager limits the protocol.
const Service = "pollux.sync"

const (
	// serveIdle ends a stream on which there was nothing to answer for so long.
	serveIdle = time.Minute
	// writeLimit ends a stream whose reader takes longer than this for writePart bytes, or for
	// what is left of a frame: it holds memory that others could use. Whole frames may take
	// longer, over a slow line.
	writeLimit = 30 * time.Second
	writePart  = 64 << 10
	// serveLimit is how many streams are served at a time, and servePerPeer how many of one peer;
	// more are reset. Of what others leave it gets the same share as of all, or eight peers that
	// take all they can would leave nothing for others. If all are taken, one that has none gets
	// the place of the stream that has been idle longest, if for uploadIdle. On servePerDAG of
	// those of a peer a DAG is served at a time, the others wait: each takes as much of the line
	// as fits its window, read or not.
	serveLimit   = 256
	servePerPeer = 32
	servePerDAG  = 4
	// hangUp is how long those that are told BUSY have to close their side.
	hangUp = 2 * time.Second
)

// Getter reads verified blocks.
type Getter interface {
	Get(context.Context, cid.Cid) (blockstore.Block, error)
}

// Store is what a Server serves from.
type Store interface {
	Getter
	Has(cid.Cid) (bool, error)
	// Packed reads a block without verifying it; see blockstore.Store.
	Packed(ctx context.Context, c cid.Cid) (data []byte, packed bool, size int, err error)
}

// Server answers other nodes from a store. It holds a few requests, and at most two answers, in
// memory for each stream, and books the latter, of which there are limits for all streams. What they
// share, orders and packed frames, has limits of its own.
type Server struct {
	host    host.Host
	store   Store
	log     *slog.Logger
	encoder *encoder
	deltas  sync.Pool // of *delta.Encoder
	swarms  *swarms
	frames  *frames
	crowds  *upload
	slots   *slots
	had     *histories

	mu      sync.Mutex // guards the fields below
	streams map[*serving]struct{}
	serving map[peer.ID]int // of them
	booked  int             // bytes, for their answers
}

// NewServer returns a Server that reads from store and answers on h.
func NewServer(h host.Host, store Store, log *slog.Logger) (*Server, error) {
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	s := &Server{
		host: h, store: store, log: log, encoder: enc, swarms: newSwarms(), frames: newFrames(),
		crowds: newUpload(), slots: newSlots(), had: newHistories(),
		streams: make(map[*serving]struct{}), serving: make(map[peer.ID]int),
	}
	s.deltas.New = func() any { return new(delta.Encoder) }
	h.SetStreamHandler(Protocol, s.handle)
	return s, nil
}

func (s *Server) handle(st network.Stream) {
	c := &serving{server: s, remote: st.Conn().RemotePeer(), stream: st, memory: st.Scope()}
	if !s.enter(c) {
		st.Reset()
		return
	}
	defer s.leave(c)
	if err := st.Scope().SetService(Service); err != nil {
		st.Reset()
		return
	}
	if err := c.serve(); err != nil {
		st.Reset()
		s.log.Debug("stopped serving a peer", "peer", c.remote, "err", err)
		return
	}
	st.Close()
}

// enter counts c among the streams that are served, and says whether it may be.
func (s *Server) enter(c *serving) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.serving[c.remote]
	left := serveLimit - len(s.streams) + n // by others
	if n >= max(left*servePerPeer/serveLimit, 1) || len(s.streams) >= serveLimit && !s.makeRoom() {
		return false
	}
	s.streams[c] = struct{}{}
	s.serving[c.remote]++
	return true
}

// makeRoom ends the stream that has been idle longest, if one was for long. The caller holds mu.
func (s *Server) makeRoom() bool {
	var idlest *serving
	longest := uploadIdle
	for c := range s.streams {
		if d := c.idle(); d >= longest {
			idlest, longest = c, d
		}
	}
	if idlest == nil {
		return false
	}
	s.end(idlest)
	return true
}

// end ends a stream, which does not count from now on. The caller holds mu.
func (s *Server) end(c *serving) {
	s.remove(c)
	go c.stream.Reset() // may wait for the network
}

func (s *Server) leave(c *serving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(c)
}

// remove does not count c any more, if it was counted. The caller holds mu.
func (s *Server) remove(c *serving) {
	if _, ok := s.streams[c]; !ok {
		return
	}
	delete(s.streams, c)
	s.booked -= c.booked
	if s.serving[c.remote]--; s.serving[c.remote] == 0 {
		delete(s.serving, c.remote)
		s.slots.leave(c.remote)
	}
}

// alone says whether nobody but p is served.
func (s *Server) alone(p peer.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams) == s.serving[p]
}

// addrs returns where p can be dialled, as far as this node knows.
func (s *Server) addrs(p peer.ID) []ma.Multiaddr {
	var addrs []ma.Multiaddr
	for _, a := range s.host.Peerstore().Addrs(p) {
		if len(a.Bytes()) <= maxAddr && len(addrs) < maxAddrs {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// stream is what serving needs of a network.Stream.
type stream interface {
	io.ReadWriter
	CloseWrite() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	Reset() error
}

// memory is where the bytes that a stream takes are booked.
type memory interface {
	ReserveMemory(size int, prio uint8) error
	ReleaseMemory(size int)
}
