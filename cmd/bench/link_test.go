//go:build linux

package main

import (
	"testing"
	"time"
)

func TestLink(t *testing.T) {
	const n = 1250 // bytes: 1 ms at 10 Mbit/s
	start := time.Now()
	ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
	type packet struct {
		at, leaves time.Time // leaves zero: dropped
	}
	for _, tt := range []struct {
		name    string
		mbit    float64
		packets []packet
	}{
		{"no limit", 0, []packet{{ms(0), ms(0)}, {ms(0), ms(0)}}},
		{"idle", 10, []packet{{ms(0), ms(1)}, {ms(5), ms(6)}}},
		{"one behind the other", 10, []packet{{ms(0), ms(1)}, {ms(0), ms(2)}, {ms(1), ms(3)}, {ms(10), ms(11)}}},
		{"slow", 1, []packet{{ms(0), ms(10)}, {ms(0), ms(20)}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLink(tt.mbit)
			for i, p := range tt.packets {
				got, ok := l.admit(p.at, n)
				if !ok || !got.Equal(p.leaves) {
					t.Errorf("packet %d left %v after the start (%v), want %v", i, got.Sub(start), ok, p.leaves.Sub(start))
				}
			}
		})
	}
}

// TestLinkQueue fills queues: what they hold, beyond the packet that is leaving, is
// 100 ms or 64 KiB. When room is there again, they take more.
func TestLinkQueue(t *testing.T) {
	for _, tt := range []struct {
		mbit float64
		n    int // bytes of a packet
		held int // packets
	}{
		{mbit: 10, n: 1250, held: 101},   // 1 ms each
		{mbit: 100, n: 1250, held: 1001}, // 0.1 ms each
		{mbit: 1, n: 4096, held: 17},     // 64 KiB is 16
	} {
		l := newLink(tt.mbit)
		now := time.Now()
		held := 0
		for ; held < 2*tt.held; held++ {
			if _, ok := l.admit(now, tt.n); !ok {
				break
			}
		}
		if held != tt.held {
			t.Errorf("%v Mbit/s held %d packets of %d bytes, want %d", tt.mbit, held, tt.n, tt.held)
		}
		full := l.free
		if _, ok := l.admit(now, tt.n); ok || l.free != full {
			t.Errorf("%v Mbit/s: a dropped packet took time", tt.mbit)
		}
		if left, ok := l.admit(full, tt.n); !ok || !left.After(full) {
			t.Errorf("%v Mbit/s: the empty queue took nothing", tt.mbit)
		}
	}
}
