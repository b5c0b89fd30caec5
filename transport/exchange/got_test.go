package exchange

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
)

// onWay returns how much a server counts as on its way: to the members of crowds, in bytes and
// what of that there is room for, and in answers to peers that exchange a DAG.
func (n *node) onWay(root cid.Cid) (bytes, window, answers int) {
	u := n.server.crowds
	u.mu.Lock()
	bytes, window = u.onWay, u.window.size
	u.mu.Unlock()
	w := n.server.swarms.enter(root)
	defer n.server.swarms.leave(w)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.underWay {
		answers += n
	}
	return bytes, window, answers
}

// TestGotThatLies has peers tell a seed that more answers arrived than were sent, or fewer, or
// the same over and over, while honest mirrors make up a crowd with them. The mirrors become
// whole, what can be told for a lie ends its stream, and nothing grows without bounds.
func TestGotThatLies(t *testing.T) {
	site := newTree(91, 10, 40)
	seed := newNode(t, site.blocks...)
	want := func(first, n int) []byte { return appendSpanFrame(nil, frameWant, []span{{first, n}}) }
	got := func(n uint64) []byte { return appendFrame(nil, frameGot, uvarints(n)) }
	open := opening(site.root())
	before := heap()
	type lie struct {
		name string
		*fetcher
	}
	var streams []*fetcher
	var lies []lie
	send := func(h host.Host, b []byte) *fetcher {
		t.Helper()
		f := dial(t, h, seed)
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, f)
		return f
	}
	// These say what cannot be.
	liar := newHost(t)
	for name, b := range map[string][]byte{
		"before OPEN":           concat(hello, got(1)),
		"before WANT":           concat(open, got(1)),
		"of more than was sent": concat(open, want(0, 1), got(2)),
		"of 2^63-1":             concat(open, want(0, 1), got(math.MaxInt64)),
		"of 2^63":               concat(open, want(0, 1), got(1<<63)),
		"of 2^64-1":             concat(open, want(0, 1), got(math.MaxUint64)),
		"of a root not held":    concat(opening(raw("nothing").CID()), got(1)),
		"of what BLOCKS are":    concat(hello, appendGet(nil, []cid.Cid{site.root()}), got(1)),
		"cut":                   concat(open, appendFrame(nil, frameGot)),
		"with more behind it":   concat(open, appendFrame(nil, frameGot, []byte{0, 0})),
	} {
		lies = append(lies, lie{name, send(liar, b)})
	}
	end := time.Now().Add(20 * time.Second)
	for _, l := range lies {
		l.SetReadDeadline(end)
		if _, err := io.Copy(io.Discard, l.r); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("GOT %s: the stream goes on", l.name)
		}
	}
	// These say nothing, whatever came, and that nothing came, over and over.
	silent := send(newHost(t), open)
	for range 10 * maxUnproven {
		if _, err := silent.Write(want(0, 1)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := silent.next(frameData); err != nil {
			t.Fatal(err)
		}
	}
	endless := send(newHost(t), concat(open, want(40, 1)))
	if _, _, err := endless.next(frameData, frameLater); err != nil {
		t.Fatal(err)
	}
	many := bytes.Repeat(got(0), 1000)
	for range 200 {
		if _, err := endless.Write(many); err != nil {
			t.Fatal(err)
		}
	}
	if n := heap(); n > before+64<<20 {
		t.Errorf("%d bytes more are in use", n-before)
	}

	var tasks sync.WaitGroup
	mirrors := make([]*node, 4)
	for i := range mirrors {
		mirrors[i] = newNode(t)
	}
	for _, m := range mirrors {
		tasks.Go(func() {
			_, err := m.fetch(limit(t), Request{Root: site.root(), Progress: func(Progress) {
				if n, window, answers := seed.onWay(site.root()); n > window+len(mirrors)*maxAnswer ||
					window > maxWindow+2*maxAnswer || answers > (len(mirrors)+len(streams))*maxUnproven {
					t.Errorf("%d bytes of %d, and %d answers, are on their way", n, window, answers)
				}
			}}, seed.info())
			if err != nil {
				t.Error(err)
			}
		})
	}
	tasks.Wait()
	for _, m := range mirrors {
		m.checkHeld(t, site.blocks)
	}
	if _, _, answers := seed.onWay(site.root()); answers > 2*(maxUnproven+1) {
		t.Errorf("%d answers count as on their way to two peers", answers)
	}
	for _, f := range streams {
		f.Reset()
	}
	quiet(t, seed.server)
	if n, _, _ := seed.onWay(site.root()); n != 0 {
		t.Errorf("%d bytes are on their way to nobody", n)
	}
}
