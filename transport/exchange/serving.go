package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// frameBytes is how many bytes of pieces go into an answer, and standBytes for how
	// many bytes of blocks they stand, unless a single one is larger.
	frameBytes = 1 << 20
	standBytes = 8 << 20
	// indexBytes is how many bytes of nodes go into an INDEX.
	indexBytes = 256 << 10
	// newsEvery is how often a peer is told of leaves and peers that came.
	newsEvery = 250 * time.Millisecond
)

var (
	errIdle = errors.New("nothing was asked for too long")
	errHung = errors.New("told to ask elsewhere")
)

// serving is one stream on which a peer is answered. Three goroutines work on it: one
// reads requests, one makes answers, one writes them, so that the next answer is being
// made while one is on its way.
type serving struct {
	server *Server
	remote peer.ID
	stream stream
	memory memory
	ctx    context.Context // ends with the stream

	wake  chan struct{} // holds one value when requests came
	asked asked

	mu    sync.Mutex // guards the fields below
	used  time.Time  // when an answer, other than news, or a part of one was taken last
	rests bool       // there is nothing to answer
	taken time.Time  // when one was taken whole last, or memory booked for the first

	// The fields below belong to the goroutine that makes answers.

	swarm     *swarm
	leave     func() // is called at the end if it is not nil
	order     *order
	list      list // what is left of the one being answered
	listing   bool
	listed    bool    // the peer was sent all nodes
	turn      bool    // nodes are next, if there are both a LIST and a WANT
	told      leafSet // HAVE was sent of these
	toldAll   bool
	toldPeers int
	news      time.Time // when it was told last
	pace      pace
	eager     int // bytes that may be sent unasked
	sentEager leafSet
	refused   map[int]refusal // segments, and when the peer was told to ask later
	claimed   int             // a segment that is to be sent, or noSegment
	rest      int             // the leaf after the last answer
	sends     int             // DATA that were sent
	unproven  []send          // of them, that may not have arrived
	member    *member         // in the upload
	place     *onItsWay       // there, for the next answer with leaves
	waits     bool            // for one
	history   *history        // of the peer
	pause     time.Duration   // before it is sent something again; 0 if it need not wait
	booked    int             // bytes, for answers in memory; server.mu guards it as well
}

// serve answers until the peer closes the stream, breaks the protocol or asks nothing. Of the
// fields the first four are set.
func (c *serving) serve() error {
	s := c.server
	ctx, cancel := context.WithCancelCause(context.Background())
	c.ctx, c.wake = ctx, make(chan struct{}, 1)
	c.refused, c.claimed = make(map[int]refusal), noSegment
	c.member, c.history = s.crowds.join(), s.had.of(c.remote)
	c.use()
	defer s.crowds.leave(c.member)
	defer c.release()
	out := make(chan []byte) // without room: one answer is made while one is on its way
	var tasks sync.WaitGroup
	run := func(do func() error) {
		tasks.Go(func() {
			err := s.guard(c.remote, do)
			if err == nil {
				err = io.EOF
			}
			cancel(err)
		})
	}
	run(c.read)
	run(func() error { return c.write(out) })
	run(func() error { return c.answer(out) })
	<-ctx.Done()
	err := context.Cause(ctx)
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		c.stream.Reset() // ends reads and writes
		tasks.Wait()
		return err
	}
	// The peer closed its side between two frames, so nothing is owed that it waits for.
	tasks.Wait()
	return nil
}

// guard turns a panic in code that handles a stranger's bytes into an error.
func (s *Server) guard(remote peer.ID, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic while serving a peer", "peer", remote, "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return do()
}

