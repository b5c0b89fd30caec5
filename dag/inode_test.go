package dag

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// putMeta stores an entry with a mode and a time, or without where they are zero.
func (m *memStore) putMeta(t *testing.T, name string, u unixfs, mode uint32, mtime time.Time, links ...Link) Link {
	t.Helper()
	u.Mode, u.ModTime = mode, mtime
	for _, l := range links {
		if u.Type == typeFile {
			u.BlockSizes = append(u.BlockSizes, l.Size)
			u.FileSize += l.Size
		}
	}
	u.FileSize += uint64(len(u.Data))
	return m.putNode(t, name, Node{Links: links, Data: u.Encode()})
}

func TestExtractMetadata(t *testing.T) {
	old := syscall.Umask(0o027)
	defer syscall.Umask(old)
	m := newMemStore()
	file := func(name string, mode uint32, mtime time.Time) Link {
		return m.putMeta(t, name, unixfs{Type: typeFile}, mode, mtime, m.putFile(t, "", "content"))
	}
	when := func(n int64) time.Time { return time.Unix(1_000_000_000+n, 123456789) }
	none := time.Time{}
	symlink := m.putMeta(t, "symlink", unixfs{Type: typeSymlink, Data: []byte("/etc/passwd")}, 0o777, when(7))
	sealed := m.putMeta(t, "sealed", unixfs{Type: typeDirectory}, 0o555, when(3),
		m.putMeta(t, "deeper", unixfs{Type: typeDirectory}, 0o500, when(4), file("f", 0o400, when(5))),
		m.putMeta(t, "dark", unixfs{Type: typeDirectory}, 0o400, when(4), file("f", 0o040, when(5)), m.putDir(t, "d", file("g", 0, none))),
		file("f", 0o640, when(6)))
	root := m.putMeta(t, "", unixfs{Type: typeDirectory}, 0o550, when(1),
		file("early", 0, time.Unix(-1, 0)),
		file("late", 0, time.Date(2400, 1, 1, 0, 0, 0, 1, time.UTC)),
		m.putFile(t, "plain", "x"),
		sealed,
		file("suid", 0o107755, when(2)),
		symlink,
	)
	want := []struct {
		name  string
		mode  fs.FileMode // 0 is not looked at
		mtime time.Time
	}{
		{".", fs.ModeDir | 0o550, when(1)},
		{"early", 0o640, time.Unix(-1, 0)},
		{"late", 0o640, time.Date(2400, 1, 1, 0, 0, 0, 1, time.UTC)},
		{"plain", 0o640, none},
		{"sealed", fs.ModeDir | 0o555, when(3)},
		{"sealed/deeper", fs.ModeDir | 0o500, when(4)},
		{"sealed/deeper/f", 0o400, when(5)},
		{"sealed/f", 0o640, when(6)},
		{"suid", 0o755, when(2)},
		{"symlink", 0, when(7)},
		{"sealed/dark", fs.ModeDir | 0o400, when(4)},
	}
	check := func(t *testing.T, dest string) {
		t.Helper()
		for _, w := range want {
			info, err := os.Lstat(filepath.Join(dest, w.name))
			if err != nil {
				t.Error(err)
				continue
			}
			if w.mode != 0 && info.Mode() != w.mode {
				t.Errorf("%s has mode %v, want %v", w.name, info.Mode(), w.mode)
			}
			if !w.mtime.IsZero() && !info.ModTime().Equal(w.mtime) {
				t.Errorf("%s was modified %v, want %v", w.name, info.ModTime(), w.mtime)
			}
		}
		// So that it can be removed, and the dark be seen.
		for _, name := range []string{".", "sealed", "sealed/deeper", "sealed/dark"} {
			if err := os.Chmod(filepath.Join(dest, name), 0o700); err != nil {
				t.Error(err)
			}
		}
		for name, mode := range map[string]fs.FileMode{"f": 0o040, "d": fs.ModeDir | 0o750, "d/g": 0o640} {
			info, err := os.Lstat(filepath.Join(dest, "sealed/dark", name))
			if err != nil || info.Mode() != mode {
				t.Errorf("%s in the dark: %v, %v", name, info, err)
			}
		}
	}
	t.Run("at once", func(t *testing.T) {
		parent := t.TempDir()
		dest := filepath.Join(parent, "x")
		if _, err := Extract(t.Context(), m, root.CID, dest, ExtractOptions{}); err != nil {
			t.Fatal(err)
		}
		check(t, dest)
		onlyEntry(t, parent, "x")
	})
	// A run finds directories that it may not write to, and modes that are wrong.
	t.Run("resumed", func(t *testing.T) {
		interruptEach(t, m, root.CID, func(parent, kept string) {
			plain := filepath.Join(kept, root.CID.String(), "plain")
			if err := os.Chmod(plain, 0o777); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			dest := filepath.Join(parent, "x")
			if _, err := Extract(t.Context(), m, root.CID, dest, ExtractOptions{}); err != nil {
				t.Fatal(err)
			}
			check(t, dest)
			onlyEntry(t, parent, "x")
		})
	})
	// Directories that nobody may write to are removed all the same.
	t.Run("thrown away", func(t *testing.T) {
		other := m.putDir(t, "", m.putFile(t, "a", "a"))
		interruptEach(t, m, root.CID, func(parent, kept string) {
			if _, err := Extract(t.Context(), m, other.CID, filepath.Join(parent, "x"), ExtractOptions{}); err != nil {
				t.Fatal(err)
			}
			onlyEntry(t, parent, "x")
		})
	})
}

func TestExtractMetadataRoots(t *testing.T) {
	m := newMemStore()
	when := time.Unix(1_000_000_000, 0)
	for _, root := range []Link{
		m.putMeta(t, "", unixfs{Type: typeFile, Data: []byte("x")}, 0o400, when),
		m.putMeta(t, "", unixfs{Type: typeSymlink, Data: []byte("nowhere")}, 0, when),
		m.putMeta(t, "", unixfs{Type: typeDirectory}, 0o500, when),
	} {
		dest := filepath.Join(t.TempDir(), "x")
		e, err := Stat(t.Context(), m, root.CID)
		if err != nil || !e.ModTime.Equal(when) {
			t.Errorf("%+v, %v", e, err)
		}
		if _, err := Extract(t.Context(), m, root.CID, dest, ExtractOptions{}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(dest)
		if err != nil || !info.ModTime().Equal(when) || e.Mode != 0 && info.Mode().Perm() != e.Mode {
			t.Errorf("%+v became %v of %v, %v", e, info.Mode(), info.ModTime(), err)
		}
	}
}
