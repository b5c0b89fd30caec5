package exchange

import (
	"bufio"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// TestAbsentIsHeard has fetchers open a DAG that the provider lacks, and ask for nodes and leaves
// with it, as all do: they are told OPENED 0, and the stream goes on. What they ask for then waits
// for an OPEN of what is there by then; too much of it, or nothing for long, ends the stream.
func TestAbsentIsHeard(t *testing.T) {
	site, h := largeLeaves(2), newHost(t)
	root := site[0].CID()
	asks := concat(appendList(nil, list{count: 128}), spread(1, 2))
	open := func(t *testing.T, held memStore) *fetcher {
		server := nodeOn(t, h, nil, held).server
		mine, others := pipes()
		go server.serve(others, &network.NullScope{}, "x")
		f := &fetcher{Stream: mine, r: bufio.NewReader(mine)}
		go f.Write(append(opening(root), asks...))
		typ, body, err := f.next(frameOpened, frameIndex, frameData)
		if err != nil || typ != frameOpened || body[0] != statusAbsent {
			t.Fatalf("a frame of type %d, %v, want OPENED 0", typ, err)
		}
		return f
	}
	ended := func(t *testing.T, f *fetcher) {
		t.Helper()
		if typ, _, err := f.next(frameIndex, frameData, frameLater, frameMiss); err == nil {
			t.Errorf("a frame of type %d", typ)
		}
		f.Reset()
		time.Sleep(2 * serveIdle)
	}
	t.Run("opens again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			held := make(memStore)
			f := open(t, held)
			synctest.Wait()
			for _, b := range site {
				held[b.CID()] = b
			}
			f.Write(opening(root)[len(hello):])
			for _, want := range []frameType{frameOpened, frameData, frameIndex} {
				if typ, _, err := f.next(frameOpened, frameIndex, frameData); err != nil || typ != want {
					t.Fatalf("a frame of type %d, %v, want %d", typ, err, want)
				}
			}
			f.Reset()
			time.Sleep(2 * serveIdle)
		})
	})
	t.Run("asks too much", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := open(t, make(memStore))
			for i := range maxLists + 1 { // of which the last but one is too much
				if _, err := f.Write(asks); (err != nil) != (i == maxLists) {
					t.Errorf("asked %d times: %v", i+2, err)
				}
			}
			ended(t, f)
		})
	})
	t.Run("asks now and then", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := open(t, make(memStore))
			for range 3 {
				time.Sleep(serveIdle / 2)
				go f.Write(asks)
			}
			ended(t, f)
		})
	})
}
