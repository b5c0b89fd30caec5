package exchange

import (
	"math"
	"slices"
	"sync"
	"time"
)

// upload bounds what a server has on its way to all members of crowds together. Sent to
// many at once each answer takes long, and nobody can pass it on until it is whole; one
// after the other they arrive as fast as the line allows. Who is sent something outside
// of a crowd is bounded by what he asks for. Its methods may be called from many
// goroutines.
type upload struct {
	mu      sync.Mutex
	window  window
	onWay   int // bytes
	answer  int // bytes of an answer, on average of late
	members map[*member]struct{}
	line    []*member // that wait for room, as they came
	// done are bytes that arrived since a time, when nothing had been on its way for long or
	// they were last counted; full says that the window was full meanwhile.
	done  int64
	since time.Time
	full  bool
	idle  time.Time // since when nothing is on its way, if nothing is
}

// member is a stream over which one of a crowd is answered.
type member struct {
	turn    chan struct{} // holds a value when there may be room, and nobody is before
	waits   bool          // in line
	came    time.Time     // to the line
	behind  bool          // those who are not
	mute    bool          // an answer was not reported in time
	sent    time.Time     // when the last answer was
	reports bool          // one was, in time or not
	// rtt is the shortest time that an answer took to be reported since rttAt, rttBefore that
	// in the time before.
	rtt, rttBefore time.Duration
	rttAt          time.Time
}

// onItsWay is an answer that was sent and may not have arrived.
type onItsWay struct {
	to      *member
	bytes   int
	at      time.Time
	counted bool
	after   func() // is called once it does not count any more
}

// After onWayTime, firstWayTime if the peer has reported none yet, and twice as long as it takes
// at the rate at which answers arrive, one does not keep others waiting, whatever became of it:
// who reads slowly takes room from nobody.
const (
	onWayTime    = time.Second
	firstWayTime = 250 * time.Millisecond
)

// rttTime is how long the shortest time counts, and as long again: paths change, and peers lie.
const rttTime = 10 * time.Second

// spareTime is after how long without leaves to another member there is room to spare: after
// as long those who were put off ask again.
const spareTime = putOffTime

// sampleTime is how long it is counted what arrives, for the rate.
const sampleTime = time.Second

func newUpload() *upload {
	return &upload{
		window:  window{size: 2 * firstWindow, gain: steadyGain},
		answer:  firstWindow / 2,
		members: make(map[*member]struct{}),
	}
}

// join returns a new member, which is to leave.
func (u *upload) join() *member {
	u.mu.Lock()
	defer u.mu.Unlock()
	m := &member{turn: make(chan struct{}, 1), rtt: math.MaxInt64, rttBefore: math.MaxInt64}
	u.members[m] = struct{}{}
	return m
}

func (u *upload) leave(m *member) {
	u.quit(m)
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.members, m)
}

// enter takes a place for an answer, as long as the last ones were on average, for the
// caller to use with sent or to give back with arrived. Without room it returns nil, and m
// is in line for it until it enters or quits, unless rest says that the answer goes on with
// one that nobody can pass on before. had says that the peer was sent it before: such wait
// behind the others, as do those who are mute.
func (u *upload) enter(m *member, rest, had bool) *onItsWay {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !rest {
		room := u.room()
		u.full = u.full || !room
		if !m.waits {
			m.waits, m.came = true, time.Now()
			u.line = append(u.line, m)
		}
		m.behind = had || m.mute
		if !room || u.next() != m {
			u.call() // it may have been the turn of m until now
			return nil
		}
	}
	u.onWay += u.answer
	u.leaveLine(m)
	return &onItsWay{to: m, bytes: u.answer, counted: true}
}

// next returns whose turn it is of those in line: the first that is not behind, or has waited
// long. The caller holds mu.
func (u *upload) next() *member {
	now := time.Now()
	for _, m := range u.line {
		if !m.behind || now.Sub(m.came) > maxRefusal {
			return m
		}
	}
	return u.line[0]
}

