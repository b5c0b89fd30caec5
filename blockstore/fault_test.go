package blockstore

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// faulty fails chosen calls of the files that it makes. Each hook may be nil.
type faulty struct {
	FS
	write, sync func() error
	create      func(name string) error
}

type faultyFile struct {
	File
	fs *faulty
}

func (d *faulty) Create(name string) (File, error) {
	if d.create != nil {
		if err := d.create(name); err != nil {
			return nil, err
		}
	}
	f, err := d.FS.Create(name)
	return faultyFile{f, d}, err
}

func (f faultyFile) WriteAt(b []byte, off int64) (int, error) {
	if f.fs.write != nil {
		if err := f.fs.write(); err != nil {
			n, _ := f.File.WriteAt(b[:len(b)/2], off)
			return n, err
		}
	}
	return f.File.WriteAt(b, off)
}

func (f faultyFile) Sync() error {
	if f.fs.sync != nil {
		if err := f.fs.sync(); err != nil {
			return err
		}
	}
	return f.File.Sync()
}

// TestFailedWrite fills the disk half-way through a batch: the Put fails, what
// was there stays readable, and when space returns so does writing.
func TestFailedWrite(t *testing.T) {
	path := t.TempDir()
	dir, _ := Dir(path)
	disk := &faulty{FS: dir}
	s := openFS(t, disk)
	first, second := noise(1, 900), noise(2, 900)
	if err := s.Put(first); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	disk.write = func() error { return full }
	if err := s.Put(second); !errors.Is(err, full) {
		t.Fatalf("Put on a full disk = %v", err)
	}
	wantAll(t, s, []Block{first})
	if ok, _ := s.Has(second.CID()); ok {
		t.Error("a block whose write failed is held")
	}
	disk.write = nil
	if err := s.Put(second); err != nil {
		t.Fatal(err)
	}
	s.Close()
	wantAll(t, openDir(t, path), []Block{first, second})
}

// TestFailedWriteOfLarge lets each of the writes fail that a large block takes: it is not
// held, and what the failure left behind is nothing when the pack is sealed.
func TestFailedWriteOfLarge(t *testing.T) {
	for n := 1; n <= 2; n++ {
		path := t.TempDir()
		dir, _ := Dir(path)
		disk := &faulty{FS: dir}
		s := openFS(t, disk)
		first, large := noise(1, 900), noise(2, copyBelow)
		if err := s.Put(first); err != nil {
			t.Fatal(err)
		}
		full := errors.New("no space left on device")
		writes := 0
		disk.write = func() error {
			if writes++; writes == n {
				return full
			}
			return nil
		}
		if err := s.Put(large); !errors.Is(err, full) || writes != n {
			t.Fatalf("Put = %v, after %d writes", err, writes)
		}
		if ok, _ := s.Has(large.CID()); ok {
			t.Error("a block whose write failed is held")
		}
		disk.write = nil
		if _, err := s.sealAll(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(path, packName(1))); err != nil || info.Size() != s.packs[0].size {
			t.Errorf("the pack is not cut: %v, %v", info.Size(), err)
		}
		if err := s.Put(large); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = openDir(t, path)
		wantAll(t, s, []Block{first, large})
		noDamage(t, s)
	}
}

// TestFailedSync lets syncs fail for a while: no write is acknowledged, the store says
// why, what was there stays readable, and when the disk works again so does writing.
func TestFailedSync(t *testing.T) {
	path := t.TempDir()
	dir, _ := Dir(path)
	disk := &faulty{FS: dir}
	s := openFS(t, disk)
	first, second := noise(1, 900), noise(2, 900)
	if err := s.Put(first); err != nil {
		t.Fatal(err)
	}
	bad := errors.New("input/output error")
	disk.sync = func() error { return bad }
	for range 3 {
		if err := s.Put(second); !errors.Is(err, bad) || !errors.Is(err, ErrReadOnly) {
			t.Fatalf("Put = %v", err)
		}
		if err := s.Sync(); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("Sync after a failed sync = %v", err)
		}
		if err := s.ReadOnly(); !errors.Is(err, bad) || !errors.Is(err, ErrReadOnly) {
			t.Fatalf("ReadOnly = %v", err)
		}
	}
	wantAll(t, s, []Block{first})
	disk.sync = nil
	if err := s.Put(second); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadOnly(); err != nil {
		t.Error(err)
	}
	wantAll(t, s, []Block{first, second})
	s.Close()
	wantAll(t, openDir(t, path), []Block{first, second})
}

