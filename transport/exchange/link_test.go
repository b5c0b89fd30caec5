package exchange

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// A link is a TCP port that leads to a host, with a delay each way. It can stand still: what
// is sent over it is then taken, as far as there is room, and nothing comes out, while the
// connections stay open, as with a host whose process is stopped.
type link struct {
	delay  time.Duration
	listen net.Listener
	ctx    context.Context
	tasks  sync.WaitGroup
	from   atomic.Int64 // bytes that came from the host

	mu      sync.Mutex
	moving  chan struct{} // closed while it moves
	stopAt  int64         // it stands still when so many bytes came from the host; 0 is never
	stopped chan struct{} // closed when it did
}

// newLink returns a link that leads nowhere yet.
func newLink(t testing.TB, delay time.Duration) *link {
	t.Helper()
	listen, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{delay: delay, listen: listen, moving: make(chan struct{}), stopped: make(chan struct{})}
	close(l.moving)
	ctx, cancel := context.WithCancel(context.Background())
	l.ctx = ctx
	t.Cleanup(func() {
		cancel()
		listen.Close()
		l.tasks.Wait()
	})
	return l
}

// addr is where the link can be dialled.
func (l *link) addr() ma.Multiaddr {
	a, err := manet.FromNetAddr(l.listen.Addr())
	if err != nil {
		panic(err)
	}
	return a
}

// to lets the link lead to h, and returns it as it is seen from there.
func (l *link) to(t testing.TB, h host.Host) peer.AddrInfo {
	t.Helper()
	target, err := manet.ToNetAddr(h.Network().ListenAddresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	l.tasks.Go(func() {
		for {
			near, err := l.listen.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp4", target.String())
			if err != nil {
				near.Close()
				continue
			}
			stop := context.AfterFunc(l.ctx, func() {
				near.Close()
				far.Close()
			})
			l.tasks.Go(func() {
				defer stop()
				l.pass(near, far, &l.from)
			})
			l.tasks.Go(func() { l.pass(far, near, new(atomic.Int64)) })
		}
	})
	return peer.AddrInfo{ID: h.ID(), Addrs: []ma.Multiaddr{l.addr()}}
}

// pass passes on what comes, in order and each after the delay, and then closes both ends.
func (l *link) pass(dst, src net.Conn, count *atomic.Int64) {
	type chunk struct {
		bytes []byte
		due   time.Time
	}
	chunks := make(chan chunk, 256)
	l.tasks.Go(func() {
		defer close(chunks)
		for {
			b := make([]byte, 16<<10)
			n, err := src.Read(b)
			if n > 0 {
				select {
				case chunks <- chunk{b[:n], time.Now().Add(l.delay)}:
				case <-l.ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	defer dst.Close()
	defer src.Close()
	for c := range chunks {
		if wait := time.Until(c.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-l.ctx.Done():
			}
		}
		if !l.gate(count) {
			continue // to the end of chunks
		}
		count.Add(int64(len(c.bytes)))
		if _, err := dst.Write(c.bytes); err != nil {
			src.Close()
		}
	}
}

// gate waits until the link moves, and stops it when it is time to. It returns false at the
// end of the test.
func (l *link) gate(count *atomic.Int64) bool {
	l.mu.Lock()
	if l.stopAt > 0 && count == &l.from && count.Load() >= l.stopAt {
		l.stopAt, l.moving = 0, make(chan struct{})
		close(l.stopped)
	}
	moving := l.moving
	l.mu.Unlock()
	select {
	case <-moving:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// resume ends that the link stands still.
func (l *link) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.moving)
}