// isBehind says whether m waits behind the others.
func (u *upload) isBehind(m *member) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return m.waits && m.behind
}

// spare says whether no leaves were sent to others than m for a while, and nobody but m waits to
// be sent some, or only behind others.
func (u *upload) spare(m *member) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	for o := range u.members {
		if o != m && (o.waits && !o.behind || now.Sub(o.sent) < spareTime) {
			return false
		}
	}
	return true
}

// room says whether another answer may be on its way. The caller holds mu.
func (u *upload) room() bool {
	// While one is on its way another has to be, or the line rests for a round trip.
	return u.onWay < max(u.window.size, 2*u.answer)
}

// quit takes m out of the line: it does not want anything now, or could not send it.
func (u *upload) quit(m *member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.leaveLine(m)
}

// leaveLine takes m out of the line, if it is there, and calls the next one. The caller holds
// mu.
func (u *upload) leaveLine(m *member) {
	if m.waits {
		m.waits = false
		u.line = slices.DeleteFunc(u.line, func(o *member) bool { return o == m })
	}
	u.call()
}

// call tells the next in line if there is room. The caller holds mu.
func (u *upload) call() {
	if len(u.line) > 0 && u.room() {
		select {
		case u.next().turn <- struct{}{}:
		default:
		}
	}
}

// sent counts an answer of n bytes to m. a is its place, nil if it took none. after is called
// once it has arrived, or does not keep others waiting any more.
func (u *upload) sent(m *member, a *onItsWay, n int, after func()) *onItsWay {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a == nil {
		a = &onItsWay{to: m, counted: true}
	}
	now := time.Now()
	if u.onWay == a.bytes && now.Sub(u.idle) > sampleTime {
		u.done, u.since, u.full = 0, now, false
	}
	m.sent = now
	u.onWay += n - a.bytes
	u.call() // it may be shorter than its place
	if n > 0 {
		u.answer = (7*u.answer + n) / 8
	}
	a.bytes, a.at, a.after = n, now, after
	patience := onWayTime
	if !m.reports {
		patience = firstWayTime
	}
	if rate := u.window.rate(); rate > 0 {
		patience = min(patience+time.Duration(2*float64(n)/rate*float64(time.Second)), maxProof)
	}
	time.AfterFunc(patience, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		m.mute = m.mute || a.counted
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
	a.to.mute, a.to.reports = false, true
	u.done += int64(a.bytes)
	now := time.Now()
	if m := a.to; now.Sub(m.rttAt) > rttTime {
		m.rtt, m.rttBefore, m.rttAt = math.MaxInt64, m.rtt, now
	}
	if a.bytes >= u.answer { // shorter ones take less than the window is to allow for
		a.to.rtt = min(a.to.rtt, now.Sub(a.at))
	}
	// Several answers at a time arrive in bursts, so short times tell no rate.
	if now.Sub(u.since) < sampleTime {
		return
	}
	if rtt := u.rtt(now); rtt > 0 {
		u.window.sample(u.done, u.since, now, u.full, rtt, u.answer)
		u.done, u.since, u.full = 0, now, false
	}
}

// rtt returns the median of the members' shortest times, 0 if none is known: neither one that
// is near nor one that lies decides how much is on its way to the others. The caller holds mu.
func (u *upload) rtt(now time.Time) time.Duration {
	var all []time.Duration
	for m := range u.members {
		if rtt := min(m.rtt, m.rttBefore); rtt < math.MaxInt64 && now.Sub(m.rttAt) <= 2*rttTime {
			all = append(all, rtt)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return max(all[len(all)/2], 1)
}

// release makes room. The caller holds mu.
func (u *upload) release(a *onItsWay) {
	if !a.counted {
		return
	}
	a.counted = false
	if a.after != nil {
		a.after()
	}
	if u.onWay -= a.bytes; u.onWay == 0 {
		u.idle = time.Now()
	}
	u.call()
}
