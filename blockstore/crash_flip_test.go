package blockstore

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// flippedFS holds one pack, of which one bit is wrong.
type flippedFS struct {
	*crashFS
	bit int
}

type flippedFile struct {
	File
	fs *flippedFS
}

func (d *flippedFS) Open(name string) (File, error) {
	f, err := d.crashFS.Open(name)
	return flippedFile{f, d}, err
}

// Nothing is written to the disk, so there is nothing to keep a journal of.
func (f flippedFile) Sync() error    { return nil }
func (f flippedFile) Uncache() error { return nil }

func (f flippedFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	if i := f.fs.bit/8 - int(off); i >= 0 && i < n {
		b[i] ^= 1 << (f.fs.bit % 8)
	}
	return n, err
}

// TestFlippedBits flips each bit of a pack of 64 KiB. A replay of the pack loses
// the block there and no other. A store that is open and reads that block says that
// it is damaged, or returns it as it was.
//
// A replay goes from record to record and keeps nothing but its place, so that for
// most of the bits a pack of the records around is enough.
func TestFlippedBits(t *testing.T) {
	if testing.Short() {
		t.Skip("524,288 positions")
	}
	const size = 64 << 10
	pack, blocks, ends := packOf(t, size)

	type flips struct {
		pack             []byte
		blocks           []Block
		first, end, step int // bits
	}
	jobs := make(chan flips)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for j := range jobs {
				disk := &flippedFS{newCrashFS(map[string][]byte{packName(1): j.pack}), -8} // none yet
				s, err := Open(disk, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Error(err)
					continue
				}
				s.cache = newCache(0)
				whole, _, err := openPack(disk, 1, s.isSound)
				if err != nil || whole.index.count != len(j.blocks) {
					t.Errorf("%d of %d blocks, %v", whole.index.count, len(j.blocks), err)
					continue
				}
				for disk.bit = j.first; disk.bit < j.end && !t.Failed(); disk.bit += j.step {
					checkFlip(t, disk, s, whole, j.blocks)
				}
			}
		})
	}
	jobs <- flips{pack, blocks, 0, 8 * packHeader, 1}
	for bit := 8 * packHeader; bit < 8*size; bit += 8 * 4096 {
		jobs <- flips{pack, blocks, bit, min(bit+8*4096, 8*size), 61}
	}
	for i := range blocks {
		from, to := max(i-1, 0), min(i+3, len(blocks))
		around := slices.Concat(pack[:packHeader], pack[ends[from]:ends[to]])
		first := packHeader + ends[i] - ends[from]
		jobs <- flips{around, blocks[from:to], 8 * first, 8 * (first + ends[i+1] - ends[i]), 1}
	}
	close(jobs)
	workers.Wait()
}

// packOf makes a pack of size bytes. ends is where each record of the blocks
// ends, after packHeader, where the first one starts.
func packOf(t *testing.T, size int) (pack []byte, blocks []Block, ends []int) {
	disk := newCrashFS(nil)
	s := openFS(t, disk)
	put := func(b Block) {
		if err := s.Put(b); err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
		ends = append(ends, int(s.active.size))
	}
	ends = []int{packHeader}
	for i := 0; ends[i] < size-4000; i++ {
		b := noise(uint64(i), 1+i*97%1000)
		if i%3 == 0 {
			b = text(i, 3000+i*97)
		}
		put(b)
	}
	for i := range 3 { // plain, of what is left
		rest := (size - ends[len(ends)-1]) / (3 - i)
		put(noise(uint64(i+1)<<20, rest-recordHeader-34))
	}
	files, _ := disk.image(len(disk.journal), keep{sector: 512})
	if n := len(files[packName(1)]); n != size {
		t.Fatalf("a pack of %d bytes", n)
	}
	return files[packName(1)], blocks, ends
}

// checkFlip checks what s and a replay make of the wrong bit of disk. whole is the
// pack without it.
func checkFlip(t *testing.T, disk *flippedFS, s *Store, whole *pack, blocks []Block) {
	p, damage, err := openPack(disk, 1, s.isSound)
	if err != nil || damage > 1 {
		t.Errorf("bit %d: %d places damaged, %v", disk.bit, damage, err)
		return
	}
	for _, b := range blocks {
		k := keyOf(b.CID().Hash())
		want, _, _ := whole.index.find(k)
		got, found, _ := p.index.find(k)
		start := int(want.offset)
		if disk.bit/8 < start || disk.bit/8 >= start+int(want.size) {
			if !found || got != want {
				t.Errorf("bit %d: record at %d: %v, %v; want %v", disk.bit, start, got, found, want)
			}
			continue
		}
		if found {
			t.Errorf("bit %d: record at %d counts", disk.bit, start)
		}
		// A frame has bits that a decoder ignores: there the block is still right.
		read, err := s.Get(context.Background(), b.CID())
		if right := err == nil && bytes.Equal(read.Data(), b.Data()); !right && !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit %d: Get of the block at %d = %v", disk.bit, start, err)
		}
		clear(s.damaged)
	}
	if inHead := disk.bit/8 < packHeader; inHead && damage != 1 {
		t.Errorf("bit %d: not noticed", disk.bit)
	}
}
