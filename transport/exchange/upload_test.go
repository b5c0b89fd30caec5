package exchange

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// TestUpload fills the window of an upload and empties it.
func TestUpload(t *testing.T) {
	u := newUpload()
	m := u.join()
	var placed []*onItsWay
	for {
		a := u.enter(m, false, false)
		if a == nil {
			break
		}
		placed = append(placed, u.sent(m, a, 100_000, nil))
	}
	if want := 2*firstWindow/100_000 + 1; len(placed) != want {
		t.Errorf("%d answers of 100,000 bytes are on their way, want %d", len(placed), want)
	}
	if a := u.enter(m, true, false); a == nil {
		t.Error("no place for the rest of an answer")
	} else {
		u.arrived(a, false)
	}
	u.enter(m, false, false)
	u.arrived(placed[0], true)
	<-m.turn
	a := u.enter(m, false, false)
	if a == nil {
		t.Fatal("no room after one has arrived")
	}
	// A place counts as much as an answer on average, until it is known how long it is.
	if a.bytes < firstWindow/2 || a.bytes > 100_000 {
		t.Errorf("a place of %d bytes", a.bytes)
	}
	if u.enter(m, false, false) != nil {
		t.Fatal("a place takes no room")
	}
	u.sent(m, a, 10, nil)
	<-m.turn // the answer was shorter
	for _, a := range append(placed, a) {
		u.arrived(a, true)
		u.arrived(a, true)
	}
	if u.onWay != 0 {
		t.Errorf("%d bytes are on their way at the end", u.onWay)
	}
}

// TestUploadLine has members wait for room: who came first is first, but for those who do not
// want it any more.
func TestUploadLine(t *testing.T) {
	u := newUpload()
	sender := u.join()
	var sent []*onItsWay
	for a := u.enter(sender, false, false); a != nil; a = u.enter(sender, false, false) {
		sent = append(sent, u.sent(sender, a, 200_000, nil))
	}
	u.quit(sender)
	var line []*member
	for range 4 {
		m := u.join()
		line = append(line, m)
		for range 2 { // whoever asks again keeps its place
			if u.enter(m, false, false) != nil {
				t.Fatal("there is room")
			}
		}
	}
	called := func(m *member) bool {
		select {
		case <-m.turn:
			return true
		default:
			return false
		}
	}
	u.arrived(sent[0], true)
	for i, m := range line {
		if called(m) != (i == 0) {
			t.Errorf("the first of the line has come; is it the turn of number %d? %v", i, i != 0)
		}
	}
	if u.enter(line[1], false, false) != nil || u.enter(sender, false, false) != nil {
		t.Error("somebody goes before the first in line")
	}
	u.quit(line[0])
	if !called(line[1]) {
		t.Error("the first one has quit, and the second is not called")
	}
	u.leave(line[1])
	if !called(line[2]) {
		t.Error("the second one has left, and the third is not called")
	}
	if u.enter(line[2], false, false) == nil {
		t.Error("no place for the one whose turn it is")
	}
	for _, a := range sent[1:] {
		u.arrived(a, true)
	}
	if !called(line[3]) {
		t.Error("there is room again, and the last one is not called")
	}
	if u.enter(line[3], false, false) == nil || len(u.line) != 1 || u.line[0] != sender {
		t.Errorf("%d are still in line", len(u.line))
	}
}

// TestUploadBehind has members wait for what they had before, or without a report: it is the
// turn of the others before, but not for ever.
func TestUploadBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpload()
		mute, had, other := u.join(), u.join(), u.join()
		a := u.sent(mute, u.enter(mute, false, false), 2*firstWindow, nil)
		turns := func(want ...*member) {
			t.Helper()
			u.mu.Lock()
			defer u.mu.Unlock()
			line := slices.Clone(u.line)
			for i, m := range want {
				if next := u.next(); next != m {
					t.Errorf("it is the turn of another before it is that of number %d", i)
				}
				u.line = slices.DeleteFunc(u.line, func(o *member) bool { return o == m })
			}
			if u.line = line; len(line) != len(want) {
				t.Errorf("%d in line, want %d", len(line), len(want))
			}
		}
		u.enter(had, false, true)
		u.enter(mute, false, false)
		u.enter(other, false, false)
		turns(mute, other, had)
		time.Sleep(firstWayTime)
		synctest.Wait()
		// Whoever was called, and is behind by now, calls the next.
		<-mute.turn
		if u.enter(mute, false, false) != nil {
			t.Fatal("who is behind was the first")
		}
		<-other.turn
		turns(other, had, mute)
		b := u.sent(other, u.enter(other, false, false), 2*firstWindow, nil)
		u.enter(other, false, true)
		turns(had, mute, other)
		u.enter(other, false, false)
		turns(other, had, mute)
		u.arrived(a, true)
		u.enter(mute, false, false)
		turns(mute, other, had)
		// What is reported in time leaves nothing behind, short answers too.
		u.arrived(b, true)
		c := u.sent(other, nil, 1000, nil)
		time.Sleep(2 * firstWayTime)
		synctest.Wait()
		u.arrived(c, true)
		time.Sleep(maxRefusal - 3*firstWayTime)
		u.enter(other, false, false)
		turns(mute, other, had)
		time.Sleep(firstWayTime + 1)
		turns(had, mute, other)
	})
}

