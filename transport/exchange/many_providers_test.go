package exchange

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// TestManyProviders looks for a site at more peers than are remembered, none of which is there.
func TestManyProviders(t *testing.T) {
	root, h := raw("nowhere").CID(), newHost(t)
	for name, find := range map[string]func(ctx context.Context, n *node, candidates <-chan Candidate) error{
		"Fetch": func(ctx context.Context, n *node, candidates <-chan Candidate) error {
			_, err := n.client.Fetch(ctx, Request{Store: n.store, Root: root, Timeout: time.Minute}, candidates)
			return err
		},
		"Get": func(ctx context.Context, n *node, candidates <-chan Candidate) error {
			return n.client.Get(ctx, GetRequest{Store: n.store, CID: root, Timeout: time.Minute}, candidates)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore(t)
				n := nodeOn(t, near{h, "mirror", nil}, store, store)
				const found = maxRemembered + 100
				candidates := make(chan Candidate, found)
				for i := range found {
					candidates <- Candidate{peer.AddrInfo{ID: peer.ID(fmt.Sprint(i))}, true}
				}
				err := find(t.Context(), n, candidates)
				e, ok := errors.AsType[*UnreachableError](err)
				if !ok || e.Providers != maxRemembered || e.Asked > maxRemembered {
					t.Error(err)
				}
				time.Sleep(time.Minute) // until nobody is tried again
			})
		})
	}
	set := make(peerSet)
	for i := range maxRemembered + 1 {
		set.add(peer.ID(fmt.Sprint(i)))
	}
	if len(set) != maxRemembered {
		t.Errorf("%d peers are remembered", len(set))
	}
}
