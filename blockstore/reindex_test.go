package blockstore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sealedStore returns a store of a few packs, all sealed, with indexes of several
// chunks, and its blocks.
func sealedStore(t *testing.T, path string) (*Store, []Block) {
	t.Helper()
	s := openDir(t, path)
	s.maxPackRecords = 5 * chunkEntries / 2
	var blocks []Block
	for i := range 3 * s.maxPackRecords {
		blocks = append(blocks, noise(uint64(i), 50+i%7))
	}
	for i := 0; i < len(blocks); i += 20 {
		if err := s.Put(blocks[i:min(i+20, len(blocks))]...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.sealAll(); err != nil {
		t.Fatal(err)
	}
	return s, blocks
}

func indexFiles(t *testing.T, path string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(path, "*"+indexSuffix))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, name := range names {
		if files[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// wantMissing checks that blocks that were never stored are missing, rather than in
// doubt.
func wantMissing(t *testing.T, s *Store) {
	t.Helper()
	for i := range 500 {
		if ok, err := s.Has(noise(uint64(1_000_000+i), 50).CID()); ok || err != nil {
			t.Fatalf("a block that is not held: %v, %v", ok, err)
		}
	}
}

// TestIndexChanged has another program change the index files of a store that is open,
// in each of several ways: no look-up fails or misses, and the files are as they were
// after it.
func TestIndexChanged(t *testing.T) {
	cut := func(size func(int64) int64) func(*os.File) error {
		return func(f *os.File) error {
			info, err := f.Stat()
			if err != nil {
				return err
			}
			return f.Truncate(size(info.Size()))
		}
	}
	for name, change := range map[string]func(*os.File) error{
		"emptied":      cut(func(int64) int64 { return 0 }),
		"only a head":  cut(func(int64) int64 { return indexHeader + fanoutSize }),
		"cut in half":  cut(func(n int64) int64 { return n / 2 }),
		"one byte off": cut(func(n int64) int64 { return n - 1 }),
		"zeroed": func(f *os.File) error {
			_, err := f.WriteAt(make([]byte, chunkSize), entryOffset(chunkEntries))
			return err
		},
		"one bit": func(f *os.File) error {
			b := make([]byte, 1)
			at := entryOffset(chunkEntries + 7)
			if _, err := f.ReadAt(b, at); err != nil {
				return err
			}
			_, err := f.WriteAt([]byte{b[0] ^ 4}, at)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			s, blocks := sealedStore(t, path)
			before := indexFiles(t, path)
			if len(before) < 3 {
				t.Fatalf("%d indexes", len(before))
			}
			for name := range before {
				f, err := os.OpenFile(name, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(change(f), f.Close()); err != nil {
					t.Fatal(err)
				}
			}
			wantMissing(t, s)
			wantAll(t, s, blocks)
			for name, data := range indexFiles(t, path) {
				if !bytes.Equal(data, before[name]) {
					t.Errorf("%s is not as it was", filepath.Base(name))
				}
			}
			noDamage(t, s)
			select {
			case <-s.Damaged():
				t.Error("blocks are taken for damaged")
			default:
			}
		})
	}
}

// unreadableIndexes is a store whose index files cannot be read until the hook goes.
func unreadableIndexes(t *testing.T) (*Store, *hooked, []Block) {
	t.Helper()
	path := t.TempDir()
	s, blocks := sealedStore(t, path)
	s.Close()
	s, d := hookedStore(t, path)
	d.read = func(name string, _ []byte, _ int64) (int, error, bool) {
		return 0, errIO, strings.HasSuffix(name, indexSuffix)
	}
	return s, d, blocks
}

// TestUnreadableIndex has a disk that cannot read any index, for each thing that a store
// does with one: all is as it would be with.
func TestUnreadableIndex(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, s *Store, blocks []Block){
		"get":  func(t *testing.T, s *Store, blocks []Block) { wantAll(t, s, blocks) },
		"miss": func(t *testing.T, s *Store, _ []Block) { wantMissing(t, s) },
		"put again": func(t *testing.T, s *Store, blocks []Block) {
			count := s.Stats().Blocks
			if err := s.Put(blocks...); err != nil {
				t.Fatal(err)
			}
			if n := s.Stats().Blocks; n != count {
				t.Errorf("%d blocks, then %d", count, n)
			}
		},
		"check": func(t *testing.T, s *Store, blocks []Block) {
			res, err := s.Check(t.Context(), true, func(err error) { t.Errorf("damage: %v", err) }, nil)
			if err != nil || res.Blocks != len(blocks) {
				t.Errorf("%+v, %v", res, err)
			}
		},
		"repair": func(t *testing.T, s *Store, blocks []Block) {
			res, err := s.Repair(t.Context(), true, func(err error) { t.Errorf("damage: %v", err) }, nil)
			if err != nil || res.Packs != 0 || res.Lost != 0 || res.Checked.Blocks != len(blocks) {
				t.Errorf("%+v, %v", res, err)
			}
		},
		"collect": func(t *testing.T, s *Store, blocks []Block) {
			stats, err := s.Collect(t.Context(), marking(blocks[:len(blocks)/2]), nil)
			if err != nil || stats.Blocks != len(blocks)/2 {
				t.Errorf("%+v, %v", stats, err)
			}
			wantAll(t, s, blocks[:len(blocks)/2])
			for _, b := range blocks[len(blocks)/2:] {
				if ok, err := s.Has(b.CID()); ok || err != nil {
					t.Fatalf("a block that was collected: %v, %v", ok, err)
				}
			}
		},
		// The index breaks once it is known what is to stay, and what is found then is
		// to stay too.
		"collect, held late": func(t *testing.T, s *Store, blocks []Block) {
			d := s.dir.(*hooked)
			unreadable := d.read
			d.read = nil
			h := s.Hold()
			defer h.Release()
			late := blocks[5]
			var once sync.Once
			d.read = func(name string, b []byte, off int64) (int, error, bool) {
				if name == packName(s.packs[0].number) { // while the one that stays is copied
					once.Do(func() {
						d.read = nil
						if ok, err := h.Has(late.CID()); !ok || err != nil {
							t.Errorf("Has = %v, %v", ok, err)
						}
						d.read = unreadable
					})
				}
				return 0, nil, false
			}
			if _, err := s.Collect(t.Context(), marking(blocks[:1]), nil); err != nil {
				t.Error(err)
			}
			wantAll(t, s, []Block{blocks[0], late})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, d, blocks := unreadableIndexes(t)
			do(t, s, blocks)
			d.read = nil
			noDamage(t, s)
		})
	}
}

// TestUnreadableIndexAndPack has a disk that reads neither indexes nor packs for a while:
// look-ups fail, and nothing counts as missing or damaged, neither then nor after it.
func TestUnreadableIndexAndPack(t *testing.T) {
	s, d, blocks := unreadableIndexes(t)
	d.read = func(string, []byte, int64) (int, error, bool) { return 0, errIO, true }
	for _, b := range blocks {
		_, err := s.Get(t.Context(), b.CID())
		if !errors.Is(err, errIO) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("Get = %v", err)
		}
		if ok, err := s.Has(b.CID()); !errors.Is(err, errIO) {
			t.Fatalf("Has = %v, %v", ok, err)
		}
	}
	d.read = nil
	wantAll(t, s, blocks)
	noDamage(t, s)
}

// TestUnreadableIndexPage has a page of a pack unreadable beside its index: what is
// readable is found, and what is not is found again when the disk gets better.
func TestUnreadableIndexPage(t *testing.T) {
	s, d, blocks := unreadableIndexes(t)
	d.read = func(name string, b []byte, off int64) (int, error, bool) {
		const page = 4096
		bad := strings.HasSuffix(name, indexSuffix) || name == packName(1) && off < 2*page && off+int64(len(b)) > page
		return 0, errIO, bad
	}
	lost := 0
	for _, b := range blocks {
		if ok, err := s.Has(b.CID()); err != nil {
			t.Fatal(err)
		} else if !ok {
			lost++
		}
	}
	if lost == 0 || lost > 60 {
		t.Errorf("%d of %d blocks are lost with a page", lost, len(blocks))
	}
	<-s.Damaged()
	d.read = nil
	if _, err := s.Repair(t.Context(), false, func(error) {}, nil); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, blocks)
	noDamage(t, s)
}

