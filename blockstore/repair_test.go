package blockstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// overwrite changes a file of a store.
func overwrite(t *testing.T, path, name string, change func([]byte) []byte) {
	t.Helper()
	file := filepath.Join(path, name)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// flip changes the payload of b's record.
func flip(t *testing.T, s *Store, path string, b Block) {
	t.Helper()
	p, e, ok, _ := s.find(keyOf(b.CID().Hash()))
	if !ok {
		t.Fatal("no such block")
	}
	overwrite(t, path, packName(p.number), func(data []byte) []byte {
		data[e.offset+e.size-1] ^= 1
		return data
	})
}

func noDamage(t *testing.T, s *Store) {
	t.Helper()
	if _, err := s.Check(t.Context(), true, func(err error) { t.Errorf("damage: %v", err) }, nil); err != nil {
		t.Error(err)
	}
}

// bad returns the names of the files in quarantine.
func bad(t *testing.T, path string) (names []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(path, "*"+badSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestRepair damages packs in each of several ways: a repair loses only the damaged
// blocks, keeps the damaged packs, and leaves a store without damage, now and after a
// restart.
func TestRepair(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	n := uint32(len(s.packs))
	one := blocks[5]
	_, e, _, _ := s.find(keyOf(one.CID().Hash()))
	first := s.packs[0].index.count // blocks in the first pack
	s.Close()
	foreign, err := os.ReadFile(filepath.Join(path, indexName(2)))
	if err != nil {
		t.Fatal(err)
	}
	// length sets the stored length of a record, with the right checksum.
	length := func(n uint32) func([]byte) []byte {
		return func(pack []byte) []byte {
			head := pack[e.offset:][:recordHeader+len(one.CID().Hash())]
			binary.LittleEndian.PutUint32(head[8:], n)
			binary.LittleEndian.PutUint32(head[4:], headerCRC(head))
			return pack
		}
	}
	for name, tt := range map[string]struct {
		file   string
		damage func([]byte) []byte
		packs  int // that are damaged
		lost   int // blocks
	}{
		"nothing":           {packName(1), bytes.Clone, 0, 0},
		"a payload":         {packName(1), func(b []byte) []byte { b[e.offset+e.size-1]++; return b }, 1, 1},
		"a record's head":   {packName(1), func(b []byte) []byte { b[e.offset+9]++; return b }, 1, 1},
		"a hash":            {packName(1), func(b []byte) []byte { b[e.offset+recordHeader+7]++; return b }, 1, 1},
		"the pack's head":   {packName(1), func(b []byte) []byte { b[3]++; return b }, 1, 0},
		"a stale index":     {indexName(1), func(b []byte) []byte { b[33]++; return b }, 0, 0},
		"a damaged index":   {indexName(1), func(b []byte) []byte { b[len(b)-7]++; return b }, 0, 0},
		"an empty index":    {indexName(1), func([]byte) []byte { return nil }, 0, 0},
		"the active pack":   {packName(n), func(b []byte) []byte { b[packHeader+recordHeader+40]++; return b }, 0, 1}, // replayed without it
		"a zeroed sector":   {packName(1), func(b []byte) []byte { clear(b[512:1024]); return b }, 1, 2},
		"a length of 0":     {packName(1), length(0), 1, 1},
		"an endless record": {packName(1), length(1<<32 - 1), 1, 1},
		"a foreign index":   {indexName(1), func([]byte) []byte { return foreign }, 0, 0},
		"a zeroed pack":     {packName(1), func(b []byte) []byte { clear(b); return b }, 1, first},
		"an empty pack":     {packName(1), func([]byte) []byte { return nil }, 0, first},
		"a truncated pack":  {packName(1), func(b []byte) []byte { return b[:e.offset] }, 0, 35},
	} {
		t.Run(name, func(t *testing.T) {
			path := copyDir(t, path)
			overwrite(t, path, tt.file, tt.damage)
			s := small(openDir(t, path))
			res, err := s.Repair(t.Context(), true, func(err error) { t.Log(err) }, nil)
			if err != nil || len(bad(t, path)) != tt.packs || res.Packs != tt.packs {
				t.Fatalf("%+v, %v; in quarantine: %q", res, err, bad(t, path))
			}
			noDamage(t, s)
			var held, lost []Block
			for _, b := range blocks {
				if ok, err := s.Has(b.CID()); err != nil {
					t.Fatal(err)
				} else if ok {
					held = append(held, b)
				} else {
					lost = append(lost, b)
				}
			}
			if len(lost) != tt.lost {
				t.Errorf("%d blocks are lost, want %d", len(lost), tt.lost)
			}
			wantAll(t, s, held)
			if err := s.Put(lost...); err != nil {
				t.Fatal(err)
			}
			wantAll(t, s, blocks)
			if st := s.Stats(); (st.QuarantinedBytes > 0) != (tt.packs > 0) {
				t.Errorf("%+v", st)
			}
			s.Close()
			s = openDir(t, path)
			wantAll(t, s, blocks)
			noDamage(t, s)
			if err := s.DropQuarantine(s.Quarantined()); err != nil || len(bad(t, path)) > 0 || s.Stats().QuarantinedBytes > 0 {
				t.Errorf("after DropQuarantine: %v, %q, %+v", err, bad(t, path), s.Stats())
			}
			wantAll(t, s, blocks)
		})
	}
}

// TestRepairSuspects reads a damaged block: the store says so, and repairs that pack
// and no other.
func TestRepairSuspects(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	flip(t, s, path, blocks[0])
	flip(t, s, path, blocks[60])
	if _, err := s.Get(t.Context(), blocks[0].CID()); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("Get = %v", err)
	}
	<-s.Damaged()
	res, err := s.Repair(t.Context(), false, func(error) {}, nil)
	if err != nil || res.Packs != 1 || res.Lost != 1 || res.Checked.Packs != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	if ok, err := s.Has(blocks[60].CID()); !ok || err != nil {
		t.Errorf("Has = %v, %v", ok, err)
	}
	wantAll(t, s, blocks[1:60])
}

// TestRestore mends a pack in quarantine, as if its disk could be read again: the next
// repair takes back what was lost.
func TestRestore(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 40)
	flip(t, s, path, blocks[3])
	if _, err := s.Repair(t.Context(), true, func(error) {}, nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	names := bad(t, path)
	if len(names) != 1 {
		t.Fatalf("in quarantine: %q", names)
	}
	s = openDir(t, path)
	overwrite(t, path, filepath.Base(names[0]), func(data []byte) []byte {
		i := bytes.Index(data, blocks[3].CID().Hash())
		h, err := parseHeader(data[i-recordHeader:])
		if err != nil {
			t.Fatal(err)
		}
		data[i-recordHeader+h.size()-1] ^= 1
		return data
	})
	res, err := s.Repair(t.Context(), false, func(error) {}, nil)
	if err != nil || res.Restored != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	wantAll(t, s, blocks)
}

// TestLostPack deletes a pack: the store says that something is missing, and the rest
// is there.
func TestLostPack(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	p, _, _, _ := s.find(keyOf(blocks[0].CID().Hash()))
	s.Close()
	if err := os.Remove(filepath.Join(path, packName(p.number))); err != nil {
		t.Fatal(err)
	}
	s = openDir(t, path)
	<-s.Damaged()
	wantAll(t, s, blocks[50:])
	if ok, err := s.Has(blocks[0].CID()); ok || err != nil {
		t.Errorf("Has = %v, %v", ok, err)
	}
	if _, err := os.Stat(filepath.Join(path, indexName(p.number))); !os.IsNotExist(err) {
		t.Errorf("its index: %v", err)
	}
}

// TestScrub lets a scrub that is overdue find damage that nobody has read, and notes
// what it has read.
func TestScrub(t *testing.T) {
	const month = 30 * 24 * time.Hour
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	flip(t, s, path, blocks[60])
	state := s.loadScrub()
	if p, due, changed := s.nextScrub(state, time.Now(), month); p != nil || !changed {
		t.Fatalf("a new pack is due at %v", due)
	}
	for n := range state.Packs {
		// The first pack is due before the damaged one.
		state.Packs[n] = time.Now().Add(time.Duration(n)*time.Hour - 2*month)
	}
	s.saveScrub(state)
	s.Close()

	s = openDir(t, path)
	began := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	scrubbed := make(chan error)
	go func() { scrubbed <- s.Scrub(ctx, month) }()
	<-s.Damaged()
	cancel()
	if err := <-scrubbed; !errors.Is(err, context.Canceled) {
		t.Errorf("Scrub = %v", err)
	}
	res, err := s.Repair(t.Context(), false, func(error) {}, nil)
	if err != nil || res.Packs != 1 || res.Lost != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	read := 0
	for _, last := range s.loadScrub().Packs {
		if last.After(began) {
			read++
		}
	}
	if read == 0 {
		t.Error("no pack is noted as read")
	}
}

// TestScrubClock sets the clock ten years ahead, and back again: every pack is read
// within a period all the same.
func TestScrubClock(t *testing.T) {
	const month = 30 * 24 * time.Hour
	s, _ := fillStore(t, t.TempDir(), 100)
	state := s.loadScrub()
	now := time.Now()
	s.nextScrub(state, now, month)
	ahead := now.AddDate(10, 0, 0)
	p, due, _ := s.nextScrub(state, ahead, month)
	if p == nil || due.After(ahead) {
		t.Fatalf("ten years later the next is due at %v", due)
	}
	for n := range state.Packs {
		state.Packs[n] = ahead
	}
	if p, _, changed := s.nextScrub(state, now, month); p != nil || !changed {
		t.Fatal("a pack that was read in the future")
	}
	later := now.Add(month)
	if p, due, _ := s.nextScrub(state, later, month); p == nil || due.After(later) {
		t.Errorf("a month after the clock was set back the next is due at %v", due)
	}
}

// TestRepairBesides adds and reads while packs are damaged, repaired and collected: a
// block that the disk has not changed is always there.
func TestRepairBesides(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 200)
	victims, kept := blocks[:50], blocks[50:]
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for i := range 2 {
		workers.Go(func() {
			for j := 0; ctx.Err() == nil; j++ {
				b := kept[(i*71+j)%len(kept)]
				if got, err := s.Get(context.Background(), b.CID()); err != nil || !bytes.Equal(got.Data(), b.Data()) {
					t.Errorf("Get = %v", err)
					return
				}
			}
		})
		workers.Go(func() {
			for j := 0; ctx.Err() == nil; j++ {
				b := noise(uint64(1_000_000*(i+1)+j), 600)
				if err := s.Put(b); err != nil {
					t.Error(err)
					return
				}
				if _, err := s.Get(context.Background(), b.CID()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all := func(m *Marks) error { // what the adders bring is not collected either
		s.mu.RLock()
		defer s.mu.RUnlock()
		for _, p := range s.packs {
			for l, err := range p.index.all() {
				if err != nil {
					return err
				}
				m.keys.add(l.key)
			}
		}
		return nil
	}
	for i := range 20 {
		v := victims[i]
		s.mu.RLock()
		p, e, ok, _ := s.find(keyOf(v.CID().Hash()))
		s.mu.RUnlock()
		if !ok {
			t.Fatal("a victim is gone too early")
		}
		f, err := os.OpenFile(filepath.Join(path, packName(p.number)), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0, 1, 2, 3}, int64(e.offset+e.size-4)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		res, err := s.Repair(t.Context(), true, func(error) {}, nil)
		if err != nil || res.Packs != 1 || res.Lost != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		if i%5 == 4 {
			if err := s.DropQuarantine(s.Quarantined()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Collect(t.Context(), all, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	workers.Wait()
	wantAll(t, s, kept)
	noDamage(t, s)
}
