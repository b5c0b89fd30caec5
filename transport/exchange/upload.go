package exchange

import (
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
	done   int64
	rtt    time.Duration // the shortest that an answer took to be reported, of late
	rttAt  time.Time     // when that was
	room   chan struct{} // closed and replaced when there may be room
}

// onItsWay is an answer that was sent and may not have arrived.
type onItsWay struct {
	bytes   int
	at      time.Time
	done    int64 // bytes that had arrived by then
	full    bool  // it filled the window
	counted bool
}

// After onWayTime an answer does not keep others waiting, whatever became of it: who reads
// slowly takes room from nobody.
const onWayTime = time.Second

// rttTime is how long the shortest time counts: paths change, and peers lie.
const rttTime = 10 * time.Second

func newUpload() *upload {
	return &upload{window: window{size: firstWindow}, room: make(chan struct{})}
}

// full returns a channel that is closed when there may be room, or nil if there is room.
func (u *upload) full() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.onWay < u.window.size {
		return nil
	}
	return u.room
}

// sent counts an answer of n bytes.
func (u *upload) sent(n int) *onItsWay {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.onWay += n
	a := &onItsWay{bytes: n, at: time.Now(), done: u.done, full: u.onWay >= u.window.size, counted: true}
	time.AfterFunc(onWayTime, func() {
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
	if took := now.Sub(a.at); u.rtt == 0 || took < u.rtt || now.Sub(u.rttAt) > rttTime {
		u.rtt, u.rttAt = took, now
	}
	u.window.sample(u.done-a.done, a.at, now, a.full, u.rtt, a.bytes)
}

// release makes room. The caller holds mu.
func (u *upload) release(a *onItsWay) {
	if !a.counted {
		return
	}
	a.counted = false
	u.onWay -= a.bytes
	close(u.room)
	u.room = make(chan struct{})
}
