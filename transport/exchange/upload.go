package exchange

import (
	"math"
	"sync"
	"time"
)

// upload bounds what a server has on its way to all members of crowds together. Sent to
// many at once each answer takes long, and nobody can pass it on until it is whole; one
// after the other they arrive as fast as the line allows. Who is sent something outside
// of a crowd is bounded by what he asks for. Its methods may be called from many
// goroutines.
type upload struct {
	mu     sync.Mutex
	window window
	onWay  int // bytes
	answer int // bytes of an answer, on average of late
	// rtt is the shortest time that an answer took to be reported since rttAt, rttBefore that
	// in the time before.
	rtt, rttBefore time.Duration
	rttAt          time.Time
	room           chan struct{} // closed and replaced when there may be room
	// done are bytes that arrived since a time, when nothing had been on its way for long or
	// they were last counted; full says that the window was full meanwhile.
	done  int64
	since time.Time
	full  bool
	idle  time.Time // since when nothing is on its way, if nothing is
}

// onItsWay is an answer that was sent and may not have arrived.
type onItsWay struct {
	bytes   int
	at      time.Time
	counted bool
}

// After onWayTime, and twice as long as it takes at the rate at which answers arrive, one does
// not keep others waiting, whatever became of it: who reads slowly takes room from nobody.
const onWayTime = time.Second

// rttTime is how long the shortest time counts, and as long again: paths change, and peers lie.
const rttTime = 10 * time.Second

// sampleTime is how long it is counted what arrives, for the rate.
const sampleTime = time.Second

func newUpload() *upload {
	return &upload{window: window{size: 2 * firstWindow, gain: steadyGain}, answer: firstWindow / 2, rtt: math.MaxInt64, room: make(chan struct{})}
}

// enter takes a place for an answer, as long as the last ones were on average, for the
// caller to use with sent or to give back with arrived. Without room it returns nil and a
// channel that is closed when there may be room, unless rest says that the answer goes on
// with one that nobody can pass on before.
func (u *upload) enter(rest bool) (*onItsWay, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	// While one is on its way another has to be, or the line rests for a round trip.
	if u.onWay >= max(u.window.size, 2*u.answer) && !rest {
		u.full = true
		return nil, u.room
	}
	u.onWay += u.answer
	return &onItsWay{bytes: u.answer, counted: true}, nil
}

// sent counts an answer of n bytes. a is its place, nil if it took none.
func (u *upload) sent(a *onItsWay, n int) *onItsWay {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a == nil {
		a = &onItsWay{counted: true}
	}
	now := time.Now()
	if u.onWay == a.bytes && now.Sub(u.idle) > sampleTime {
		u.done, u.since, u.full = 0, now, false
	}
	if u.onWay += n - a.bytes; n < a.bytes {
		u.wake()
	}
	if n > 0 {
		u.answer = (7*u.answer + n) / 8
	}
	a.bytes, a.at = n, now
	patience := onWayTime
	if rate := u.window.rate(); rate > 0 {
		patience = min(patience+time.Duration(2*float64(n)/rate*float64(time.Second)), maxProof)
	}
	time.AfterFunc(patience, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.release(a)
	})
	return a
}

// arrived counts that an answer is there; reported says that the peer said so.
func (u *upload) arrived(a *onItsWay, reported bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.release(a)
	if !reported {
		return
	}
	u.done += int64(a.bytes)
	now := time.Now()
	if now.Sub(u.rttAt) > rttTime {
		u.rtt, u.rttBefore, u.rttAt = math.MaxInt64, u.rtt, now
	}
	if a.bytes >= u.answer { // shorter ones take less than the window is to allow for
		u.rtt = min(u.rtt, now.Sub(a.at))
	}
	// Several answers at a time arrive in bursts, so short times tell no rate.
	if rtt := min(u.rtt, u.rttBefore); now.Sub(u.since) >= sampleTime && rtt < math.MaxInt64 {
		u.window.sample(u.done, u.since, now, u.full, rtt, u.answer)
		u.done, u.since, u.full = 0, now, false
	}
}

// release makes room. The caller holds mu.
func (u *upload) release(a *onItsWay) {
	if !a.counted {
		return
	}
	a.counted = false
	if u.onWay -= a.bytes; u.onWay == 0 {
		u.idle = time.Now()
	}
	u.wake()
}

// wake lets those who wait for room look again. The caller holds mu.
func (u *upload) wake() {
	close(u.room)
	u.room = make(chan struct{})
}