// TestSyncAcrossFailure has a hold whose blocks a failed sync may have lost, while
// others made the store work again: it must not get an acknowledgement.
func TestSyncAcrossFailure(t *testing.T) {
	dir, _ := Dir(t.TempDir())
	disk := &faulty{FS: dir}
	s := openFS(t, disk)
	if err := s.Put(noise(1, 900)); err != nil {
		t.Fatal(err)
	}
	h := s.Hold()
	defer h.Release()
	w := h.NewWriter()
	if _, err := w.Write(noise(2, 900)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	disk.sync = func() error { disk.sync = nil; return errors.New("input/output error") }
	if err := s.Put(noise(3, 900)); !errors.Is(err, ErrReadOnly) {
		t.Fatalf("Put = %v", err)
	}
	if err := s.Put(noise(4, 900)); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(); err == nil {
		t.Error("blocks that may be lost were acknowledged")
	}
	again := s.Hold()
	defer again.Release()
	if err := again.Sync(); err != nil {
		t.Errorf("a hold begun since: %v", err)
	}
}

// TestFailedCreate lets the making of a new pack, or of an index, fail again and
// again: nothing that was acknowledged is lost, now or after a restart, and writing
// goes on when the failures end.
func TestFailedCreate(t *testing.T) {
	for _, suffix := range []string{packSuffix, indexSuffix + tempSuffix} {
		t.Run(suffix, func(t *testing.T) {
			path := t.TempDir()
			dir, _ := Dir(path)
			disk := &faulty{FS: dir}
			s := small(openFS(t, disk))
			var kept []Block
			for i := range 200 {
				disk.create = nil
				if i%50 > 20 {
					disk.create = func(name string) error {
						if strings.HasSuffix(name, suffix) {
							return errors.New("too many open files")
						}
						return nil
					}
				}
				b := noise(uint64(i), 1500)
				if err := s.Put(b); err == nil {
					kept = append(kept, b)
				}
			}
			if len(kept) < 100 || suffix == packSuffix && len(kept) == 200 {
				t.Fatalf("%d of 200 were stored", len(kept))
			}
			wantAll(t, s, kept)
			s.Close()
			wantAll(t, openDir(t, path), kept)
		})
	}
}

// TestOpenFullDisk opens a store whose index is gone on a disk that takes no new
// file.
func TestOpenFullDisk(t *testing.T) {
	path := t.TempDir()
	s := small(openDir(t, path))
	var blocks []Block
	for i := range 60 {
		blocks = append(blocks, noise(uint64(i), 900))
	}
	for _, b := range blocks {
		if err := s.Put(b); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	if err := os.Remove(filepath.Join(path, indexName(1))); err != nil {
		t.Fatal(err)
	}
	dir, _ := Dir(path)
	full := errors.New("no space left on device")
	wantAll(t, openFS(t, &faulty{FS: dir, create: func(string) error { return full }}), blocks)
}

// TestLongDigest stores blocks under the longest multihashes that CheckCID allows.
func TestLongDigest(t *testing.T) {
	path := t.TempDir()
	s := openDir(t, path)
	var blocks []Block
	for _, n := range []int{20, 64, 127, 128} {
		data := []byte("a block")
		mh, err := multihash.Sum(data, multihash.BLAKE3, n)
		if err != nil {
			t.Fatal(err)
		}
		b, err := NewBlock(cid.NewCidV1(cid.Raw, mh), data)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
	}
	if err := s.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, blocks)
	s.Close()
	wantAll(t, openDir(t, path), blocks)
}

// TestRecordWithinBlock hides a forged record for another block within a block,
// and damages the outer record: the forged one must not count.
func TestRecordWithinBlock(t *testing.T) {
	s := openDir(t, t.TempDir())
	victim := noise(1, 500)
	forged := s.appendRecord(nil, Block{cid: victim.CID(), data: noise(2, 500).Data()})
	outer := noise(3, 700)
	outer = Sum(cid.Raw, append(bytes.Clone(outer.Data()), forged...))

	path := t.TempDir()
	s = openDir(t, path)
	if err := s.Put(outer, noise(4, 100)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	file := filepath.Join(path, packName(1))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[packHeader+5] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openDir(t, path)
	if ok, err := s.Has(victim.CID()); ok || err != nil {
		t.Errorf("Has(victim) = %v, %v", ok, err)
	}
	wantAll(t, s, []Block{noise(4, 100)})
	if err := s.Put(victim, outer); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, []Block{victim, outer})
}

func TestUnreadableDirectory(t *testing.T) {
	if s, err := Open(osDir(filepath.Join(t.TempDir(), "none")), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open = %v, %v", s, err)
	}
}

// TestQuota writes until the quota is used up: the write that would exceed it is
// refused, reading goes on, and a collection makes room.
func TestQuota(t *testing.T) {
	const quota = 200_000
	path := t.TempDir()
	s := small(openDir(t, path))
	s.SetLimits(Limits{Bytes: quota})
	var blocks []Block
	var err error
	for i := 0; err == nil; i++ {
		b := noise(uint64(i), 1500)
		if err = s.Put(b); err == nil {
			blocks = append(blocks, b)
		}
		if used := s.Stats().DiskBytes; used > quota {
			t.Fatalf("%d bytes used", used)
		}
	}
	if !errors.Is(err, ErrQuota) || len(blocks) < 100 {
		t.Fatalf("%d blocks, then %v", len(blocks), err)
	}
	wantAll(t, s, blocks)
	var onDisk int64
	files, _ := os.ReadDir(path)
	for _, f := range files {
		info, _ := f.Info()
		onDisk += info.Size()
	}
	if onDisk > quota {
		t.Errorf("the files take %d bytes", onDisk)
	}
	if _, err := s.Collect(t.Context(), marking(blocks[:len(blocks)/3]), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(noise(9999, 1500)); err != nil {
		t.Errorf("Put after a collection: %v", err)
	}
	s.SetLimits(Limits{MinFree: 1 << 60})
	if err := s.Put(noise(99999, 1500)); !errors.Is(err, ErrQuota) {
		t.Errorf("Put with too little free: %v", err)
	}
	wantAll(t, s, blocks[:len(blocks)/3])
}
