package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// text returns a block of n compressible bytes that differ by seed.
func text(seed, n int) Block {
	b := bytes.Repeat([]byte(fmt.Sprintf("<li>item %d</li>\n", seed)), n/16+1)
	return Sum(cid.Raw, b[:n])
}

// noise returns a block of n incompressible bytes.
func noise(seed uint64, n int) Block {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return Sum(cid.Raw, b)
}

func sample() []Block {
	blocks := []Block{Sum(cid.Raw, nil), noise(1, MaxBlockSize), text(0, MaxBlockSize)}
	for i := range 50 {
		blocks = append(blocks, text(i, 10+i*37), noise(uint64(i), 1+i*53))
	}
	return blocks
}

func openDir(t testing.TB, path string) *Store {
	t.Helper()
	dir, err := Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	return openFS(t, dir)
}

func openFS(t testing.TB, dir FS) *Store {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// wantAll checks that s holds every block and nothing is amiss with any.
func wantAll(t testing.TB, s *Store, blocks []Block) {
	t.Helper()
	for _, b := range blocks {
		got, err := s.Get(context.Background(), b.CID())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Data(), b.Data()) {
			t.Fatalf("%s: wrong bytes", b.CID())
		}
		if n, err := s.Size(b.CID()); err != nil || n != len(b.Data()) {
			t.Fatalf("Size(%s) = %d, %v", b.CID(), n, err)
		}
	}
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestPutGetReopen(t *testing.T) {
	path := t.TempDir()
	s := openDir(t, path)
	blocks := sample()
	if err := s.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, blocks)
	before := s.Stats()
	if err := s.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	if s.Stats() != before {
		t.Errorf("putting the same again changed %+v to %+v", before, s.Stats())
	}
	if before.DiskBytes > before.Bytes*6/10 {
		t.Errorf("half of the bytes compress well, yet %d take %d on disk", before.Bytes, before.DiskBytes)
	}
	// What kill -9 leaves: the files as they are, nothing closed.
	wantAll(t, openDir(t, copyDir(t, path)), blocks)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantAll(t, openDir(t, path), blocks)

	missing := text(12345, 99).CID()
	if _, err := s.Get(context.Background(), missing); !errors.Is(err, ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	s = openDir(t, path)
	if _, err := s.Get(context.Background(), missing); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a block not held: %v", err)
	}
}