// read takes in requests until the peer closes its side.
func (c *serving) read() error {
	r := bufio.NewReaderSize(c.stream, 4<<10)
	for first := true; ; first = false {
		t, body, err := readFrame(r, maxRequest)
		if err != nil {
			return err
		}
		switch {
		case first && t == frameHello && len(body) <= maxHello:
		case first:
			err = violation("no HELLO")
		default:
			err = c.asked.add(t, body)
		}
		if err != nil {
			return err
		}
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// write sends frames, the first of which is HELLO, until there are no more.
func (c *serving) write(out <-chan []byte) error {
	frame := appendFrame(nil, frameHello)
	for {
		for part := range slices.Chunk(frame, writePart) {
			if err := c.stream.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
				return err
			}
			if _, err := c.stream.Write(part); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			if len(part) == writePart {
				c.use()
			}
		}
		c.took()
		var ok bool
		select {
		case frame, ok = <-out:
			if !ok {
				if err := c.stream.SetReadDeadline(time.Now().Add(hangUp)); err != nil {
					return err
				}
				return c.stream.CloseWrite()
			}
		case <-c.ctx.Done():
			return nil
		}
	}
}

// answer makes answers until the stream ends.
func (c *serving) answer(out chan<- []byte) error {
	defer func() {
		if c.swarm != nil {
			c.unclaim()
			c.arrived(math.MaxInt, false)
			if c.order != nil {
				c.order.release()
			}
			c.server.swarms.leave(c.swarm)
		}
	}()
	defer func() {
		if c.leave != nil {
			c.leave()
		}
	}()
	var later <-chan time.Time // when news may be told
	for {
		frame, err := c.next()
		if err != nil && len(frame) == 0 {
			return err
		}
		if len(frame) > 0 {
			select {
			case out <- frame:
			default:
				c.server.crowds.quit(c.member) // or all who wait would wait for this peer to read
				began := time.Now()
				select {
				case out <- frame:
				case <-c.ctx.Done():
					return nil
				}
				c.pace.wait(time.Since(began))
			}
			if err != nil {
				close(out)
				<-c.ctx.Done() // once it is written
				return err
			}
			if !isNews(frame) {
				c.use()
			}
			continue
		}
		var changed <-chan struct{}
		if c.order != nil {
			if wait := newsEvery - time.Since(c.news); wait > 0 {
				later = time.After(wait)
			} else {
				later = nil
				changed = c.changes()
				if changed == nil {
					continue // there is news
				}
			}
		}
		var again, unasked <-chan time.Time
		if c.pause > 0 {
			again = time.After(c.pause)
		} else if !c.waits {
			c.setRests(true)
			unasked = time.After(serveIdle - c.idle())
		}
		var written chan<- []byte
		if c.booked > 0 {
			written = out // takes nothing before the last answer is written
		}
		began := time.Now()
		select {
		case written <- nil:
			c.release()
		case <-c.wake:
		case <-again:
		case <-changed:
		case <-c.member.turn:
		case <-later:
		case <-unasked:
			if c.idle() >= serveIdle {
				return errIdle
			}
		case <-c.ctx.Done():
			return nil
		}
		c.setRests(false)
		c.pace.wait(time.Since(began))
	}
}

// use notes that the stream is of use: nobody keeps one by what asks for nothing.
func (c *serving) use() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = time.Now()
}

// setRests says whether there is nothing to answer.
func (c *serving) setRests(rests bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rests = rests
}

// idle returns for how long the stream was of no use, 0 if there is something to answer.
func (c *serving) idle() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.rests {
		return 0
	}
	return time.Since(c.used)
}

// next makes the next answer. It is empty if there is nothing to answer, or no room for it.
// With an answer and an error, the stream ends after it.
func (c *serving) next() ([]byte, error) {
	c.waits, c.pause = false, 0
	frame, err := c.make()
	if !c.waits {
		c.server.crowds.quit(c.member)
	}
	return frame, err
}

func (c *serving) make() ([]byte, error) {
	got := c.asked.arrived()
	if got > c.sends {
		return nil, violation("GOT of %d DATA, %d were sent", got, c.sends)
	}
	c.arrived(got, true)
	if o, ok := c.asked.open(); ok {
		c.server.crowds.quit(c.member) // it may take long
		return c.open(o)
	}
	if c.order == nil {
		// After an OPENED 0 what was asked for together with OPEN may still come: it waits for
		// another OPEN, or the stream might end before that was read.
		if c.swarm == nil && c.asked.early() {
			return nil, violation("nothing is open")
		}
		return c.blocks()
	}
	// What has to wait makes nothing, and the next is tried.
	answers := []func() ([]byte, error){c.blocks, c.leaves, c.nodes, c.tell, c.choose}
	if c.turn {
		answers[1], answers[2] = c.nodes, c.leaves
	}
	for _, answer := range answers {
		if frame, err := answer(); len(frame) > 0 || err != nil {
			return frame, err
		}
	}
	return nil, nil
}

// enter takes a place in the upload for the next answer, if it needs one, and says whether it
// may be made; otherwise the stream is in line for a place. rest says that it goes on with
// the last, had that the peer had it.
func (c *serving) enter(rest, had bool) bool {
	if c.swarm.crowded(c.remote) {
		c.place = c.server.crowds.enter(c.member, rest, had)
		c.waits = c.place == nil
	}
	return !c.waits
}
