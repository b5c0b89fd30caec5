package blockstore

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// hooked is a directory in which a test stands in front of some calls. Each hook may be
// nil.
type hooked struct {
	FS
	open, rename func(name string) error
	read         func(name string, b []byte, off int64) (n int, err error, done bool)
	free         func() int64
}

type hookedFile struct {
	File
	name string
	dir  *hooked
}

func (d *hooked) Free() (int64, error) {
	if d.free != nil {
		return d.free(), nil
	}
	return d.FS.Free()
}

func (d *hooked) Open(name string) (File, error) {
	if d.open != nil {
		if err := d.open(name); err != nil {
			return nil, err
		}
	}
	f, err := d.FS.Open(name)
	return hookedFile{f, name, d}, err
}

func (d *hooked) Create(name string) (File, error) {
	f, err := d.FS.Create(name)
	return hookedFile{f, name, d}, err
}

func (d *hooked) Rename(from, to string) error {
	if d.rename != nil {
		if err := d.rename(to); err != nil {
			return err
		}
	}
	return d.FS.Rename(from, to)
}

func (f hookedFile) ReadAt(b []byte, off int64) (int, error) {
	if f.dir.read != nil {
		if n, err, done := f.dir.read(f.name, b, off); done {
			return n, err
		}
	}
	return f.File.ReadAt(b, off)
}

var errIO = errors.New("input/output error")

func hookedStore(t *testing.T, path string) (*Store, *hooked) {
	t.Helper()
	dir, err := Dir(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &hooked{FS: dir}
	return small(openFS(t, d)), d
}

// TestUnreadablePage has one page of a pack that cannot be read while the pack is
// replayed: only the records on it are lost, and nothing is cut off.
func TestUnreadablePage(t *testing.T) {
	const page, bad = 4096, 40
	path := t.TempDir()
	s := openDir(t, path)
	var blocks []Block
	var places []entry
	for i := range 2000 {
		blocks = append(blocks, noise(uint64(i), 400))
	}
	if err := s.Put(blocks...); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		_, e, _, _ := s.find(keyOf(b.CID().Hash()))
		places = append(places, e)
	}
	s.Close()
	dir, _ := Dir(path)
	d := &hooked{FS: dir, read: func(name string, b []byte, off int64) (int, error, bool) {
		const lo, hi = bad * page, (bad + 1) * page
		if name != packName(1) || off+int64(len(b)) <= lo || off >= hi {
			return 0, nil, false
		}
		return 0, errIO, true
	}}
	s = openFS(t, d)
	<-s.Damaged()
	for i, b := range blocks {
		ok, err := s.Has(b.CID())
		if err != nil {
			t.Fatal(err)
		}
		if on := places[i].offset < (bad+1)*page && places[i].offset+places[i].size > bad*page; ok == on {
			t.Errorf("record at %d, %d bytes: held %v", places[i].offset, places[i].size, ok)
		}
	}
	d.read = nil // the cable is plugged in again
	if _, err := s.Repair(t.Context(), false, func(error) {}, nil); err != nil {
		t.Fatal(err)
	}
	wantAll(t, s, blocks)
}

// TestCollectNearLimits collects when there is room for copies only once packs that
// hold nothing but garbage are gone.
func TestCollectNearLimits(t *testing.T) {
	for name, limit := range map[string]func(s *Store, d *hooked) Limits{
		"quota": func(s *Store, _ *hooked) Limits {
			used := s.Stats().DiskBytes
			return Limits{Bytes: used + used/16 + 2000}
		},
		"min_free": func(s *Store, d *hooked) Limits {
			total := s.Stats().DiskBytes + 5000
			d.free = func() int64 { return total - s.Stats().DiskBytes }
			return Limits{MinFree: 4900}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, d := hookedStore(t, t.TempDir())
			var blocks []Block
			for i := range 200 {
				blocks = append(blocks, noise(uint64(i), 500))
				if err := s.Put(blocks[i]); err != nil {
					t.Fatal(err)
				}
			}
			s.SetLimits(limit(s, d))
			stats, err := s.Collect(t.Context(), marking(blocks[:24]), nil)
			if err != nil || stats.Blocks < 100 {
				t.Errorf("%+v, %v", stats, err)
			}
			wantAll(t, s, blocks[:24])
		})
	}
}

