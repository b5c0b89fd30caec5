//go:build linux

package main

import (
	"container/heap"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// wan joins network namespaces as the internet joins machines. Each has a TUN
// device, so every IP packet that one sends comes to this program, which passes it
// on late, at the line's rate, or not at all. A packet goes through the sender's
// uplink, then takes half of the round-trip time, then goes through the
// receiver's downlink; whatever is between is faster than the lines.
type wan struct {
	endpoints []*endpoint // of 10.77.0.1, 10.77.0.2, ...
	delay     time.Duration
	loss      float64
	closing   chan struct{}
	running   sync.WaitGroup
}

// endpoint is where one namespace is joined.
type endpoint struct {
	addr netip.Addr
	tun  *os.File
	in   chan packet // in flight to this endpoint
	up   link        // owned by send
	down link        // owned by receive

	sent     atomic.Int64 // bytes of IP packets to other endpoints, dropped ones too
	received atomic.Int64 // bytes of IP packets
	dropped  atomic.Int64 // packets to this endpoint that a queue or the loss took
}

// packet is an IP packet that gets somewhere at a time.
type packet struct {
	at   time.Time
	data []byte
}

const (
	mtu      = 1500
	inFlight = 1 << 16 // packets to one endpoint: more than 800 Mbit/s for a second
	maxHosts = 254
)

// rates are those of a host's line, in Mbit/s.
type rates struct{ down, up float64 }

// newWAN makes the network. Any two hosts are rtt apart, and a share of loss of
// the packets gets lost.
func newWAN(rtt time.Duration, loss float64) *wan {
	return &wan{delay: rtt / 2, loss: loss, closing: make(chan struct{})}
}

// join connects a namespace. All have to be joined before start.
func (w *wan) join(ns *netns, line rates) (*endpoint, error) {
	n := len(w.endpoints) + 1
	if n > maxHosts {
		return nil, fmt.Errorf("more than %d hosts", maxHosts)
	}
	const dev = "wan"
	e := &endpoint{
		addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}),
		in:   make(chan packet, inFlight),
		up:   newLink(line.up),
		down: newLink(line.down),
	}
	err := ns.do(func() (err error) {
		// No router is there to ask for an address.
		err = os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		e.tun, err = openTUN(dev)
		return err
	})
	if err != nil {
		return nil, err
	}
	w.endpoints = append(w.endpoints, e)
	if err := ns.ip("addr", "add", e.addr.String()+"/24", "dev", dev); err != nil {
		return nil, err
	}
	if err := ns.ip("link", "set", dev, "mtu", strconv.Itoa(mtu), "txqueuelen", "1000", "up"); err != nil {
		return nil, err
	}
	return e, nil
}

// openTUN makes a TUN device in the namespace of this thread. It goes when the
// file is closed.
func openTUN(name string) (*os.File, error) {
	const device = "/dev/net/tun"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make TUN device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// start carries packets until close.
func (w *wan) start() {
	for _, e := range w.endpoints {
		w.running.Go(func() { w.send(e) })
		w.running.Go(func() { w.receive(e) })
	}
}

func (w *wan) close() {
	close(w.closing)
	for _, e := range w.endpoints {
		e.tun.Close()
	}
	w.running.Wait()
}

// send takes what e's host sends.
func (w *wan) send(e *endpoint) {
	buf := make([]byte, mtu)
	for {
		n, err := e.tun.Read(buf)
		if err != nil {
			return // closed
		}
		to := w.destination(buf[:n])
		if to == nil {
			continue // multicast, for instance
		}
		e.sent.Add(int64(n))
		at, ok := e.up.admit(time.Now(), n)
		if !ok || w.loss > 0 && rand.Float64() < w.loss {
			to.dropped.Add(1)
			continue
		}
		select {
		case to.in <- packet{at.Add(w.delay), append([]byte(nil), buf[:n]...)}:
		default:
			to.dropped.Add(1)
		}
	}
}

// destination returns the endpoint that an IPv4 packet goes to, or nil.
func (w *wan) destination(p []byte) *endpoint {
	const header = 20 // bytes
	if len(p) < header || p[0]>>4 != 4 {
		return nil
	}
	to := netip.AddrFrom4([4]byte(p[16:20]))
	for _, e := range w.endpoints {
		if e.addr == to {
			return e
		}
	}
	return nil
}

// receive hands e's host what was sent to it. Packets get to the downlink in order
// of arrival, not in that of sending: one that waited in a slow uplink's queue must
// not hold up those of faster senders.
func (w *wan) receive(e *endpoint) {
	var arriving arrivals
	var leaving []packet // the downlink's queue
	timer := time.NewTimer(0)
	for {
		now := time.Now()
		for len(arriving) > 0 && !arriving[0].at.After(now) {
			p := heap.Pop(&arriving).(packet)
			var ok bool
			if p.at, ok = e.down.admit(p.at, len(p.data)); !ok {
				e.dropped.Add(1)
				continue
			}
			leaving = append(leaving, p)
		}
		for len(leaving) > 0 && !leaving[0].at.After(now) {
			data := leaving[0].data
			leaving = leaving[1:]
			if _, err := e.tun.Write(data); err != nil {
				e.dropped.Add(1)
				continue
			}
			e.received.Add(int64(len(data)))
		}
		next := now.Add(time.Hour)
		if len(arriving) > 0 {
			next = arriving[0].at
		}
		if len(leaving) > 0 && leaving[0].at.Before(next) {
			next = leaving[0].at
		}
		timer.Reset(time.Until(next))
		select {
		case p := <-e.in:
			heap.Push(&arriving, p)
			for range len(e.in) {
				heap.Push(&arriving, <-e.in)
			}
		case <-timer.C:
		case <-w.closing:
			return
		}
	}
}

// arrivals is a heap, the earliest on top.
type arrivals []packet

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a arrivals) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(p any)        { *a = append(*a, p.(packet)) }
func (a *arrivals) Pop() any {
	old := *a
	n := len(old) - 1
	p := old[n]
	old[n] = packet{}
	*a = old[:n]
	return p
}
