package dag

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// failingGetter fails from its n-th Get on.
type failingGetter struct {
	Getter
	n atomic.Int64
}

func (g *failingGetter) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if g.n.Add(-1) <= 0 {
		return blockstore.Block{}, errNotHeld
	}
	return g.Getter.Get(ctx, c)
}

// interruptEach has an Extract to "x" in a new directory fail at its first Get, its
// second and so on, and calls then with that directory and with what was kept there, if
// something was, until one fails no more.
func interruptEach(t *testing.T, get Getter, root cid.Cid, then func(parent, kept string)) {
	t.Helper()
	times := 0
	for n := int64(1); ; n++ {
		g := &failingGetter{Getter: get}
		g.n.Store(n)
		parent := t.TempDir()
		_, err := Extract(t.Context(), g, root, filepath.Join(parent, "x"), ExtractOptions{})
		if err == nil {
			throwAway(t, parent, "x")
			break
		}
		if !errors.Is(err, errNotHeld) {
			t.Fatal(err)
		}
		if unfinished := new(UnfinishedError); errors.As(err, &unfinished) {
			times++
			then(parent, unfinished.Kept)
		} else {
			onlyEntry(t, parent)
		}
	}
	if times == 0 {
		t.Fatal("nothing was ever kept")
	}
}

// throwAway removes a tree with directories that nobody may write to, which the end of
// a test would fail to do.
func throwAway(t *testing.T, parent, name string) {
	t.Helper()
	root, err := os.OpenRoot(parent)
	if err != nil {
		t.Fatal(err)
	}
	var open openDirs
	defer open.closeAll()
	if err := removeAll(t.Context(), open.add(root), name); err != nil {
		t.Error(err)
	}
}

// smallTree has a few files of several blocks and of one, and a sharded directory.
func smallTree() tree {
	tr := tree{
		"a/big":    randomBytes(1000, 1),
		"a/b/c/":   "",
		"a/link":   "-> ../b",
		"b/one":    "1",
		"b/two":    randomBytes(250, 2),
		"empty":    "",
		"dangling": "-> nowhere",
	}
	for i := range 20 {
		tr[fmt.Sprintf("many/%02d", i)] = fmt.Sprint(i)
	}
	return tr
}

var smallProfile = profile{chunkSize: 100, maxLinks: 4, maxDirSize: 200}

// stamps returns what lies below top as what a write would change.
func stamps(t *testing.T, top string) map[string]fs.FileInfo {
	t.Helper()
	found := map[string]fs.FileInfo{}
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, path)
		found[name], err = e.Info()
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

