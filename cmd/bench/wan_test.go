//go:build linux

package main

import (
	"container/heap"
	"encoding/binary"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDestination(t *testing.T) {
	w := newWAN(0, 0)
	for i := range 3 {
		w.endpoints = append(w.endpoints, &endpoint{addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})})
	}
	v4 := func(to ...byte) []byte { return append([]byte{0x45, 15: 0}, to...) }
	for _, tt := range []struct {
		name   string
		packet []byte
		want   *endpoint
	}{
		{"first", v4(10, 77, 0, 1), w.endpoints[0]},
		{"last, with options and data", append(append([]byte{0x4f}, v4(10, 77, 0, 3)[1:]...), 1, 2, 3), w.endpoints[2]},
		{"nobody", v4(10, 77, 0, 4), nil},
		{"another network", v4(10, 78, 0, 1), nil},
		{"multicast", v4(224, 0, 0, 251), nil},
		{"IPv6", append([]byte{0x60}, v4(10, 77, 0, 1)[1:]...), nil},
		{"cut off", v4(10, 77, 0), nil},
		{"empty", nil, nil},
	} {
		if got := w.destination(tt.packet); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestArrivals(t *testing.T) {
	var a arrivals
	start := time.Now()
	for _, ms := range []int{5, 1, 4, 1, 3} {
		heap.Push(&a, packet{at: start.Add(time.Duration(ms) * time.Millisecond)})
	}
	for _, ms := range []int{1, 1, 3, 4, 5} {
		if got := heap.Pop(&a).(packet).at.Sub(start); got != time.Duration(ms)*time.Millisecond {
			t.Errorf("%v came, want %d ms", got, ms)
		}
	}
}

// TestSlowSender shows that packets which wait in a slow line do not hold up those of
// a fast one to the same host. Pipes stand for the TUN devices.
func TestSlowSender(t *testing.T) {
	w := newWAN(0, 0)
	inside := make([]*os.File, 3) // the hosts' ends
	for i, line := range []rates{{}, {up: 0.1}, {}} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		inside[i] = os.NewFile(uintptr(fds[0]), "host")
		defer inside[i].Close()
		w.endpoints = append(w.endpoints, &endpoint{
			addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}),
			tun:  os.NewFile(uintptr(fds[1]), "tun"),
			in:   make(chan packet, inFlight),
			up:   newLink(line.up),
			down: newLink(100),
		})
	}
	w.start()
	defer w.close()
	send := func(from int, number uint32) {
		p := append([]byte{0x45, 15: 0}, 10, 77, 0, 1)
		p = binary.BigEndian.AppendUint32(p, number)
		p = append(p, make([]byte, 1000)...)
		if _, err := inside[from].Write(p); err != nil {
			t.Fatal(err)
		}
	}
	const slow, fast = 1, 2
	send(slow, 0) // 80 ms
	send(slow, 1) // 160 ms
	for i := range uint32(100) {
		send(fast, 2+i) // at once
	}
	inside[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, mtu)
	var order []uint32
	for range 102 {
		n, err := inside[0].Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n != 1024 {
			t.Fatalf("got %d bytes, want 1024", n)
		}
		order = append(order, binary.BigEndian.Uint32(buf[20:]))
	}
	for i, number := range order {
		want := uint32(i + 2)
		if i >= 100 {
			want = uint32(i - 100)
		}
		if number != want {
			t.Fatalf("packets came in the order %v", order)
		}
	}
	for i, want := range []struct{ sent, received int64 }{{0, 102 * 1024}, {2 * 1024, 0}, {100 * 1024, 0}} {
		e := w.endpoints[i]
		if e.sent.Load() != want.sent || e.dropped.Load() != 0 {
			t.Errorf("host %d: sent %d bytes, %d packets dropped, want %d and 0", i, e.sent.Load(), e.dropped.Load(), want.sent)
		}
	}
}
