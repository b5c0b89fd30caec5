package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

// resettable is a stream with which nothing else happens.
type resettable struct{ network.Stream }

func (resettable) Reset() error { return nil }

// wire is a stream whose other end has said all that it will say.
type wire struct {
	network.Stream
	io.Reader
	written int
}

func (w *wire) Read(b []byte) (int, error)       { return w.Reader.Read(b) }
func (w *wire) Write(b []byte) (int, error)      { w.written += len(b); return len(b), nil }
func (w *wire) CloseWrite() error                { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
func (w *wire) Reset() error                     { return nil }

// replay is a wire that says nothing before it was asked something.
type replay struct {
	wire
	asked chan struct{}
	once  sync.Once
}

func (r *replay) Read(b []byte) (int, error) {
	<-r.asked
	return r.wire.Read(b)
}

func (r *replay) Write(b []byte) (int, error) {
	r.once.Do(func() { close(r.asked) })
	return len(b), nil
}

// pipe is one end of a stream in memory.
type pipe struct {
	network.Stream
	*io.PipeReader
	out *io.PipeWriter
}

// pipes returns both ends of a stream.
func pipes() (a, b network.Stream) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return &pipe{PipeReader: r1, out: w2}, &pipe{PipeReader: r2, out: w1}
}

func (p *pipe) Read(b []byte) (int, error)       { return p.PipeReader.Read(b) }
func (p *pipe) Write(b []byte) (int, error)      { return p.out.Write(b) }
func (p *pipe) Scope() network.StreamScope       { return &network.NullScope{} }
func (p *pipe) CloseWrite() error                { return p.out.Close() }
func (p *pipe) CloseRead() error                 { return p.PipeReader.Close() }
func (p *pipe) Close() error                     { return p.Reset() }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
func (p *pipe) Conn() network.Conn               { return nearby{} }

// SetDeadline ends the stream then.
func (p *pipe) SetDeadline(at time.Time) error {
	time.AfterFunc(time.Until(at), func() { p.Reset() })
	return nil
}

// nearby is the connection that a pipe is on.
type nearby struct{ network.Conn }

func (nearby) RemotePeer() peer.ID           { return "nearby" }
func (nearby) RemoteMultiaddr() ma.Multiaddr { return nowhere[0] }
func (nearby) Stat() (s network.ConnStats) {
	s.Direction = network.DirOutbound
	return s
}

func (p *pipe) Reset() error {
	p.PipeReader.CloseWithError(network.ErrReset)
	p.out.CloseWithError(network.ErrReset)
	return nil
}

// near is a host whose streams lead to others in memory. A fetch of a node on it can run in a
// synctest bubble, where time passes only while all wait for it.
type near struct {
	host.Host // of whose addresses and connections no use is made
	id        peer.ID
	to        streams
}

// streams are what others do with a stream that is opened to them.
type streams map[peer.ID]func(st network.Stream, from peer.ID)

func (h near) ID() peer.ID { return h.id }

func (h near) Connect(context.Context, peer.AddrInfo) error { return nil }

func (h near) NewStream(_ context.Context, p peer.ID, _ ...protocol.ID) (network.Stream, error) {
	do, ok := h.to[p]
	if !ok {
		return nil, errors.New("nobody is there")
	}
	mine, others := pipes()
	go do(others, h.id)
	return mine, nil
}

// dialled is a near host on which opens is waited for before a stream opens.
type dialled struct {
	near
	opens func(ctx context.Context, p peer.ID) error
}

func (h dialled) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	if err := h.opens(ctx, p); err != nil {
		return nil, err
	}
	return h.near.NewStream(ctx, p, ids...)
}

// after waits for a time, or for the end of ctx, and returns the error of that.
func after(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// near serves whoever opens a stream in memory. Each frame takes a moment.
func (n *node) near(st network.Stream, from peer.ID) {
	n.server.serve(slowed{st, 10 * time.Millisecond}, &network.NullScope{}, from)
	st.Reset()
}

// slowed is a stream over which each frame takes so long.
type slowed struct {
	network.Stream
	by time.Duration
}

func (s slowed) Write(b []byte) (int, error) {
	if len(b) < writePart { // the end of a frame
		time.Sleep(s.by)
	}
	return s.Stream.Write(b)
}

// paced is a stream over which so many bytes a second go.
type paced struct {
	network.Stream
	rate int
}

func (p paced) Write(b []byte) (n int, err error) {
	const every = 50 * time.Millisecond
	for n < len(b) && err == nil {
		var m int
		m, err = p.Stream.Write(b[n:min(len(b), n+p.rate*int(every)/int(time.Second))])
		n += m
		time.Sleep(every)
	}
	return n, err
}

// delayed is a stream over which all that is written arrives so long after, however much is on
// its way.
type delayed struct {
	network.Stream
	by    time.Duration
	onWay chan onWay
	ended chan struct{} // closed when all has arrived
}

type onWay struct {
	bytes []byte
	due   time.Time
}

func delay(st network.Stream, by time.Duration) *delayed {
	d := &delayed{st, by, make(chan onWay, 1000), make(chan struct{})}
	go func() {
		defer close(d.ended)
		var err error
		for w := range d.onWay {
			if time.Sleep(time.Until(w.due)); err == nil {
				_, err = d.Stream.Write(w.bytes)
			}
		}
	}()
	return d
}

func (d *delayed) Write(b []byte) (int, error) {
	d.onWay <- onWay{bytes.Clone(b), time.Now().Add(d.by)}
	return len(b), nil
}

// over lets do have a stream that is delayed.
func over(by time.Duration, do func(st network.Stream, from peer.ID)) func(network.Stream, peer.ID) {
	return func(st network.Stream, from peer.ID) {
		d := delay(st, by)
		do(d, from)
		close(d.onWay)
		<-d.ended
		st.Reset()
	}
}