// TestUploadRate reports answers that come in bursts.
func TestUploadRate(t *testing.T) {
	u := newUpload()
	m := u.join()
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	hold := u.sent(m, nil, 1, nil)
	m.rttAt, u.since = ago(time.Second), ago(900*time.Millisecond)
	for range 8 {
		a := u.sent(m, nil, 125_000, nil)
		a.at = ago(200 * time.Millisecond)
		u.arrived(a, true)
	}
	if rate := u.window.rate(); rate != 0 {
		t.Errorf("%.0f bytes/s are known before a second has passed", rate)
	}
	u.since = ago(2 * time.Second)
	a := u.sent(m, nil, 1000, nil) // too short to tell the round trip
	u.arrived(a, true)
	if rate := u.window.rate(); rate < 450_000 || rate > 501_000 {
		t.Errorf("%.0f bytes/s, but 1,001,000 came in 2 s", rate)
	}
	if m.rtt < 200*time.Millisecond {
		t.Errorf("a round trip of %v", m.rtt)
	}
	u.arrived(hold, false)
	u.since, u.idle = ago(time.Hour), ago(time.Hour)
	u.sent(m, nil, 1000, nil) // times in which nothing was sent do not count
	if time.Since(u.since) > time.Minute {
		t.Error("an hour in which nothing was sent counts for the rate")
	}
}

// TestUploadNear sends to members most of which are far away.
func TestUploadNear(t *testing.T) {
	u := newUpload()
	if got := u.rtt(time.Now()); got != 0 {
		t.Errorf("nobody reported, and the round trip is %v", got)
	}
	send := func(rtt time.Duration) {
		m := u.join()
		for _, longer := range []time.Duration{0, time.Second} {
			a := u.sent(m, nil, firstWindow, nil)
			a.at = time.Now().Add(-rtt - longer)
			u.arrived(a, true)
		}
	}
	far := 300 * time.Millisecond
	send(time.Millisecond)
	send(far)
	send(far)
	send(time.Hour) // or says so
	u.join()        // gets nothing
	if got := u.rtt(time.Now()); got < far || got > 2*far {
		t.Errorf("a round trip of %v, that of most is %v", got, far)
	}
	if got := u.rtt(time.Now().Add(2*rttTime + time.Second)); got != 0 {
		t.Errorf("a round trip of %v, of long ago", got)
	}
}

// TestUploadOneByOne sends answers that are larger than the window, each when the one before
// has arrived.
func TestUploadOneByOne(t *testing.T) {
	u := newUpload()
	m := u.join()
	for range 30 { // until it is known how long they are
		u.arrived(u.sent(m, u.enter(m, false, false), 1<<20, nil), true)
	}
	first, second := u.enter(m, false, false), u.enter(m, false, false)
	if first == nil || second == nil {
		t.Fatal("one answer at a time")
	}
	if u.enter(m, false, false) != nil {
		t.Error("three at a time")
	}
	u.since = u.since.Add(-2 * time.Second)
	u.arrived(u.sent(m, first, 1<<20, nil), true)
	u.arrived(u.sent(m, second, 1<<20, nil), true)
	if u.window.rate() == 0 {
		t.Error("no rate is known though answers followed each other for 2 s")
	}
}

// TestUploadSpare says when there is room to spare for one of two members.
func TestUploadSpare(t *testing.T) {
	u := newUpload()
	m, other := u.join(), u.join()
	if !u.spare(m) {
		t.Error("none, where nothing was sent to anybody")
	}
	a := u.sent(m, u.enter(m, false, false), 10*firstWindow, nil)
	if !u.spare(m) || u.spare(other) {
		t.Error("none for whom all was sent to, or some for another")
	}
	m.sent = m.sent.Add(-spareTime)
	if !u.spare(other) {
		t.Error("none, long after something was sent")
	}
	u.enter(other, false, false)
	if u.spare(m) {
		t.Error("some, while another waits")
	}
	u.enter(other, false, true)
	if !u.spare(m) {
		t.Error("none, where another waits behind all")
	}
	u.arrived(a, true)
}

