package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/node/api"
)

// TestLookUpBesideHopeless reads a page while readers wait for many that nobody has.
func TestLookUpBesideHopeless(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(page, []byte("a page"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, ready := runNode(t)
	b, _ := runNode(t, ready.Addrs...)
	added, err := a.Add(t.Context(), api.AddRequest{Path: api.Raw(page)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Connect(t.Context(), ready.Addrs[0]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	// All are asked for once, and most are waited for still, when the page is asked for.
	const hopeless = 300
	for i := range hopeless {
		c := blockstore.Sum(cid.Raw, fmt.Append(nil, "nowhere ", i)).CID()
		readers.Go(func() {
			if _, err := b.Block(ctx, c, time.Hour); !errors.Is(err, context.Canceled) {
				t.Errorf("what nobody has: %v", err)
			}
		})
	}
	for b.lookups.count() < hopeless {
		time.Sleep(time.Millisecond)
	}
	if _, err := b.Block(ctx, cid.MustParse(added.Root), time.Hour); err != nil {
		t.Errorf("what a peer has: %v", err)
	}
}

// TestLookUpInItsPlace has a search end, and another for the same block take its place, before the
// last reader of the first has gone: the second is still shared.
func TestLookUpInItsPlace(t *testing.T) {
	ls, c := newLookups(), blockstore.Sum(cid.Raw, []byte("a page")).CID()
	begin := func() *lookup {
		l := &lookup{waiters: 1, stop: func() {}}
		ls.current[c] = l
		return l
	}
	first := begin()
	ls.drop(c, first)
	second := begin()
	ls.leave(c, first)
	if ls.current[c] != second {
		t.Error("who waited for the first took the second away")
	}
	ls.leave(c, second)
	if ls.count() > 0 {
		t.Error("a search that nobody waits for is left")
	}
}

func (ls *lookups) count() int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.current)
}
