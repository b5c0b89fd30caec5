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
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"pollux/blockstore"
)

func TestExtract(t *testing.T) {
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	for name, p := range map[string]profile{
		"default": unixfsV1,
		"small":   {chunkSize: 100, maxLinks: 3, maxDirSize: 200},
	} {
		t.Run(name, func(t *testing.T) {
			path := siteTree().write(t)
			want := readTree(t, path)
			m, imported := importTree(t, p, path, ImportOptions{Hidden: true, AllowSecrets: true})
			parent := t.TempDir()
			dest := filepath.Join(parent, "copy")
			var last Progress
			res, err := Extract(t.Context(), m, imported.Root, dest, ExtractOptions{Progress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if res != (ExtractResult{imported.Files, imported.Dirs, imported.Symlinks, imported.Bytes}) {
				t.Errorf("imported %+v, extracted %+v", imported, res)
			}
			if last.Files != int64(res.Files) || last.Bytes != res.Bytes {
				t.Errorf("last progress was %+v", last)
			}
			if got := readTree(t, dest); !maps.Equal(got, want) {
				t.Errorf("got %d entries, want %d", len(got), len(want))
			}
			if _, again := importTree(t, p, dest, ImportOptions{Hidden: true, AllowSecrets: true}); again.Root != imported.Root {
				t.Errorf("root is %s, was %s", again.Root, imported.Root)
			}
			for name, mode := range map[string]fs.FileMode{".": 0o755, "big": 0o755, "index.html": 0o644} {
				if info, err := os.Stat(filepath.Join(dest, name)); err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
			onlyEntry(t, parent, "copy")
		})
	}
}

// onlyEntry checks that there is nothing in dir but what is named.
func onlyEntry(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("%s has %q, want %q", dir, got, names)
	}
}

func TestExtractRoots(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "", "hello")
	symlink, err := putSymlink("nowhere", metadata{}, m.put)
	if err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "x")
	if res, err := Extract(t.Context(), m, file.CID, dest, ExtractOptions{}); err != nil || res != (ExtractResult{Files: 1, Bytes: 5}) {
		t.Errorf("%+v, %v", res, err)
	}
	if got, err := os.ReadFile(dest); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	dest += "2"
	if _, err := Extract(t.Context(), m, symlink.CID, dest, ExtractOptions{}); err != nil {
		t.Error(err)
	}
	if got, err := os.Readlink(dest); err != nil || got != "nowhere" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestExtractDest(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "f", "x")
	dir := m.putDir(t, "", file)
	here := tree{"file": "1", "full/x": "1", "empty/": "", "link": "-> empty"}.write(t)
	for _, tt := range []struct {
		root cid.Cid
		dest string
		want error
	}{
		{dir.CID, "empty", nil},
		{dir.CID, "empty", fs.ErrExist}, // not empty any more
		{dir.CID, "full", fs.ErrExist},
		{dir.CID, "file", fs.ErrExist},
		{dir.CID, "link", fs.ErrExist},
		{file.CID, "file", fs.ErrExist},
		{file.CID, "full", fs.ErrExist},
		{dir.CID, "missing/new", fs.ErrNotExist},
		{blockstore.Sum(cid.Raw, []byte("lost")).CID(), "new", errNotHeld},
	} {
		_, err := Extract(t.Context(), m, tt.root, filepath.Join(here, tt.dest), ExtractOptions{})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.dest, err)
		}
	}
	onlyEntry(t, here, "empty", "file", "full", "link")
	onlyEntry(t, filepath.Join(here, "empty"), "f")
	onlyEntry(t, filepath.Join(here, "full"), "x")
}

