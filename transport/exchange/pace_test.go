package exchange

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// TestPace has answers be made without a pause, and then with long ones: they become less
// dense, and denser again.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := newEncoder()
		if err != nil {
			t.Fatal(err)
		}
		var p pace
		if p.level() != levelDense {
			t.Fatalf("level %d at first", p.level())
		}
		step := func(n int, took, pause time.Duration) {
			time.Sleep(took)
			p.made(e, n)
			time.Sleep(pause)
			p.wait(pause)
		}
		for range 5 {
			step(1<<20, 17*time.Millisecond, 0)
		}
		if p.level() == levelDense {
			t.Error("keeps the line waiting at first, and is as dense as ever")
		}
		for range 100 {
			step(1<<20, []time.Duration{time.Millisecond, 7 * time.Millisecond, 17 * time.Millisecond}[p.level()], 0)
		}
		if p.level() != levelStored {
			t.Errorf("level %d though there is no pause", p.level())
		}
		for range 100 {
			step(1<<20, time.Millisecond, 200*time.Millisecond)
		}
		if p.level() != levelDense {
			t.Errorf("level %d though there is time", p.level())
		}
		for range 5 { // this may pass
			step(1<<20, 17*time.Millisecond, 0)
		}
		if p.level() != levelDense {
			t.Errorf("level %d as soon as there is no time for once", p.level())
		}
		// In between it stays: not so busy, and no time for more.
		p = pace{lower: 1}
		for range 100 {
			step(1<<20, 10*time.Millisecond, 5*time.Millisecond)
		}
		if p.level() != levelFast {
			t.Errorf("level %d, want %d", p.level(), levelFast)
		}
	})
}

// TestPaceOfStream has answers take much less time than is waited: until the last one is taken,
// until something is asked for, or for what another stream makes. They stay dense.
func TestPaceOfStream(t *testing.T) {
	const segments, each = 24, 16 // so many leaves in each
	var leaves []blockstore.Block
	for i := range segments * each {
		text := fmt.Appendf(nil, "%016d", i)
		leaves = append(leaves, blockstore.Sum(cid.Raw, bytes.Repeat(text, segmentBytes/each/len(text))))
	}
	site := append([]blockstore.Block{nodeOf(leaves...)}, leaves...)
	segment := func(i int) span { return span{i * each, each} }
	// Of two segments the first takes long, and the other less.
	const long, short = 200 * time.Millisecond, 50 * time.Millisecond
	takes := make(map[cid.Cid]time.Duration)
	for i := range segments {
		takes[leaves[segment(i).first].CID()] = []time.Duration{long, short}[i%2]
	}
	h := newHost(t)
	for _, tt := range []struct {
		name string
		time func(cid.Cid) time.Duration
		ask  func(seed *node, p *asker)
	}{
		{"taken", func(cid.Cid) time.Duration { return 0 }, func(_ *node, p *asker) {
			p.Write(appendSpanFrame(nil, frameWant, []span{{0, len(leaves)}}))
		}},
		{"asked for", func(cid.Cid) time.Duration { return 0 }, func(_ *node, p *asker) {
			for i := range segments {
				time.Sleep(short)
				p.Write(appendSpanFrame(nil, frameWant, []span{segment(i)}))
			}
		}},
		{"made by another", func(c cid.Cid) time.Duration { return takes[c] }, func(seed *node, p *asker) {
			other := seed.asks("other", opening(site[0].CID()))
			defer other.Reset()
			time.AfterFunc(short, func() { p.Write(appendSpanFrame(nil, frameWant, []span{{0, len(leaves)}})) })
			for i := 0; i < segments; i += 2 {
				other.Write(appendSpanFrame(nil, frameWant, []span{segment(i)}))
				<-other.came
				time.Sleep(short / 2) // p makes the next one meanwhile
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := nodeOn(t, h, nil, takesTime{hold(site...), tt.time})
				p := seed.asks("p", opening(site[0].CID()))
				tt.ask(seed, p)
				for i := range segments {
					a, err := parseData((<-p.came).body)
					if err != nil || a.span() != segment(i) {
						t.Errorf("leaves %v, %v; want %v", a.span(), err, segment(i))
					}
					if a.body.encoding != encodingZstd {
						t.Errorf("segment %d comes as it is", i)
					}
				}
				p.Reset()
				time.Sleep(time.Minute) // until nobody is served any more
			})
		})
	}
}

func TestEncoderSpeed(t *testing.T) {
	e, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	before := e.speed
	e.made(levelFast, 1000, time.Second) // says little
	e.made(levelFast, 1<<20, 0)
	if e.speed != before {
		t.Error("it was measured with too little")
	}
	for range 100 {
		e.made(levelFast, 1<<20, 100*time.Millisecond)
	}
	if got := e.speed[levelFast]; got < 10e6 || got > 11e6 {
		t.Errorf("%.0f bytes/s", got)
	}
}