func TestHashFunctions(t *testing.T) {
	s := openDir(t, t.TempDir())
	for _, code := range []uint64{multihash.SHA2_256, multihash.SHA2_512, multihash.BLAKE3, multihash.SHA1, multihash.IDENTITY} {
		data := []byte(fmt.Sprintf("hash function %x", code))
		mh, err := multihash.Sum(data, code, -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []cid.Cid{cid.NewCidV1(cid.Raw, mh), cid.NewCidV1(cid.DagProtobuf, mh)} {
			b, err := NewBlock(c, data)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Put(b); err != nil {
				t.Fatal(err)
			}
			wantAll(t, s, []Block{b})
		}
	}
	if n := s.Stats().Blocks; n != 4 {
		t.Errorf("%d blocks stored; want 4: one a multihash, none for identity", n)
	}
}

func TestNewBlockRefuses(t *testing.T) {
	good := text(1, 100)
	long, _ := multihash.Sum(make([]byte, 129), multihash.IDENTITY, -1)
	short, _ := multihash.Sum(good.Data(), multihash.SHA2_256, 16)
	murmur, _ := multihash.Encode(make([]byte, 8), multihash.MURMUR3X64_64)
	for name, tt := range map[string]struct {
		c    cid.Cid
		data []byte
	}{
		"wrong bytes":       {good.CID(), []byte("x")},
		"undefined":         {cid.Undef, nil},
		"identity too long": {cid.NewCidV1(cid.Raw, long), make([]byte, 129)},
		"short digest":      {cid.NewCidV1(cid.Raw, short), good.Data()},
		"weak hash":         {cid.NewCidV1(cid.Raw, murmur), good.Data()},
		"too large":         {good.CID(), make([]byte, MaxBlockSize+1)},
	} {
		if _, err := NewBlock(tt.c, tt.data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// small makes s seal its packs early.
func small(s *Store) *Store {
	s.maxPackSize, s.maxPackRecords = 20_000, 40
	return s
}

func TestSealedPacks(t *testing.T) {
	path := t.TempDir()
	s := small(openDir(t, path))
	var blocks []Block
	for i := range 300 {
		blocks = append(blocks, noise(uint64(i), 500))
		if err := s.Put(blocks[i]); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.packs) < 7 {
		t.Fatalf("only %d packs", len(s.packs))
	}
	wantAll(t, s, blocks)
	want := s.Stats().Blocks
	s.Close()

	damage := map[string]func(index string) error{
		"nothing":   func(string) error { return nil },
		"deleted":   os.Remove,
		"empty":     func(f string) error { return os.Truncate(f, 0) },
		"truncated": func(f string) error { return os.Truncate(f, 700) },
		"flipped": func(f string) error {
			b, err := os.ReadFile(f)
			b[len(b)/2] ^= 4
			return errors.Join(err, os.WriteFile(f, b, 0o600))
		},
		"of another pack": func(f string) error {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(f), indexName(3)))
			return errors.Join(err, os.WriteFile(f, b, 0o600))
		},
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			path := copyDir(t, path)
			if err := do(filepath.Join(path, indexName(2))); err != nil {
				t.Fatal(err)
			}
			s := openDir(t, path)
			wantAll(t, s, blocks)
			if got := s.Stats().Blocks; got != want {
				t.Errorf("%d blocks, want %d", got, want)
			}
			// The index is whole again: a second start does not replay.
			s.Close()
			s = openDir(t, path)
			if s.packs[1].index.sealed == nil {
				t.Error("index was not rebuilt")
			}
		})
	}
}

// TestTornTail cuts the active pack at every length: all records before the cut
// are read back, and writing goes on.
func TestTornTail(t *testing.T) {
	path := t.TempDir()
	s := openDir(t, path)
	var blocks []Block
	var ends []int64
	for i := range 8 {
		blocks = append(blocks, noise(uint64(i), 60), text(i, 400))
		if err := s.Put(blocks[2*i], blocks[2*i+1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range blocks {
		_, e, _, _ := s.find(keyOf(b.CID().Hash()))
		ends = append(ends, int64(e.offset+e.size))
	}
	file := filepath.Join(path, packName(1))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		disk := newMemFS(map[string][]byte{packName(1): whole[:cut]})
		s := openFS(t, disk)
		for i, b := range blocks {
			ok, err := s.Has(b.CID())
			if want := ends[i] <= int64(cut); err != nil || ok != want {
				t.Fatalf("cut at %d: Has(block that ends at %d) = %v, %v", cut, ends[i], ok, err)
			}
		}
		if cut%16 != 0 {
			s.Close()
			continue
		}
		if err := s.Put(blocks...); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		wantAll(t, s, blocks)
		s.Close()
		s = openFS(t, disk)
		wantAll(t, s, blocks)
		s.Close()
	}
}

// TestFlippedBit flips each bit of a pack: nothing wrong is ever returned, at
// most one block is lost, and the loss is reported.
func TestFlippedBit(t *testing.T) {
	path := t.TempDir()
	s := openDir(t, path)
	blocks := []Block{noise(1, 90), text(2, 300), noise(3, 5), text(4, 200)}
	if err := s.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	s.Close()
	file := filepath.Join(path, packName(1))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(whole) {
		data := bytes.Clone(whole)
		data[bit/8] ^= 1 << (bit % 8)
		s, err := Open(newMemFS(map[string][]byte{packName(1): data}), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("bit %d: %v", bit, err)
		}
		lost := 0
		for _, b := range blocks {
			got, err := s.Get(context.Background(), b.CID())
			if err != nil {
				lost++
			} else if !bytes.Equal(got.Data(), b.Data()) {
				t.Fatalf("bit %d: wrong bytes returned", bit)
			}
		}
		if inHead := bit/8 < packHeader; inHead && lost > 0 || lost > 1 || !inHead && lost == 0 {
			t.Fatalf("bit %d: %d blocks lost", bit, lost)
		}
		if bit%64 == 0 {
			if err := s.Put(blocks...); err != nil {
				t.Fatal(err)
			}
			wantAll(t, s, blocks)
		}
		s.Close()
	}
}

// TestChangedUnderneath flips a byte while the store is open: the read says
// that the block is damaged, not that it is missing, and the block can be stored
// again.
func TestChangedUnderneath(t *testing.T) {
	path := t.TempDir()
	s := openDir(t, path)
	b := noise(1, MaxBlockSize/2)
	if err := s.Put(b); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(path, packName(1)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^b.Data()[5000]}, packHeader+recordHeader+34+5000); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(context.Background(), b.CID()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Get = %v, want ErrCorrupt", err)
	}
	if ok, err := s.Has(b.CID()); ok || err != nil {
		t.Errorf("Has(damaged block) = %v, %v", ok, err)
	}
	// Storing it again heals it, for the next start too.
	if err := s.Put(b); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, []Block{b})
	s.Close()
	wantAll(t, openDir(t, path), []Block{b})
}

