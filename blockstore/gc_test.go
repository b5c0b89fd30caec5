package blockstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// marking returns a mark function that keeps blocks.
func marking(blocks []Block) func(*Marks) error {
	return func(m *Marks) error {
		for _, b := range blocks {
			m.Add(b.CID())
		}
		return nil
	}
}

// fillStore returns a store of many small packs, and its blocks.
func fillStore(t testing.TB, path string, n int) (*Store, []Block) {
	t.Helper()
	s := small(openDir(t, path))
	var blocks []Block
	for i := range n {
		b := noise(uint64(i), 400+i%300)
		blocks = append(blocks, b)
	}
	for i := 0; i < n; i += 10 {
		if err := s.Put(blocks[i:min(i+10, n)]...); err != nil {
			t.Fatal(err)
		}
	}
	return s, blocks
}

func TestCollect(t *testing.T) {
	for name, keep := range map[string]func(i int) bool{
		"nothing stays":    func(int) bool { return false },
		"all stays":        func(int) bool { return true },
		"every other":      func(i int) bool { return i%2 == 0 },
		"one in each pack": func(i int) bool { return i%20 == 3 },
		"the first half":   func(i int) bool { return i < 150 },
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			s, blocks := fillStore(t, path, 300)
			var stay, go_ []Block
			for i, b := range blocks {
				if keep(i) {
					stay = append(stay, b)
				} else {
					go_ = append(go_, b)
				}
			}
			before := s.Stats()
			stats, err := s.Collect(t.Context(), marking(stay), nil)
			if err != nil {
				t.Fatal(err)
			}
			after := s.Stats()
			if stats.Freed < before.DiskBytes-after.DiskBytes || stats.Freed > before.DiskBytes+10_000 || stats.Blocks != before.Blocks-after.Blocks {
				t.Errorf("%+v, but %+v became %+v", stats, before, after)
			}
			// A quarter of a pack may be garbage.
			if limit := len(stay)*4/3 + 40; after.Blocks > limit {
				t.Errorf("%d blocks are left of %d that should stay", after.Blocks, len(stay))
			}
			wantAll(t, s, stay)
			if err := s.Put(go_...); err != nil {
				t.Fatal(err)
			}
			wantAll(t, s, blocks)
			s.Close()
			wantAll(t, openDir(t, path), blocks)
		})
	}
}

// TestCollectBesides adds, reads and holds while collections run: what a hold
// keeps, or something marks once it was released, is never lost.
func TestCollectBesides(t *testing.T) {
	s, blocks := fillStore(t, t.TempDir(), 300)
	var mu sync.Mutex
	kept := append([]Block(nil), blocks[:20]...) // what is marked
	mark := func(m *Marks) error {
		mu.Lock()
		defer mu.Unlock()
		return marking(kept)(m)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var adders, readers sync.WaitGroup
	for i := range 3 {
		adders.Go(func() {
			for j := range 40 {
				h := s.Hold()
				w := h.NewWriter()
				// A block that is garbage but held, one that is found, and a new one.
				old := blocks[20+(i*97+j*7)%280]
				found := blocks[20+(i*31+j*13)%280]
				fresh := noise(uint64(10_000+i*1000+j), 700)
				mine := []Block{old, fresh}
				if ok, err := h.Has(found.CID()); err != nil {
					t.Error(err)
				} else if ok {
					mine = append(mine, found)
				}
				for _, b := range []Block{old, fresh} {
					if _, err := w.Write(b); err != nil {
						t.Error(err)
					}
				}
				if err := errors.Join(w.Flush(), h.Sync()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				kept = append(kept, mine...)
				mu.Unlock()
				h.Release()
			}
		})
	}
	readers.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := s.Get(ctx, blocks[i%20].CID()); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	done := make(chan struct{})
	go func() { adders.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if _, err := s.Collect(t.Context(), mark, nil); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		now := append([]Block(nil), kept...)
		mu.Unlock()
		wantAll(t, s, now)
	}
	cancel()
	readers.Wait()
}

// TestCollectDamaged has a block that is to stay in a damaged record: its pack is
// left as it is.
func TestCollectDamaged(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	_, e, _, _ := s.find(keyOf(blocks[0].CID().Hash()))
	f, err := os.OpenFile(filepath.Join(path, packName(1)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), int64(e.offset)+100); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := s.Collect(t.Context(), marking(blocks[:1]), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, packName(1))); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(path, packName(2))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the second pack: %v", err)
	}
}

func TestCollectFails(t *testing.T) {
	s, blocks := fillStore(t, t.TempDir(), 100)
	bad := errors.New("cannot walk")
	if _, err := s.Collect(t.Context(), func(*Marks) error { return bad }, nil); !errors.Is(err, bad) {
		t.Errorf("err = %v", err)
	}
	wantAll(t, s, blocks)
	_, err := s.Collect(t.Context(), func(*Marks) error {
		_, err := s.Collect(t.Context(), marking(nil), nil)
		return err
	}, nil)
	if !errors.Is(err, ErrCollecting) {
		t.Errorf("two at once: %v", err)
	}
	wantAll(t, s, blocks)
}