// TestWindow follows a path that gets slower, and then faster.
func TestWindow(t *testing.T) {
	w := window{size: firstWindow, gain: steadyGain}
	if w.rate() != 0 {
		t.Error("a rate is known")
	}
	now := time.Now()
	const rtt = 100 * time.Millisecond
	run := func(rate float64, n int) {
		for range n {
			asked := now
			bytes := int64(min(float64(w.size), rate*rtt.Seconds()))
			now = now.Add(max(rtt, time.Duration(float64(bytes)/rate*float64(time.Second))))
			w.sample(bytes, asked, now, true, rtt, 1000)
			if w.size < minWindow || w.size > maxWindow {
				t.Fatalf("window of %d bytes", w.size)
			}
		}
	}
	run(1e6, 100)
	if got := w.size; got < 100_000 || got > 300_000 {
		t.Errorf("window of %d bytes where %d are on the way", got, 100_000)
	}
	run(1e4, 100)
	if w.size > 2*minWindow {
		t.Errorf("window of %d bytes on a slow path", w.size)
	}
	run(1e9, 100)
	if w.size < 200_000 {
		t.Errorf("window of %d bytes on a fast path", w.size)
	}
	size := w
	w.sample(10, now, now.Add(time.Second), false, rtt, 1000)
	if w != size {
		t.Error("the window shrank though it was not full")
	}
	w.sample(1<<40, now, now, true, 10*time.Second, maxAnswer) // in no time
	if w.size > maxWindow+2*maxAnswer {
		t.Errorf("window of %d bytes", w.size)
	}
}

// TestCheck lets time pass for a session that owes something.
func TestCheck(t *testing.T) {
	newSess := func() (*Fetch, *session) {
		f := newFetch(&Client{}, Request{Root: raw("root").CID()})
		s := newSession(f, "p", resettable{})
		s.window.rates[0] = 1e6 // it has brought leaves
		s.owed = []*debt{{task: &task{left: 1, owers: []*session{s}}}}
		return f, s
	}
	f, s := newSess()
	now := s.lastByte
	tick := func(d time.Duration, bytes int64) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(100 * time.Millisecond)
			f.mu.Lock()
			s.check(now)
			f.mu.Unlock()
		}
		s.received.Add(bytes)
	}
	s.rtt = 10 * time.Millisecond
	tick(900*time.Millisecond, stallBytes)
	if s.stalled {
		t.Error("stalled too early")
	}
	tick(1200*time.Millisecond, 0)
	if !s.stalled || len(f.pool.queue) != 1 {
		t.Error("not stalled, or what it owes is not offered")
	}
	tick(100*time.Millisecond, stallBytes)
	tick(100*time.Millisecond, 0)
	if s.stalled {
		t.Error("stalled though something came")
	}
	for range 60 { // a byte at a time
		tick(200*time.Millisecond, 1)
	}
	if !s.stalled {
		t.Error("not stalled though little comes")
	}
	if s.err != nil {
		t.Errorf("ended after %v: %v", now.Sub(s.begun), s.err)
	}
	tick(4*time.Second, 1)
	if s.err != errStalled {
		t.Errorf("not ended after %v: %v", now.Sub(s.begun), s.err)
	}

	f, s = newSess()
	now, s.rtt = s.lastByte, time.Second
	tick(3*time.Second, 0)
	if s.stalled {
		t.Error("stalled before four round trips")
	}
	for range 40 { // what the slowest links bring
		tick(500*time.Millisecond, 1<<10)
	}
	if s.stalled || s.err != nil {
		t.Errorf("slow, and ended: %v", s.err)
	}

	f, s = newSess() // has brought no leaves
	now, s.rtt, s.window = s.lastByte, time.Millisecond, window{}
	if tick(firstStall-100*time.Millisecond, 0); s.stalled {
		t.Error("stalled too early for the first time")
	}
	if tick(firstStall, 0); !s.stalled || s.merit() != barren {
		t.Errorf("silent since it was asked first, and stalled is %v, merit %v", s.stalled, s.merit())
	}
}

// TestReadersShare lets a reader wait for a page: what a session may owe leaves room for that.
func TestReadersShare(t *testing.T) {
	f := newFetch(&Client{paths: newPaths()}, Request{Root: raw("root").CID()})
	s := newSession(f, "p", resettable{})
	whole := s.limit()
	f.client.readers.Add(1)
	if n := s.limit(); n != whole/readersShare || n == 0 {
		t.Errorf("%d bytes of %d while a reader waits", n, whole)
	}
	f.client.readers.Add(-1)
	if n := s.limit(); n != whole {
		t.Errorf("%d bytes of %d when none waits any more", n, whole)
	}
}
