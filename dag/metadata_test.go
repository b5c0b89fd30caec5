package dag

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// dress gives some entries of a tree times and modes of all kinds.
func dress(t *testing.T, top string) {
	t.Helper()
	modes := []os.FileMode{
		0o644, 0o600, 0o755, 0o755 | os.ModeSetuid, 0o775 | os.ModeSetgid, 0o777 | os.ModeSticky,
		0o700 | os.ModeSetuid | os.ModeSetgid | os.ModeSticky,
	}
	times := []time.Time{
		time.Unix(0, 0), time.Unix(0, 1), time.Unix(-1, 999_999_999), time.Unix(-123_456_789, 0),
		time.Unix(1_700_000_000, 0), time.Unix(1_700_000_000, 123_456_700), time.Unix(1<<33, 5),
	}
	n := 0
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		n++
		mode := modes[n%len(modes)]
		if e.IsDir() {
			mode |= 0o700 // to be read below
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		return os.Chtimes(path, time.Time{}, times[n/2%len(times)])
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportPreserveLikeBoxo(t *testing.T) {
	small := profile{chunkSize: 10, maxLinks: 3, maxDirSize: 1000}
	wide := tree{}
	for i := range 300 {
		wide[fmt.Sprintf("dir/%d", i*i)] = fmt.Sprint(i % 10)
	}
	sizes := tree{}
	for _, size := range []int{0, 1, 9, 10, 11, 29, 30, 31, 89, 90, 91, 100, 270, 271, 1000} {
		sizes[fmt.Sprint(size)] = randomBytes(size, byte(size))
	}
	for name, tr := range map[string]tree{"site": siteTree(), "empty": {}, "wide": wide, "sizes": sizes, "links": {"a": "-> b", "b/c": "-> .."}} {
		t.Run(name, func(t *testing.T) {
			path := tr.write(t)
			dress(t, path)
			opts := ImportOptions{Preserve: true, Hidden: true, AllowSecrets: true}
			if name != "site" { // whose files are too large for chunks this small
				sameAsBoxo(t, small, path, opts)
			}
			for _, opts.Workers = range []int{1, 7} {
				sameAsBoxo(t, unixfsV1, path, opts)
			}
		})
	}
}

// The metadata of a directory counts towards the size above which it is sharded.
func TestImportPreserveShards(t *testing.T) {
	tr := tree{}
	for i := range 10 {
		tr[fmt.Sprint(i)] = ""
	}
	path := tr.write(t)
	_, plain := importTree(t, unixfsV1, path, ImportOptions{Preserve: true})
	if plain.Blocks != 11 {
		t.Fatalf("%d blocks", plain.Blocks)
	}
	for size := 400; size < 600; size++ {
		sameAsBoxo(t, profile{chunkSize: 10, maxLinks: 3, maxDirSize: size}, path, ImportOptions{Preserve: true})
	}
}

// With metadata the root depends on it, without not; leaves are the same either way.
func TestImportPreserve(t *testing.T) {
	path := tree{"small": "1", "empty": "", "large": randomBytes(3<<20, 1), "dir/l": "-> .."}.write(t)
	m := newMemStore()
	imported := func(preserve bool) ImportResult {
		res, err := Import(t.Context(), m, path, ImportOptions{Preserve: preserve})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	plain, kept := imported(false), imported(true)
	if plain.Root == kept.Root || kept.NewBytes > 2000 {
		t.Errorf("roots %s and %s, %d bytes new with metadata", plain.Root, kept.Root, kept.NewBytes)
	}
	last := kept
	for _, name := range []string{".", "small", "large", "empty", "dir"} {
		for what, change := range map[string]func(path string) error{
			"mode": func(path string) error { return os.Chmod(path, 0o750) },
			"time": func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 1)) },
		} {
			if err := change(filepath.Join(path, name)); err != nil {
				t.Fatal(err)
			}
			if res := imported(false); res.Root != plain.Root || res.NewBytes != 0 {
				t.Errorf("%s of %s changed the root without Preserve", what, name)
			}
			res := imported(true)
			if res.Root == last.Root || res.NewBytes > 1000 {
				t.Errorf("%s of %s: root %s, then %s, %d bytes new", what, name, last.Root, res.Root, res.NewBytes)
			}
			last = res
		}
	}

	// What was stored with metadata has the same content.
	dest := filepath.Join(t.TempDir(), "out")
	if _, err := Extract(t.Context(), m, last.Root, dest, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, res := importTree(t, unixfsV1, dest, ImportOptions{}); res.Root != plain.Root {
		t.Errorf("extracted, it is %s, want %s", res.Root, plain.Root)
	}
}

// inode is a made-up fs.FileInfo.
type inode struct {
	fs.FileInfo
	mode    fs.FileMode
	modTime time.Time
}

func (i inode) Mode() fs.FileMode  { return i.mode }
func (i inode) ModTime() time.Time { return i.modTime }

func TestMetadataOf(t *testing.T) {
	now := time.Unix(1_700_000_000, 5)
	for _, tt := range []struct {
		inode
		want metadata
	}{
		{inode{nil, 0o644, now}, metadata{0o644, now}},
		{inode{nil, fs.ModeDir | 0o755, now}, metadata{0o755, now}},
		{inode{nil, fs.ModeSetuid | 0o711, now}, metadata{0o4711, now}},
		{inode{nil, fs.ModeSetgid | 0o70, now}, metadata{0o2070, now}},
		{inode{nil, fs.ModeDir | fs.ModeSticky | 0o777, now}, metadata{0o1777, now}},
		{inode{nil, fs.ModeSymlink | 0o777, now}, metadata{0, now}},
		{inode{nil, 0, time.Time{}}, metadata{}},
		{inode{nil, 0o1, time.Unix(0, 0)}, metadata{0o1, time.Unix(0, 0)}},
		{inode{nil, 0o1, time.Unix(minSeconds, 1)}, metadata{0o1, time.Unix(minSeconds, 1)}},
		{inode{nil, 0o1, time.Unix(minSeconds-1, 999_999_999)}, metadata{mode: 0o1}},
		{inode{nil, 0o1, time.Unix(maxSeconds, 999_999_999)}, metadata{0o1, time.Unix(maxSeconds, 999_999_999)}},
		{inode{nil, 0o1, time.Unix(maxSeconds+1, 0)}, metadata{mode: 0o1}},
	} {
		got := metadataOf(tt.inode)
		if got != tt.want {
			t.Errorf("%v, %v: got %+v", tt.mode, tt.modTime, got)
		}
		u := unixfs{Type: typeDirectory, Mode: got.mode, ModTime: got.modTime}
		back, err := decodeUnixFS(Node{Data: u.Encode()})
		if err != nil || back.Mode != got.mode || !back.ModTime.Equal(got.modTime) {
			t.Errorf("%v, %v: read back %o, %v, %v", tt.mode, tt.modTime, back.Mode, back.ModTime, err)
		}
	}
}
