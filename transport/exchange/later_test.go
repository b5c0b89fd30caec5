package exchange

import (
	"errors"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
)

// TestPutOff lets time pass for a session whose provider answers LATER to everything.
func TestPutOff(t *testing.T) {
	start := func() (f *Fetch, s *session) {
		f, list := idleFetch(t, 4, 1)
		s = list[0]
		s.stream = noStream{}
		s.want(nil)
		if err := s.putOff([]span{{0, 1}}); err != nil {
			t.Fatal(err)
		}
		for len(s.owed) > 0 {
			if err := s.putOff(s.owed[0].spans); err != nil {
				t.Fatal(err)
			}
		}
		return f, s
	}
	f, s := start()
	if s.check(time.Now().Add(maxRefusal)); s.err != nil {
		t.Errorf("ended before an honest provider sends: %v", s.err)
	}
	if s.check(time.Now().Add(dropAfter + time.Second)); s.err != errPutsOff {
		t.Errorf("not ended: %v", s.err)
	}
	if len(f.pool.queue) != 4 {
		t.Errorf("%d of 4 tasks wait for others", len(f.pool.queue))
	}
	f, s = start()
	for _, task := range f.pool.all {
		task.left = 0
	}
	if s.check(time.Now().Add(dropAfter + time.Second)); s.err != nil {
		t.Errorf("ended though others brought everything: %v", s.err)
	}
}

// TestOnlyPutOff fetches from a provider that answers LATER to everything. The fetch says
// that nothing comes.
func TestOnlyPutOff(t *testing.T) {
	t.Parallel()
	site := newTree(207, 3, 15)
	evil := newActor(t, script{name: "LATER", want: func(_ *actor, spans []span) []byte {
		return appendSpanFrame(nil, frameLater, spans)
	}}, site.root(), cid.Undef, site.blocks...)
	_, err := newNode(t).fetch(limit(t), Request{Root: site.root(), Timeout: time.Second}, evil.info())
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Missing != 45 || unreachable.Asked != 1 {
		t.Errorf("got %v, want that 45 blocks of one peer did not arrive", err)
	}
}
