package transport

import (
	"context"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/transport/exchange"
)

// TestLookUpsTakeTurns has more look-ups than may be under way. The others begin as these end,
// or are left.
func TestLookUpsTakeTurns(t *testing.T) {
	n := &Network{lookups: make(chan struct{}, maxLookups)}
	begun, end := make(chan struct{}), make(chan struct{})
	find := n.inTurn(func(ctx context.Context, _ cid.Cid, _ func(exchange.Candidate) bool) bool {
		begun <- struct{}{}
		<-end
		return true
	})
	var finds sync.WaitGroup
	for range 3 * maxLookups {
		finds.Go(func() {
			if !find(t.Context(), cid.Undef, nil) {
				t.Error("it did not come to the end")
			}
		})
	}
	for range maxLookups {
		<-begun
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if find(gone, cid.Undef, nil) {
		t.Error("one more than allowed was looked for")
	}
	for range 2 * maxLookups {
		select {
		case <-begun:
			t.Fatal("one more than allowed was looked for")
		default:
		}
		end <- struct{}{}
		<-begun
	}
	close(end)
	finds.Wait()
}