func TestConcurrentWriters(t *testing.T) {
	path := t.TempDir()
	s := small(openDir(t, path))
	var wg sync.WaitGroup
	all := make([][]Block, 8)
	for i := range all {
		for j := range 60 {
			// Half of the blocks are the same for all writers.
			all[i] = append(all[i], noise(uint64(i*1000+j), 300), text(j, 2000))
		}
		wg.Go(func() {
			w := s.NewWriter()
			for j, b := range all[i] {
				if _, err := w.Write(b); err != nil {
					t.Error(err)
				}
				if j%10 == 9 {
					if err := errors.Join(w.Flush(), s.Sync()); err != nil {
						t.Error(err)
					}
					if _, err := s.Get(context.Background(), b.CID()); err != nil {
						t.Error(err)
					}
				}
			}
			if err := errors.Join(w.Flush(), s.Sync()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s2 := openDir(t, copyDir(t, path))
	for _, blocks := range all {
		wantAll(t, s, blocks)
		wantAll(t, s2, blocks)
	}
}

func FuzzReplay(f *testing.F) {
	path := f.TempDir()
	s := openDir(f, path)
	if err := s.Put(noise(1, 40), text(2, 200)); err != nil {
		f.Fatal(err)
	}
	s.Close()
	whole, err := os.ReadFile(filepath.Join(path, packName(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(whole[packHeader:])
	f.Add([]byte(recordMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Open(newMemFS(map[string][]byte{packName(1): data}), slog.New(slog.DiscardHandler))
		if errors.Is(err, ErrNewerFormat) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		b := text(9, 100)
		if err := s.Put(b); err != nil {
			t.Fatal(err)
		}
		wantAll(t, s, []Block{b})
	})
}

// TestLargeBlocks stores large blocks that shrink, do not, and do in a part: all are
// read back, and the first take less room.
func TestLargeBlocks(t *testing.T) {
	path := t.TempDir()
	s := openDir(t, path)
	pages := bytes.Repeat(text(1, 4096).Data(), 256)
	random := noise(2, 1<<20).Data()
	mixed := append(bytes.Clone(random[:1<<19]), pages[:1<<19]...)
	var blocks []Block
	stored := func(data []byte) int64 {
		before := s.Stats().DiskBytes
		b := Sum(cid.Raw, data)
		if err := s.Put(b); err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
		return s.Stats().DiskBytes - before
	}
	if n := stored(pages); n > 1<<18 {
		t.Errorf("1 MiB of pages takes %d bytes", n)
	}
	if n := stored(random); n < 1<<20 || n > 1<<20+200 {
		t.Errorf("1 MiB of random bytes takes %d bytes", n)
	}
	if n := stored(mixed); n > 3<<18 {
		t.Errorf("half a MiB of pages and of random bytes take %d bytes", n)
	}
	wantAll(t, s, blocks)
	s.Close()
	wantAll(t, openDir(t, path), blocks)
}