// TestIndexBreaksAgain has an index file that cannot be read however often it is
// written: it is written twice at most.
func TestIndexBreaksAgain(t *testing.T) {
	s, d, blocks := unreadableIndexes(t)
	unreadable := d.read
	written := 0
	d.rename = func(name string) error {
		if strings.HasSuffix(name, indexSuffix) {
			written++
		}
		return nil
	}
	packs := len(s.packs)
	for range 5 {
		d.read = unreadable
		wantMissing(t, s)
		for _, b := range blocks {
			if ok, err := s.Has(b.CID()); !ok || err != nil {
				t.Fatalf("Has = %v, %v", ok, err)
			}
		}
	}
	if written > 2*packs {
		t.Errorf("%d indexes were written for %d packs", written, packs)
	}
}

// TestIndexesCutBesides cuts indexes off while others read, write, collect and check,
// and closes the store in the middle: nothing is missed and nothing crashes.
func TestIndexesCutBesides(t *testing.T) {
	path := t.TempDir()
	s, blocks := sealedStore(t, path)
	s.cache = newCache(0)
	var works sync.WaitGroup
	until := func(do func(i int) error) {
		works.Go(func() {
			for i := 0; ; i++ {
				if err := do(i); errors.Is(err, ErrClosed) {
					return
				} else if err != nil && !errors.Is(err, ErrCollecting) {
					t.Error(err)
					return
				}
			}
		})
	}
	ctx := context.Background()
	for w := range 2 {
		until(func(i int) error {
			_, err := s.Get(ctx, blocks[(7*i+w)%len(blocks)].CID())
			return err
		})
	}
	until(func(i int) error { return s.Put(noise(uint64(50_000+i), 60)) })
	until(func(int) error {
		_, err := s.Check(ctx, false, func(err error) { t.Errorf("damage: %v", err) }, nil)
		return err
	})
	collections := make(chan struct{}, 1)
	until(func(int) error {
		_, err := s.Collect(ctx, marking(blocks), nil)
		select {
		case collections <- struct{}{}:
		default:
		}
		return err
	})
	for range 20 {
		names, err := filepath.Glob(filepath.Join(path, "*"+indexSuffix))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := os.Truncate(name, 1000); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		select {
		case <-collections:
		case <-time.After(time.Minute):
			t.Fatal("collections have stopped")
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	works.Wait()
	wantAll(t, openDir(t, path), blocks)
}