// TestClaim claims segments for many peers at once.
func TestClaim(t *testing.T) {
	o := newOrder(raw("root").CID(), cid.Undef)
	o.cuts = []uint32{0, 1, 2, 3}
	o.larger = map[int]struct{}{3: {}}
	w := newSwarms().enter(o.root)
	w.all = true
	peers := make([]peer.ID, 20)
	for i := range peers {
		peers[i] = peer.ID(rune('a' + i))
		if _, err := w.serve(t.Context(), peers[i]); err != nil {
			t.Fatal(err)
		}
	}
	spare := false
	claims := func(segment int, insists bool) int {
		var n int
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, p := range peers {
			all.Go(func() {
				if w.claim(segment, o, p, insists, spare) {
					mu.Lock()
					n++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		return n
	}
	for i := range o.cuts[:3] {
		if n := claims(i, false); n != 1 {
			t.Errorf("segment %d, of which nothing was sent, for %d peers, want 1", i, n)
		}
	}
	w.arrived(1) // nothing was sent, as it could not be read
	if n := claims(1, false); n != 1 {
		t.Errorf("a segment that was given up for %d peers, want 1", n)
	}
	if n := claims(2, true); n != len(peers) {
		t.Errorf("%d of %d peers that insist", n, len(peers))
	}
	w.sending(0)
	w.arrived(0)
	if n := claims(0, false); n != 0 {
		t.Errorf("a segment that could be passed on for %d peers, want none", n)
	}
	spare = true
	if n := claims(0, false); n != 1 {
		t.Errorf("a segment that could be passed on, while there is nothing else to send, for %d peers, want 1", n)
	}
	spare = false
	w.arrived(0)
	w.sent[0] = time.Now().Add(-passTime)
	if n := claims(0, false); n != 1 {
		t.Errorf("a segment that could have been passed on for %d peers, want 1", n)
	}
	// Who lacks something has it from others too, and sends what it is asked for.
	w.all = false
	if n := claims(0, false); n != len(peers) {
		t.Errorf("a segment that others sent before for %d of %d peers", n, len(peers))
	}
	if n := claims(3, false); n != maxSending {
		t.Errorf("a large segment for %d peers at a time, want %d", n, maxSending)
	}
	w.arrived(3)
	if n := claims(3, false); n != 1 {
		t.Errorf("a large segment for %d more when one has arrived, want 1", n)
	}
}

// TestSwapBusiest fetches from peers some of which have many to serve.
func TestSwapBusiest(t *testing.T) {
	f := newFetch(&Client{}, Request{Root: raw("root").CID()})
	var sessions []*session
	for i := range maxActive {
		s := newSession(f, peer.ID(rune('a'+i)), resettable{})
		s.opened, s.others = true, maxActive-1
		f.sessions[s] = struct{}{}
		sessions = append(sessions, s)
	}
	busy, seed := sessions[0], sessions[1]
	seed.others, seed.all = 1000*maxActive, true
	swap := func() (ended int) {
		for range 1000 { // by a chance that is too small to be missed
			f.swapBusiest()
		}
		for _, s := range sessions {
			if s.err != nil {
				ended++
			}
		}
		return ended
	}
	f.mutual = true
	if n := swap(); n != 0 {
		t.Errorf("%d sessions ended, though none has too many to serve but who has all", n)
	}
	f.mutual, busy.others = false, 1000*maxActive
	if n := swap(); n != 0 {
		t.Errorf("%d sessions ended for nobody", n)
	}
	f.mutual = true
	if n := swap(); n != 1 || busy.err != errBusiest {
		t.Errorf("%d sessions ended, of the busiest: %v", n, busy.err)
	}
}

// TestWhoComesIsAsked lets two nodes fetch, each of which holds half, of which one only knows
// where the other is.
func TestWhoComesIsAsked(t *testing.T) {
	site := newTree(61, 4, 50)
	leaves := site.blocks[1:]
	var half [2][]int
	for i, b := range leaves {
		if b.CID().Type() == cid.DagProtobuf {
			half[0], half[1] = append(half[0], i), append(half[1], i)
			continue
		}
		half[i%2] = append(half[i%2], i)
	}
	a, b := newNode(t, site.blocks[0]), newNode(t, site.blocks[0])
	for i, n := range []*node{a, b} {
		for _, at := range half[i] {
			if err := n.store.Put(leaves[at]); err != nil {
				t.Fatal(err)
			}
		}
	}
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := a.fetch(t.Context(), Request{Root: site.root()}); err != nil {
			t.Errorf("who was asked: %v", err)
		}
	})
	both.Go(func() {
		if _, err := b.fetch(t.Context(), Request{Root: site.root()}, a.info()); err != nil {
			t.Errorf("who asked: %v", err)
		}
	})
	both.Wait()
	a.checkHeld(t, site.blocks)
	b.checkHeld(t, site.blocks)
}
