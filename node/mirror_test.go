package node

import (
	"errors"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/transport/exchange"
)

// TestWaitOutlastsAttempt has an attempt fail, and the next one bring something, while who
// waits is busy showing progress: the failure is reported all the same, never a site that is
// not whole.
func TestWaitOutlastsAttempt(t *testing.T) {
	n := new(Node)
	m := newMirror(blockstore.Sum(cid.Raw, []byte("page")).CID(), func() {})
	full := errors.New("the disk is full")
	failed := false
	s, err := n.wait(t.Context(), m, 0, func(exchange.Progress) {
		if failed {
			return
		}
		failed = true
		m.fail(full)
		m.show(exchange.Progress{Blocks: 1, Known: 2, Received: 100}, 0)
	})
	if !errors.Is(err, full) {
		t.Errorf("%+v, %v", s, err)
	}
	if m.failed != nil {
		t.Errorf("status has %v while the next attempt goes on", m.failed)
	}
}
