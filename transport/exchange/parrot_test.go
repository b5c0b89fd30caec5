package exchange

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A parrot is a provider in a synctest bubble that says what it was told to, whatever it is
// asked. Each HELLO begins another stream.
type parrot struct {
	parts [][][]byte // the frames of each stream
	// rests has a bit for each frame, from the first on again after 64: before it the parrot
	// waits until nobody does anything but wait for it, or for time to pass.
	rests  uint64
	leaves bool // after the last frame, rather than say nothing more

	said    chan struct{} // closed when all is said, or nobody listens
	resting chan struct{} // holds a value while a stream rests

	mu      sync.Mutex
	streams int // that were opened
}

func newParrot(says []byte, rests uint64, leaves bool) *parrot {
	p := &parrot{
		rests: rests, leaves: leaves, said: make(chan struct{}), resting: make(chan struct{}, 1),
	}
	for i, frame := range split(says) {
		typ, _, err := readFrame(bufio.NewReader(bytes.NewReader(frame)), len(says))
		if i == 0 || err == nil && typ == frameHello {
			p.parts = append(p.parts, nil)
		}
		n := len(p.parts) - 1
		p.parts[n] = append(p.parts[n], frame)
	}
	if len(p.parts) == 0 {
		close(p.said)
	}
	return p
}

// split cuts b into frames. What cannot be read as one is the last.
func split(b []byte) (frames [][]byte) {
	for len(b) > 0 {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return append(frames, b)
		}
		n += int(length)
		frames, b = append(frames, b[:n]), b[n:]
	}
	return frames
}

func (p *parrot) play(st network.Stream, _ peer.ID) {
	defer st.Reset()
	p.mu.Lock()
	n := p.streams
	p.streams++
	p.mu.Unlock()
	if n >= len(p.parts) {
		return
	}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		io.Copy(io.Discard, st)
	}()
	p.say(st, n)
	if n == len(p.parts)-1 {
		close(p.said)
	}
	if p.leaves {
		st.CloseWrite()
	}
	<-heard
}

// say says what goes over the nth stream.
func (p *parrot) say(st io.Writer, n int) {
	first := len(slices.Concat(p.parts[:n]...))
	for i, frame := range p.parts[n] {
		if p.rests>>((first+i)%64)&1 != 0 {
			p.rest()
		}
		if _, err := st.Write(frame); err != nil {
			return
		}
	}
}

func (p *parrot) rest() {
	p.resting <- struct{}{}
	synctest.Wait()
	<-p.resting
}

// before returns candidates: p, and another when p has said all. If it is not let, that is
// soon after.
func (p *parrot) before(t testing.TB, other peer.ID) <-chan Candidate {
	candidates := make(chan Candidate, 2)
	candidates <- Candidate{peer.AddrInfo{ID: "parrot"}, true}
	go func() {
		select {
		case <-p.said:
		case <-time.After(5 * time.Second):
		case <-t.Context().Done():
		}
		candidates <- Candidate{peer.AddrInfo{ID: other}, true}
	}()
	return candidates
}