func TestExtractHostile(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "ok", "x")
	link := func(name, target string) Link {
		l, err := putSymlink(target, metadata{}, m.put)
		if err != nil {
			t.Fatal(err)
		}
		l.Name = name
		return l
	}
	outside := t.TempDir()
	named := func(name string) Link { return Link{name, file.CID, 1} }
	dirNamed := func(name string) Link { return m.putDir(t, name, file) }
	lost := Link{"lost", blockstore.Sum(cid.DagProtobuf, []byte("lost")).CID(), 1}
	broken := blockstore.Sum(cid.DagProtobuf, []byte("broken"))
	if err := m.put(broken); err != nil {
		t.Fatal(err)
	}
	lying := m.putNode(t, "lying", Node{
		Links: []Link{file},
		Data:  unixfs{Type: typeFile, FileSize: 1 << 20, BlockSizes: []uint64{1 << 20}}.Encode(),
	})
	short, err := multihash.Sum([]byte("x"), multihash.SHA2_256, 4)
	if err != nil {
		t.Fatal(err)
	}
	unverifiable := m.putNode(t, "file", Node{
		Links: []Link{{CID: cid.NewCidV1(cid.Raw, short), Size: 1}},
		Data:  unixfs{Type: typeFile, FileSize: 1, BlockSizes: []uint64{1}}.Encode(),
	})
	mixed := m.putNode(t, "mixed", Node{
		Links: []Link{file, m.putDir(t, "", file)},
		Data:  unixfs{Type: typeFile, FileSize: 2, BlockSizes: []uint64{1, 1}}.Encode(),
	})
	tests := []struct {
		name    string
		entries []Link
		want    error
		text    string
	}{
		{"parent", []Link{file, named("..")}, ErrUnsafeName, `".."`},
		{"parent as directory", []Link{file, dirNamed("..")}, ErrUnsafeName, `".."`},
		{"parent as symlink", []Link{file, link("..", outside)}, ErrUnsafeName, `".."`},
		{"self", []Link{named(".")}, ErrUnsafeName, `"."`},
		{"empty", []Link{named("")}, ErrUnsafeName, `""`},
		{"slash", []Link{named("a/b")}, ErrUnsafeName, `"a/b"`},
		{"out and in", []Link{named("../x")}, ErrUnsafeName, `"../x"`},
		{"absolute", []Link{named(filepath.Join(outside, "x"))}, ErrUnsafeName, outside},
		{"NUL", []Link{named("a\x00b")}, ErrUnsafeName, `"a\x00b"`},
		{"duplicate files", []Link{named("a"), named("a")}, ErrUnsafeName, `"a"`},
		{"duplicate directories", []Link{dirNamed("a"), dirNamed("a")}, ErrUnsafeName, `"a"`},
		{"through a symlink", []Link{link("a", outside), dirNamed("a")}, ErrUnsafeName, `"a"`},
		{"onto a symlink", []Link{link("a", filepath.Join(outside, "x")), named("a")}, ErrUnsafeName, `"a"`},
		{"deep down", []Link{m.putDir(t, "d", m.putDir(t, "e", named("..")))}, ErrUnsafeName, "d/e"},
		{"too long", []Link{named(strings.Repeat("x", 256))}, syscall.ENAMETOOLONG, "xxx"},
		{"symlink to NUL", []Link{link("l", "a\x00b")}, ErrMalformed, `"l"`},
		{"symlink to nothing", []Link{link("l", "")}, ErrMalformed, `"l"`},
		{"symlink too long", []Link{file, link("l", strings.Repeat("x", 1<<16))}, syscall.ENAMETOOLONG, `l"`},
		{"lost block", []Link{file, lost}, errNotHeld, lost.CID.String()},
		{"broken block", []Link{file, {"b", broken.CID(), 1}}, ErrMalformed, `"b"`},
		{"lying size", []Link{file, lying}, ErrMalformed, `/lying"`},
		{"directory in a file", []Link{file, mixed}, ErrNotFile, `/mixed"`},
		{"unverifiable", []Link{file, unverifiable}, errUnverifiable, `/file"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := m.putDir(t, "", tt.entries...)
			parent := t.TempDir()
			res, err := Extract(t.Context(), m, root.CID, filepath.Join(parent, "dest"), ExtractOptions{})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %+v, %v", res, err)
			}
			onlyEntry(t, parent)
			onlyEntry(t, outside)
		})
	}
}

// A symlink that points out is made, and what follows it does not go through it.
func TestExtractSymlinkOut(t *testing.T) {
	outside := t.TempDir()
	path := tree{"a": "-> " + outside, "b/c": "1"}.write(t)
	m, res := importTree(t, unixfsV1, path, ImportOptions{})
	dest := filepath.Join(t.TempDir(), "x")
	if _, err := Extract(t.Context(), m, res.Root, dest, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(filepath.Join(dest, "a")); err != nil || got != outside {
		t.Errorf("got %q, %v", got, err)
	}
	onlyEntry(t, outside)
}

// What fails before anything was written leaves nothing.
func TestExtractCancel(t *testing.T) {
	m, res := importTree(t, unixfsV1, siteTree().write(t), ImportOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	parent := t.TempDir()
	get := cancelGetter{m, cancel, res.Root}
	_, err := Extract(ctx, get, res.Root, filepath.Join(parent, "x"), ExtractOptions{})
	if unfinished := new(UnfinishedError); !errors.Is(err, context.Canceled) || errors.As(err, &unfinished) {
		t.Errorf("got error %v", err)
	}
	onlyEntry(t, parent)
}

// cancelGetter cancels when anything but root is read.
type cancelGetter struct {
	Getter
	cancel func()
	root   cid.Cid
}

func (g cancelGetter) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	if c != g.root {
		g.cancel()
	}
	return g.Getter.Get(ctx, c)
}