// Wherever an extraction is interrupted, the next goes on: it writes no file again that
// was whole, and makes every entry only once.
func TestExtractResume(t *testing.T) {
	path := smallTree().write(t)
	want := readTree(t, path)
	m, imported := importTree(t, smallProfile, path, ImportOptions{})
	interruptEach(t, m, imported.Root, func(parent, kept string) {
		before := stamps(t, filepath.Join(kept, imported.Root.String()))
		dest := filepath.Join(parent, "x")
		res, err := Extract(t.Context(), m, imported.Root, dest, ExtractOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if res != (ExtractResult{imported.Files, imported.Dirs, imported.Symlinks, imported.Bytes}) {
			t.Errorf("imported %+v, extracted %+v", imported, res)
		}
		if got := readTree(t, dest); !maps.Equal(got, want) {
			t.Errorf("got %d entries, want %d", len(got), len(want))
		}
		after := stamps(t, dest)
		for name, b := range before {
			a := after[name]
			if a == nil || !os.SameFile(a, b) {
				t.Errorf("%s was made again", name)
			} else if b.Mode().IsRegular() && a.Size() == b.Size() && !sameState(a, b) {
				t.Errorf("%s was written again", name)
			}
		}
		onlyEntry(t, parent, "x")
	})
}

// Nothing that lies where the tree is made is trusted, or followed.
func TestExtractHostileLeftovers(t *testing.T) {
	path := smallTree().write(t)
	want := readTree(t, path)
	m, imported := importTree(t, smallProfile, path, ImportOptions{})
	big := want["a/big"]
	outside := tree{"file": big, "empty": "", "dir/one": "1", "dir/precious": "2", "writable": "3"}.write(t)
	outsideWas := readTree(t, outside)
	tests := []struct {
		name  string
		files tree
		more  func(top string) error
	}{
		{name: "cut off", files: tree{"a/big": big[:450]}},
		{name: "cut off to nothing", files: tree{"a/big": ""}},
		{name: "too long", files: tree{"a/big": big + "more", "empty": "more"}},
		{name: "zeros", files: tree{"a/big": big[:300] + strings.Repeat("\x00", 300) + big[600:], "b/one": "\x00"}},
		{name: "wrong to the last byte", files: tree{"a/big": big[:999] + "!"}},
		{name: "extra entries", files: tree{"c/d/e": "x", "a/b/c/f": "x", "b/three": "3", "extra": "-> " + outside}},
		{name: "files for directories", files: tree{"a": "x", "many": "x"}},
		{name: "directories for files", files: tree{"a/big/x/y": "x", "empty/": "", "dangling/": ""}},
		{name: "symlinks for directories", files: tree{"a": "-> " + outside, "b": "-> " + outside + "/dir"}},
		{name: "symlink inside for a directory", files: tree{"b": "-> a", "a/one": "1", "a/two": "2"}},
		{name: "symlinks for files", files: tree{"a/big": "-> " + outside + "/file", "empty": "-> " + outside + "/empty", "b/one": "-> ../empty"}},
		{name: "other symlinks", files: tree{"a/link": "-> " + outside, "dangling": "x"}},
		{name: "symlink for all", more: func(top string) error { return replace(top, outside+"/dir", os.Symlink) }},
		{name: "file for all", more: func(top string) error { return replace(top, outside+"/file", os.Link) }},
		{name: "hard link", files: tree{"a/x": ""}, more: func(top string) error {
			return errors.Join(os.Link(outside+"/file", top+"/a/big"), os.Link(outside+"/writable", top+"/empty"))
		}},
		{name: "named pipe", files: tree{"a/x": ""}, more: func(top string) error { return syscall.Mkfifo(top+"/a/big", 0o600) }},
		{name: "locked up", files: tree{"a/big": big[:450], "c/d/e": "x"}, more: func(top string) error {
			return errors.Join(os.Chmod(top+"/a/big", 0), os.Chmod(top+"/a", 0), os.Chmod(top+"/c/d", 0), os.Chmod(top+"/c", 0))
		}},
		{name: "open to all", files: tree{"a/big": big, "b/one": "1"}, more: func(top string) error {
			return errors.Join(os.Chmod(top+"/a/big", 0o777), os.Chmod(top+"/a", 0o777), os.Chmod(top, 0o777), os.Chmod(filepath.Dir(top), 0o777))
		}},
		{name: "other roots", more: func(top string) error {
			other := filepath.Dir(top) + "/other"
			return errors.Join(os.MkdirAll(other+"/x", 0o700), os.Chmod(other, 0o500))
		}},
		{name: "lock is a symlink", more: func(top string) error {
			return replace(filepath.Dir(top)+"/lock", outside+"/new", os.Symlink)
		}},
		{name: "lock is a directory", more: func(top string) error { return os.MkdirAll(filepath.Dir(top)+"/lock/x", 0o700) }},
		{name: "staging is a symlink", more: func(top string) error { return replace(filepath.Dir(top), outside+"/dir", os.Symlink) }},
		{name: "staging is a file", more: func(top string) error { return replace(filepath.Dir(top), outside+"/file", os.Link) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			parent := t.TempDir()
			dest := filepath.Join(parent, "x")
			top := filepath.Join(parent, stagingName("x"), imported.Root.String())
			if err := os.Mkdir(filepath.Dir(top), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(tt.files.write(t), top); err != nil {
				t.Fatal(err)
			}
			if tt.more != nil {
				if err := tt.more(top); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Extract(t.Context(), m, imported.Root, dest, ExtractOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := readTree(t, dest); !maps.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			for name, info := range stamps(t, dest) {
				wantMode := fs.FileMode(0o644)
				if info.IsDir() {
					wantMode = 0o755
				}
				if info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm() != wantMode {
					t.Errorf("%s has mode %v", name, info.Mode())
				}
			}
			if got := readTree(t, outside); !maps.Equal(got, outsideWas) {
				t.Errorf("outside is %q", got)
			}
			onlyEntry(t, parent, "x")
		})
	}
}

// replace puts at name what make makes of target.
func replace(name, target string, make func(target, name string) error) error {
	return errors.Join(os.RemoveAll(name), make(target, name))
}

// A part of a file that is right is not written again, and what follows is.
func TestPatchWriter(t *testing.T) {
	content := randomBytes(1000, 7)
	for _, was := range []string{"", content[:1], content[:99], content[:550], content, content[:300] + "!" + content[301:]} {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, []byte(was), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := &patchWriter{f: f}
		for i := 0; i < len(content); i += 100 {
			piece := content[i : i+100]
			right := i+100 <= len(was) && was[i:i+100] == piece
			before, _ := f.Stat()
			if n, err := w.Write([]byte(piece)); n != 100 || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
			if after, _ := f.Stat(); right && !sameState(before, after) {
				t.Errorf("%d bytes there: wrote at %d", len(was), i)
			}
		}
		if got, err := os.ReadFile(name); string(got) != content || err != nil {
			t.Errorf("%d bytes there: wrong in the end, %v", len(was), err)
		}
	}
}

// A refusal that comes late removes what was written, that of earlier runs too.
func TestExtractLateRefusal(t *testing.T) {
	m := newMemStore()
	bad := blockstore.Sum(cid.DagProtobuf, []byte("broken"))
	if err := m.put(bad); err != nil {
		t.Fatal(err)
	}
	lost := blockstore.Sum(cid.Raw, []byte("lost"))
	two := m.putNode(t, "two", Node{
		Links: []Link{{CID: lost.CID(), Size: 4}, {CID: bad.CID(), Size: 4}},
		Data:  unixfs{Type: typeFile, FileSize: 8, BlockSizes: []uint64{4, 4}}.Encode(),
	})
	root := m.putDir(t, "", m.putFile(t, "one", "1"), two)
	parent := t.TempDir()
	dest := filepath.Join(parent, "x")
	_, err := Extract(t.Context(), m, root.CID, dest, ExtractOptions{})
	if unfinished := new(UnfinishedError); !errors.As(err, &unfinished) || unfinished.Kept != filepath.Join(parent, stagingName("x")) {
		t.Fatalf("got error %v", err)
	}
	onlyEntry(t, parent, stagingName("x"))
	if err := m.put(lost); err != nil {
		t.Fatal(err)
	}
	_, err = Extract(t.Context(), m, root.CID, dest, ExtractOptions{})
	if unfinished := new(UnfinishedError); !errors.Is(err, ErrMalformed) || errors.As(err, &unfinished) {
		t.Errorf("got error %v", err)
	}
	onlyEntry(t, parent)
}

// Trees of different roots and for different destinations do not mix, and one refusal
// does not take away another's work.
func TestExtractKeepsApart(t *testing.T) {
	m, imported := importTree(t, smallProfile, smallTree().write(t), ImportOptions{})
	parent := t.TempDir()
	interrupted := func(dest string) {
		t.Helper()
		g := &failingGetter{Getter: m}
		g.n.Store(60)
		_, err := Extract(t.Context(), g, imported.Root, filepath.Join(parent, dest), ExtractOptions{})
		if unfinished := new(UnfinishedError); !errors.As(err, &unfinished) {
			t.Fatalf("got error %v", err)
		}
	}
	interrupted("x")
	interrupted("y")
	refused := m.putDir(t, "", m.putFile(t, "a", "1"), m.putFile(t, "a", "2"))
	if _, err := Extract(t.Context(), m, refused.CID, filepath.Join(parent, "x"), ExtractOptions{}); !errors.Is(err, ErrUnsafeName) {
		t.Errorf("got error %v", err)
	}
	onlyEntry(t, filepath.Join(parent, stagingName("x")), imported.Root.String())
	other := m.putDir(t, "", m.putFile(t, "a", "1"))
	if _, err := Extract(t.Context(), m, other.CID, filepath.Join(parent, "x"), ExtractOptions{}); err != nil {
		t.Error(err)
	}
	onlyEntry(t, filepath.Join(parent, "x"), "a")
	onlyEntry(t, parent, stagingName("y"), "x")
}

// blockingGetter says when it is asked for anything but root, and waits.
type blockingGetter struct {
	Getter
	root   cid.Cid
	asked  chan struct{}
	answer chan struct{}
}

func (g *blockingGetter) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if c != g.root {
		select {
		case g.asked <- struct{}{}:
		default:
		}
		<-g.answer
	}
	return g.Getter.Get(ctx, c)
}

// While one extraction runs, another to the same place is told so, of whichever root.
func TestExtractTwice(t *testing.T) {
	m, imported := importTree(t, smallProfile, smallTree().write(t), ImportOptions{})
	other := m.putDir(t, "", m.putFile(t, "a", "1"))
	parent := t.TempDir()
	dest := filepath.Join(parent, "x")
	staging := filepath.Join(parent, stagingName("x"))
	if err := errors.Join(os.Mkdir(staging, 0o700), os.Chmod(staging, 0o777)); err != nil {
		t.Fatal(err)
	}
	slow := &blockingGetter{m, imported.Root, make(chan struct{}, 1), make(chan struct{})}
	first := make(chan error)
	go func() {
		_, err := Extract(context.Background(), slow, imported.Root, dest, ExtractOptions{})
		first <- err
	}()
	<-slow.asked
	if info, err := os.Stat(staging); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others may see what is made: %v, %v", info, err)
	}
	for _, root := range []cid.Cid{imported.Root, other.CID} {
		_, err := Extract(t.Context(), m, root, dest, ExtractOptions{})
		if !errors.Is(err, ErrExtracting) || !strings.Contains(err.Error(), dest) {
			t.Errorf("got error %v", err)
		}
	}
	if _, err := Extract(t.Context(), m, other.CID, filepath.Join(parent, "y"), ExtractOptions{}); err != nil {
		t.Error(err)
	}
	close(slow.answer)
	if err := <-first; err != nil {
		t.Error(err)
	}
	onlyEntry(t, parent, "x", "y")
}

// Many at once: one makes the tree, and what the others say is true.
func TestExtractRace(t *testing.T) {
	m, imported := importTree(t, smallProfile, smallTree().write(t), ImportOptions{})
	for range 5 {
		parent := t.TempDir()
		dest := filepath.Join(parent, "x")
		errs := make(chan error)
		for range 4 {
			go func() {
				_, err := Extract(context.Background(), m, imported.Root, dest, ExtractOptions{})
				errs <- err
			}()
		}
		done := 0
		for range 4 {
			switch err := <-errs; {
			case err == nil:
				done++
			case !errors.Is(err, ErrExtracting) && !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		}
		if done != 1 {
			t.Errorf("%d of 4 made the tree", done)
		}
		onlyEntry(t, parent, "x")
	}
}

// However many open and remove the directory, one at a time has it.
func TestStagingExclusive(t *testing.T) {
	parent := t.TempDir()
	var inside, opened atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			root, err := os.OpenRoot(parent)
			if err != nil {
				t.Error(err)
				return
			}
			var open openDirs
			defer open.closeAll()
			beside := open.add(root)
			for range 100 {
				s, err := openStaging(t.Context(), beside, &place{name: parent}, "x")
				if errors.Is(err, ErrExtracting) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				opened.Add(1)
				if inside.Add(1) != 1 {
					t.Error("two have it")
				}
				inside.Add(-1)
				if err := s.close(t.Context(), "tree", nil); err != nil {
					t.Error(err)
				}
				s.here.release()
			}
		})
	}
	all.Wait()
	if opened.Load() == 0 {
		t.Error("nobody ever had it")
	}
	onlyEntry(t, parent)
}