// TestCollectMeetsDamage has a collection meet a damaged record that is to stay: the
// damage is told of, and the other packs are collected.
func TestCollectMeetsDamage(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	flip(t, s, path, blocks[3])
	stats, err := s.Collect(t.Context(), marking(blocks[:10]), nil)
	if err != nil || stats.Blocks == 0 {
		t.Fatalf("%+v, %v", stats, err)
	}
	<-s.Damaged()
	if res, err := s.Repair(t.Context(), false, func(error) {}, nil); err != nil || res.Packs != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestMovedWhileRead has a read fail while a collection moves the block: it is read
// where it is now.
func TestMovedWhileRead(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	s.Close()
	s, d := hookedStore(t, path)
	x := blocks[5]
	p, e, _, _ := s.find(keyOf(x.CID().Hash()))
	var once sync.Once
	moving := false
	d.read = func(name string, b []byte, off int64) (n int, err error, done bool) {
		if moving || name != packName(p.number) || off != int64(e.offset) {
			return 0, nil, false
		}
		once.Do(func() {
			moving = true
			if _, err := s.Collect(t.Context(), marking(blocks[4:10]), nil); err != nil {
				t.Error(err)
			}
		})
		return 0, errIO, true
	}
	wantAll(t, s, []Block{x})
	noDamage(t, s)
}

// TestFailedQuarantine lets the renaming of a damaged pack fail: it stays in use, and
// the next repair takes it out.
func TestFailedQuarantine(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	s.Close()
	s, d := hookedStore(t, path)
	flip(t, s, path, blocks[3])
	d.rename = func(name string) error {
		if strings.HasSuffix(name, badSuffix) {
			return errIO
		}
		return nil
	}
	if res, err := s.Repair(t.Context(), true, func(error) {}, nil); !errors.Is(err, errIO) {
		t.Fatalf("%+v, %v", res, err)
	}
	d.rename = nil
	if res, err := s.Repair(t.Context(), true, func(error) {}, nil); err != nil || res.Packs != 1 || len(s.Quarantined()) != 1 {
		t.Errorf("%+v, %v, %v", res, err, s.Quarantined())
	}
	wantAll(t, s, append(blocks[:3:3], blocks[4:]...))
}

// TestUnopenableQuarantine has a file in quarantine that cannot be opened: the store
// opens without it, and other damage is repaired.
func TestUnopenableQuarantine(t *testing.T) {
	path := t.TempDir()
	s, blocks := fillStore(t, path, 100)
	flip(t, s, path, blocks[3])
	if _, err := s.Repair(t.Context(), true, func(error) {}, nil); err != nil {
		t.Fatal(err)
	}
	flip(t, s, path, blocks[70])
	s.Close()
	dir, _ := Dir(path)
	d := &hooked{FS: dir, open: func(name string) error {
		if strings.HasSuffix(name, badSuffix) {
			return errIO
		}
		return nil
	}}
	s, err := Open(d, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if res, err := s.Repair(t.Context(), true, func(error) {}, nil); err != nil || res.Packs != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestManyDigits begins a pack whose number has more digits than others.
func TestManyDigits(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, badName(99_999_999)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openDir(t, path)
	b := noise(1, 500)
	if err := s.Put(b); err != nil {
		t.Fatal(err)
	}
	s.Close()
	wantAll(t, openDir(t, path), []Block{b})
}

// TestCloseBesides closes a store in the middle of collections, repairs and checks:
// they end, and nothing looks into what is closed.
func TestCloseBesides(t *testing.T) {
	for i := range 12 {
		path := t.TempDir()
		s, blocks := fillStore(t, path, 300)
		flip(t, s, path, blocks[7])
		var works sync.WaitGroup
		began := make(chan struct{})
		works.Go(func() {
			var once sync.Once
			for {
				_, err := s.Collect(context.Background(), func(m *Marks) error {
					once.Do(func() { close(began) })
					return marking(blocks[:250])(m)
				}, nil)
				if errors.Is(err, ErrClosed) {
					return
				}
			}
		})
		works.Go(func() {
			for {
				if _, err := s.Repair(context.Background(), true, func(error) {}, nil); errors.Is(err, ErrClosed) {
					return
				}
			}
		})
		works.Go(func() {
			for s.writable() == nil {
				s.Check(context.Background(), true, func(error) {}, nil)
				s.Put(noise(uint64(5000+i), 300))
			}
		})
		<-began
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		works.Wait()
	}
}
