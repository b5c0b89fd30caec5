package exchange

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"pollux/blockstore"
)

func seeds() [][]byte {
	enc, _ := newEncoder()
	a := blockstore.Sum(cid.Raw, bytes.Repeat([]byte("a page "), 100))
	b := blockstore.Sum(cid.DagProtobuf, []byte{})
	return [][]byte{
		appendWant(nil, nil),
		appendWant(nil, []ask{{cid: a.CID()}, {b.CID(), a.CID()}}),
		appendMiss(nil, 7),
		appendData(nil, enc, []piece{{bytes: a.Data()}, {bytes: b.Data()}}),
		appendData(nil, enc, []piece{{bytes: b.Data()}}),
		appendData(nil, enc, []piece{{bytes: []byte("a delta"), delta: true}, {bytes: a.Data()}}),
		appendFrame(nil, frameHello),
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	}
}

// FuzzFrame decodes arbitrary bytes as frames; what decodes encodes to the same.
func FuzzFrame(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		typ, body, err := readFrame(bufio.NewReader(bytes.NewReader(b)), maxFrame)
		if err != nil {
			return
		}
		switch typ {
		case frameWant:
			if asks, err := parseWant(body); err == nil {
				again, err := parseWant(appendWantBody(asks))
				if err != nil || !slices.Equal(asks, again) {
					t.Fatalf("%v became %v, %v", asks, again, err)
				}
			}
		case frameMiss:
			if n, err := parseMiss(body); err == nil && (n < 1 || n > maxWants) {
				t.Fatalf("MISS of %d", n)
			}
		case frameData:
			d, err := parseData(body)
			if err != nil {
				return
			}
			pieces, err := d.pieces(dec)
			if err != nil {
				return
			}
			total := 0
			for _, p := range pieces {
				total += len(p.bytes)
			}
			if total > maxDataBytes || len(pieces) > maxWants {
				t.Fatalf("%d pieces of %d bytes", len(pieces), total)
			}
		}
	})
}

func appendWantBody(asks []ask) []byte {
	_, body, err := readFrame(bufio.NewReader(bytes.NewReader(appendWant(nil, asks))), 1<<20)
	if err != nil {
		panic(err)
	}
	return body
}

// wire is a stream whose other end has said all that it will say.
type wire struct {
	network.Stream
	io.Reader
	written int
}

func (w *wire) Read(b []byte) (int, error)       { return w.Reader.Read(b) }
func (w *wire) Write(b []byte) (int, error)      { w.written += len(b); return len(b), nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
func (w *wire) Reset() error                     { return nil }

// FuzzServer lets a peer send arbitrary bytes to a server.
func FuzzServer(f *testing.F) {
	hello := appendFrame(nil, frameHello)
	for _, s := range seeds() {
		f.Add(append(hello[:len(hello):len(hello)], s...))
	}
	f.Add(bytes.Repeat(hello, 3))
	store := newStore(f)
	if err := store.Put(blockstore.Sum(cid.Raw, bytes.Repeat([]byte("a page "), 100))); err != nil {
		f.Fatal(err)
	}
	s, err := NewServer(store, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &wire{Reader: bytes.NewReader(b)}
		s.serve(w, &network.NullScope{})
		if limit := 1000 + 2000*len(b); w.written > limit {
			t.Errorf("%d bytes answered to %d", w.written, len(b))
		}
	})
}

// FuzzSession lets a provider answer with arbitrary bytes: each want ends up
// either with a worker or back in the pool, and no count goes below zero.
func FuzzSession(f *testing.F) {
	hello := appendFrame(nil, frameHello)
	for _, s := range seeds() {
		f.Add(append(hello[:len(hello):len(hello)], s...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ft := newFetch(&Client{}, Request{})
		ft.arrivals = make(chan arrival, 1024)
		s := &session{fetch: ft, stream: &wire{Reader: bytes.NewReader(b)}, window: 1 << 20}
		const wants = 10
		for i := range wants {
			c := blockstore.Sum(cid.Raw, []byte{byte(i)}).CID()
			ft.pool.put(&want{cid: c, size: 1})
		}
		batch, err := s.next()
		if err != nil || len(batch) != wants {
			t.Fatalf("%d wants, %v", len(batch), err)
		}
		err = s.read(time.Now())
		ft.mu.Lock()
		s.end(err)
		ft.mu.Unlock()
		close(ft.arrivals)
		arrived := 0
		for a := range ft.arrivals {
			arrived += len(a.wants)
		}
		if got := arrived + len(ft.pool.rest); got != wants || s.owedSize < 0 || s.err == nil {
			t.Errorf("%d of %d wants accounted for, %d bytes owed, %v", got, wants, s.owedSize, s.err)
		}
	})
}
