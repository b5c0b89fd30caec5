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

func (ls *lookups) count() int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.current)
}
