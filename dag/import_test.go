package dag

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

var _ ImportStore[*blockstore.Writer] = (*blockstore.Store)(nil)

// importTree imports path with the given profile into a new store.
func importTree(t testing.TB, p profile, path string, opts ImportOptions) (*memStore, ImportResult) {
	t.Helper()
	m := newMemStore()
	res, err := runImport(context.Background(), p, m, func() BlockWriter { return m }, path, opts)
	if err != nil {
		t.Fatal(err)
	}
	return m, res
}

// sameAsBoxo holds the root and the blocks of an import against boxo's.
func sameAsBoxo(t *testing.T, p profile, path string, opts ImportOptions) cid.Cid {
	t.Helper()
	m, res := importTree(t, p, path, opts)
	b := newBoxo(p.with(opts.Chunker))
	b.hidden, b.preserve = opts.Hidden, opts.Preserve
	want := b.add(t, path)
	if res.Root != want.Cid() {
		t.Fatalf("root %s, boxo has %s", res.Root, want.Cid())
	}
	blocks := 0
	err := Walk(context.Background(), m, res.Root, func(c cid.Cid) error {
		blocks++
		if _, ok := m.blocks[c]; !ok {
			return fmt.Errorf("%s was not written", c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if blocks != len(m.blocks) {
		t.Errorf("wrote %d blocks, %d are in the tree", len(m.blocks), blocks)
	}
	var bytes int64
	for _, block := range m.blocks {
		bytes += int64(len(block.Data()))
	}
	if res.NewBytes != bytes {
		t.Errorf("NewBytes is %d, store has %d", res.NewBytes, bytes)
	}
	return res.Root
}

func TestImportLikeBoxo(t *testing.T) {
	// Small enough that a few hundred bytes have three levels of links, and some
	// dozen entries a HAMT.
	small := profile{chunkSize: 10, maxLinks: 3, maxDirSize: 1000}
	trees := map[string]tree{
		"site":   siteTree(),
		"empty":  {},
		"nested": {"a/b/c/d/e/": ""},
	}
	for _, size := range []int{0, 1, 9, 10, 11, 29, 30, 31, 89, 90, 91, 100, 270, 271, 1000} {
		trees[fmt.Sprintf("%d bytes", size)] = tree{"file": randomBytes(size, byte(size))}
	}
	wide := tree{}
	for i := range 500 {
		wide[fmt.Sprintf("dir/%d", i*i)] = fmt.Sprint(i % 10)
	}
	trees["wide"] = wide
	for name, tr := range trees {
		t.Run(name, func(t *testing.T) {
			path := tr.write(t)
			if name != "site" {
				sameAsBoxo(t, small, path, ImportOptions{})
			}
			for _, workers := range []int{0, 1, 7} {
				sameAsBoxo(t, unixfsV1, path, ImportOptions{Workers: workers})
			}
			sameAsBoxo(t, unixfsV1, path, ImportOptions{Hidden: true, AllowSecrets: true})
		})
	}
}

func TestImportSizesLikeBoxo(t *testing.T) {
	const mib = 1 << 20
	for _, size := range []int{0, 1, mib - 1, mib, mib + 1, 2 * mib, 5*mib + 7} {
		path := tree{"file": randomBytes(size, 9)}.write(t)
		c := sameAsBoxo(t, unixfsV1, filepath.Join(path, "file"), ImportOptions{})
		if raw := c.Type() == cid.Raw; raw != (size <= mib) {
			t.Errorf("%d bytes: root is %s", size, c)
		}
	}
}

// A tree deeper than any path may be long.
func TestImportDeepTree(t *testing.T) {
	t.Parallel() // making the directories takes most of its time
	top := t.TempDir()
	at, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { at.Close() }()
	for range MaxTreeDepth {
		if err := at.Mkdir("d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot("d")
		if err != nil {
			t.Fatal(err)
		}
		at.Close()
		at = next
	}
	if err := at.WriteFile("file", []byte("deep"), 0o644); err != nil {
		t.Fatal(err)
	}

	ctx := t.Context()
	m, res := importTree(t, unixfsV1, top, ImportOptions{Progress: func(Progress) {}})
	if res.Dirs != MaxTreeDepth+1 || res.Files != 1 {
		t.Errorf("%d directories and %d files", res.Dirs, res.Files)
	}
	e, err := Resolve(ctx, m, res.Root, strings.Repeat("d/", MaxTreeDepth)+"file")
	if err != nil || e.Size != 4 {
		t.Errorf("file at the bottom: %+v, %v", e, err)
	}
	dest := t.TempDir()
	out, err := Extract(ctx, m, res.Root, dest, ExtractOptions{})
	if err != nil || out != (ExtractResult{Files: 1, Dirs: MaxTreeDepth + 1, Bytes: 4}) {
		t.Errorf("extracted %+v, %v", out, err)
	}

	if err := at.Mkdir("too deep", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Import(ctx, m, top, ImportOptions{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one directory deeper: %v", err)
	}
}

func TestImportResult(t *testing.T) {
	path := tree{"a": "12345", "b": "12345", "c/d": "1", "l": "-> a", ".h": "hidden"}.write(t)
	var last Progress
	m := newMemStore()
	res, err := Import(context.Background(), m, path, ImportOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	want := ImportResult{Root: res.Root, Files: 3, Dirs: 2, Symlinks: 1, Blocks: 6, Bytes: 11, NewBytes: res.NewBytes, Cache: res.Cache}
	if res != want {
		t.Errorf("got %+v, want %+v", res, want)
	}
	if last != (Progress{3, 11, 3, 11}) {
		t.Errorf("last progress was %+v", last)
	}
	if m.syncs != 1 {
		t.Errorf("synced %d times", m.syncs)
	}
	again, err := Import(context.Background(), m, path, ImportOptions{})
	if err != nil || again.Root != res.Root || again.NewBytes != 0 {
		t.Errorf("second import: %+v, %v", again, err)
	}
}

// Progress knows the total as soon as the tree is counted, which may be after a
// short import has ended; a writer that waits for it makes sure that it is.
func TestImportProgressTotal(t *testing.T) {
	path := tree{"a": "12345", "b/c": "678", "b/l": "-> c"}.write(t)
	for _, arg := range []string{path, filepath.Join(path, "a")} {
		counted := make(chan Progress)
		var once sync.Once
		m := newMemStore()
		m.onWrite = func(blockstore.Block) error {
			once.Do(func() {
				p := <-counted
				if arg == path && (p.TotalFiles != 2 || p.TotalBytes != 8) || arg != path && p.TotalBytes != 5 {
					t.Errorf("%s: counted %+v", arg, p)
				}
			})
			return nil
		}
		sent := false
		_, err := Import(context.Background(), m, arg, ImportOptions{Progress: func(p Progress) {
			if p.TotalFiles > 0 && !sent {
				sent = true
				counted <- p
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestImportTopSymlink(t *testing.T) {
	top := tree{"real/a": "1", "dir": "-> real", "file": "-> real/a", "gone": "-> nowhere"}.write(t)
	for link, real := range map[string]string{"dir": "real", "file": "real/a"} {
		_, a := importTree(t, unixfsV1, filepath.Join(top, link), ImportOptions{})
		_, b := importTree(t, unixfsV1, filepath.Join(top, real), ImportOptions{})
		if a.Root != b.Root {
			t.Errorf("%s is %s, %s is %s", link, a.Root, real, b.Root)
		}
	}
	_, err := Import(context.Background(), discard{}, filepath.Join(top, "gone"), ImportOptions{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "gone") {
		t.Errorf("dangling: %v", err)
	}
}

func TestImportRefusesSpecialFiles(t *testing.T) {
	tests := []struct {
		kind string
		make func(path string) error
	}{
		{"a named pipe", func(path string) error { return syscall.Mkfifo(path, 0o644) }},
		{"a socket", func(path string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				l.Close()
			}
			return err
		}},
		{"a device", func(path string) error {
			err := syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|3) // the null device
			if errors.Is(err, syscall.EPERM) {
				return errors.ErrUnsupported
			}
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.kind, func(t *testing.T) {
			top := tree{"sub/a": "1", "z": "2"}.write(t)
			if err := tt.make(filepath.Join(top, "sub/bad")); errors.Is(err, errors.ErrUnsupported) {
				t.Skip("needs root")
			} else if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{top, filepath.Join(top, "sub/bad")} {
				m := newMemStore()
				res, err := Import(context.Background(), m, path, ImportOptions{})
				if !errors.Is(err, ErrSpecialFile) || !strings.Contains(err.Error(), `sub/bad"`) || !strings.Contains(err.Error(), tt.kind) {
					t.Errorf("%v", err)
				}
				if res != (ImportResult{}) || m.syncs > 0 {
					t.Errorf("result %+v, %d syncs", res, m.syncs)
				}
			}
		})
	}
	_, err := Import(context.Background(), discard{}, "/dev/null", ImportOptions{})
	if !errors.Is(err, ErrSpecialFile) {
		t.Errorf("/dev/null: %v", err)
	}
}

// The tree changes under the import: while the first block is written, the rest is
// still to be read.
func TestImportNoticesChanges(t *testing.T) {
	const big = 8 << 20
	tests := []struct {
		name   string
		tree   tree
		change func(top string) error
		bad    string // the path that the error has to name
		want   error
	}{
		{"grows", tree{"f": strings.Repeat("x", big)}, func(top string) error {
			f, err := os.OpenFile(filepath.Join(top, "f"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("y")
			return err
		}, "f", ErrChanged},
		{"shrinks", tree{"f": strings.Repeat("x", big)}, func(top string) error {
			return os.Truncate(filepath.Join(top, "f"), big/2)
		}, "f", ErrChanged},
		{"overwritten, time set back", tree{"f": strings.Repeat("x", big)}, func(top string) error {
			path := filepath.Join(top, "f")
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			// The kernel's stamps tick every few milliseconds: change it until it shows.
			for now := info; changeTime(now).Equal(changeTime(info)); {
				if _, err = f.WriteAt([]byte("y"), big-1); err != nil {
					return err
				}
				if err = os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
					return err
				}
				if now, err = f.Stat(); err != nil {
					return err
				}
			}
			return nil
		}, "f", ErrChanged},
		{"small file grows", tree{"f": "x"}, func(top string) error {
			return os.WriteFile(filepath.Join(top, "f"), []byte("xy"), 0o644)
		}, "f", ErrChanged},
		{"removed", tree{"a": "1", "b": "2"}, func(top string) error {
			return os.Remove(filepath.Join(top, "b"))
		}, "b", os.ErrNotExist},
		{"becomes a directory", tree{"a": "1", "b": "2"}, func(top string) error {
			if err := os.Remove(filepath.Join(top, "b")); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(top, "b"), 0o755)
		}, "b", ErrChanged},
		{"becomes a pipe", tree{"a": "1", "b": "2"}, func(top string) error {
			if err := os.Remove(filepath.Join(top, "b")); err != nil {
				return err
			}
			return syscall.Mkfifo(filepath.Join(top, "b"), 0o644)
		}, "b", ErrSpecialFile},
	}
	for _, tt := range tests {
		for _, chunker := range []Chunker{{}, {byContent}} {
			t.Run(fmt.Sprint(tt.name, " ", chunker), func(t *testing.T) {
				top := tt.tree.write(t)
				m := newMemStore()
				var once sync.Once
				m.onWrite = func(blockstore.Block) (err error) {
					once.Do(func() { err = tt.change(top) })
					return err
				}
				res, err := Import(context.Background(), m, top, ImportOptions{Workers: 1, Chunker: chunker})
				if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), "/"+tt.bad+`"`) {
					t.Errorf("got error %v", err)
				}
				if res.Root.Defined() || m.syncs > 0 {
					t.Errorf("got root %s, %d syncs", res.Root, m.syncs)
				}
			})
		}
	}
}

// A swap between looking at an entry and opening it is caught on opening.
func TestOpenSwapped(t *testing.T) {
	top := tree{"f": "1", "dir/x": "1", "out/y": "1"}.write(t)
	root, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	before, err := root.Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	at := &place{name: top}
	for name, swap := range map[string]func(path string) error{
		"pipe":    func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"symlink": func(path string) error { return os.Symlink("dir/x", path) },
		"file":    func(path string) error { return os.WriteFile(path, []byte("2"), 0o644) },
	} {
		path := filepath.Join(top, "f")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := swap(path); err != nil {
			t.Fatal(err)
		}
		if f, err := openFile(root, at, "f", before); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	if err := os.Symlink("out", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	var open openDirs
	parent := open.add(root)
	parent.hold()
	if _, err := openDir(parent, "link"); !errors.Is(err, ErrChanged) {
		t.Errorf("directory replaced by a symlink: %v", err)
	}
}

// Files of /proc have content beyond their size.
func TestImportFileLongerThanItsSize(t *testing.T) {
	if _, err := os.Stat("/proc/version"); err != nil {
		t.Skip("no /proc")
	}
	_, err := Import(context.Background(), discard{}, "/proc/version", ImportOptions{})
	if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "/proc/version") {
		t.Errorf("got error %v", err)
	}
}

func TestImportUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	top := tree{"a": "1", "b/c": "1"}.write(t)
	for _, name := range []string{"b/c", "b"} {
		if err := os.Chmod(filepath.Join(top, name), 0); err != nil {
			t.Fatal(err)
		}
		_, err := Import(context.Background(), discard{}, top, ImportOptions{})
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), name+`"`) {
			t.Errorf("got error %v", err)
		}
		if err := os.Chmod(filepath.Join(top, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImportStoreFails(t *testing.T) {
	full := errors.New("disk full")
	for _, tr := range []tree{{"a": "1"}, {"a": strings.Repeat("x", 20<<20)}, {}} {
		m := newMemStore()
		m.onWrite = func(blockstore.Block) error { return full }
		_, err := Import(context.Background(), m, tr.write(t), ImportOptions{Workers: 3})
		if !errors.Is(err, full) || m.syncs > 0 {
			t.Errorf("got error %v, %d syncs", err, m.syncs)
		}
	}
}

func TestImportCancel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Skip("no sparse files")
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := newMemStore()
	m.onWrite = func(blockstore.Block) error { cancel(); return nil }
	if _, err := Import(ctx, m, path, ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}

// TestImportReadFails imports a file that opens and cannot be read, by root neither:
// the memory of this process, at the address 0.
func TestImportReadFails(t *testing.T) {
	path, err := filepath.EvalSymlinks("/proc/self/mem")
	if err != nil {
		t.Skip("no /proc")
	}
	res, err := Import(t.Context(), discard{}, path, ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), path) || res.Root.Defined() {
		t.Errorf("root %s, %v", res.Root, err)
	}
}
