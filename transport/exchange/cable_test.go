package exchange

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// cable is a line that streams share, with a queue before it: what is written goes out in the
// order in which it came, and arrives after a delay.
type cable struct {
	rate  int // bytes/s
	delay time.Duration

	mu   sync.Mutex
	free time.Time // when all of the queue is out
}

// A stream may have so many packets of so many bytes in the queue.
const (
	cablePackets = 1 << 10
	packetBytes  = 1 << 10
)

// arrival returns when n bytes arrive that are written now.
func (c *cable) arrival(n int) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.free.Before(now) {
		c.free = now
	}
	c.free = c.free.Add(time.Duration(n) * time.Second / time.Duration(c.rate))
	return c.free.Add(c.delay)
}

// carry returns st, of which what is written goes over the cable.
func (c *cable) carry(st network.Stream) network.Stream {
	s := &carried{Stream: st, cable: c, queue: make(chan packet, cablePackets), ended: make(chan struct{})}
	go s.deliver()
	return s
}

// carried is a stream over a cable. Its end comes after what was written before.
type carried struct {
	network.Stream
	cable *cable
	queue chan packet
	ended chan struct{}
	end   sync.Once
}

type packet struct {
	bytes []byte
	due   time.Time
}

func (s *carried) Write(b []byte) (int, error) {
	for part := range slices.Chunk(bytes.Clone(b), packetBytes) {
		select {
		case s.queue <- packet{part, s.cable.arrival(len(part))}:
		case <-s.ended:
			return 0, network.ErrReset
		}
	}
	select {
	case <-s.ended:
		return 0, network.ErrReset
	default:
		return len(b), nil
	}
}

func (s *carried) CloseWrite() error { return s.Reset() }
func (s *carried) Close() error      { return s.Reset() }

func (s *carried) Reset() error {
	s.end.Do(func() { close(s.ended) })
	return nil
}

// deliver writes what arrives, until the stream has ended and no more is in the queue.
func (s *carried) deliver() {
	defer s.Stream.Reset()
	defer s.Reset()
	for {
		var p packet
		select {
		case p = <-s.queue:
		default:
			select {
			case p = <-s.queue:
			case <-s.ended:
				return
			}
		}
		time.Sleep(time.Until(p.due))
		if _, err := s.Stream.Write(p.bytes); err != nil {
			return
		}
	}
}
