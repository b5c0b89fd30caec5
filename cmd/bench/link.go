//go:build linux

package main

import "time"

// link is one direction of a host's line: it passes on bytes at a rate, from a
// queue that drops what it has no room for (drop-tail).
type link struct {
	rate float64       // bytes a second; 0: no limit
	hold time.Duration // longest wait in the queue
	free time.Time     // when the last byte accepted will have left
}

// newLink makes a link of mbit million bits a second, 0 for no limit. Its queue
// holds 100 ms, as home routers do, but on slow lines at least 64 KiB, about the
// burst that a new TCP connection may send.
func newLink(mbit float64) link {
	const (
		usual = 100 * time.Millisecond
		burst = 64 << 10 // bytes
	)
	if mbit == 0 {
		return link{}
	}
	rate := mbit * 1e6 / 8
	return link{rate: rate, hold: max(usual, duration(burst/rate))}
}

// admit queues a packet of n bytes that gets to the link at a time, not before
// those admitted earlier did. It returns when the last byte has left, or false if
// the queue is full.
func (l *link) admit(at time.Time, n int) (time.Time, bool) {
	if l.rate == 0 {
		return at, true
	}
	start := at
	if l.free.After(at) {
		start = l.free
	}
	if start.Sub(at) > l.hold {
		return time.Time{}, false
	}
	l.free = start.Add(duration(float64(n) / l.rate))
	return l.free, true
}

// duration makes one of seconds.
func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
