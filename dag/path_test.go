package dag

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	for name, p := range map[string]profile{
		"plain":   unixfsV1,
		"sharded": {chunkSize: 1 << 20, maxLinks: 1024, maxDirSize: 100},
	} {
		t.Run(name, func(t *testing.T) {
			m, res := importTree(t, p, siteTree().write(t), ImportOptions{})
			tests := []struct {
				path string
				kind Kind
				size int64
				err  error
				text string // in the error
			}{
				{"", KindDirectory, 0, nil, ""},
				{"///", KindDirectory, 0, nil, ""},
				{"index.html", KindFile, 14, nil, ""},
				{"/a b//c  d.html", KindFile, 6, nil, ""},
				{"100%25/%zz.html", KindFile, 7, nil, ""},
				{"ünï/文書/🙂.html", KindFile, 7, nil, ""},
				{"not-utf8-\xff\xfe/\x01\n.html", KindFile, 5, nil, ""},
				{"nested/empty/dirs/here/", KindDirectory, 0, nil, ""},
				{"big/three.bin", KindFile, 3<<20 + 12345, nil, ""},
				{"big/exact.bin", KindFile, 1 << 20, nil, ""},
				{"empty", KindFile, 0, nil, ""},
				{"link", KindSymlink, 10, nil, ""},
				{"nope", 0, 0, ErrNotExist, `/nope"`},
				{"nested/nope/x", 0, 0, ErrNotExist, `/nested/nope"`},
				{"index.html/x", 0, 0, ErrNotDir, `/index.html"`},
				{"big/three.bin/x", 0, 0, ErrNotDir, `/big/three.bin"`},
				{"updir/index.html", 0, 0, ErrNotDir, `/updir"`},
				{".", 0, 0, ErrNotExist, `/."`},
				{"nested/../index.html", 0, 0, ErrNotExist, `/nested/.."`},
				{".hidden", 0, 0, ErrNotExist, `/.hidden"`},
			}
			for _, tt := range tests {
				e, err := Resolve(t.Context(), m, res.Root, tt.path)
				if !errors.Is(err, tt.err) || err != nil && !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%q: got error %v", tt.path, err)
				}
				if e.Kind != tt.kind || e.Size != tt.size {
					t.Errorf("%q: got %+v", tt.path, e)
				}
			}
			delete(m.blocks, res.Root)
			if _, err := Resolve(t.Context(), m, res.Root, "x"); !errors.Is(err, errNotHeld) || errors.Is(err, ErrNotExist) {
				t.Errorf("block that is not held: %v", err)
			}
		})
	}
}

func TestList(t *testing.T) {
	site := siteTree()
	path := site.write(t)
	for name, p := range map[string]profile{
		"plain":   unixfsV1,
		"sharded": {chunkSize: 1 << 20, maxLinks: 1024, maxDirSize: 100},
	} {
		t.Run(name, func(t *testing.T) {
			m, res := importTree(t, p, path, ImportOptions{Hidden: true, AllowSecrets: true})
			found := map[string]int64{}
			stack := []Entry{{CID: res.Root}}
			for len(stack) > 0 {
				dir := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				all, err := collect(t.Context(), m, dir.CID)
				if err != nil {
					t.Fatal(err)
				}
				if len(all) == 0 {
					found[dir.Name+"/"] = 0
				}
				for _, e := range all {
					if s, err := Stat(t.Context(), m, e.CID); err != nil || s.Kind != e.Kind || s.Size != e.Size || s.Target != e.Target {
						t.Errorf("listed %+v, Stat says %+v, %v", e, s, err)
					}
					e.Name = strings.TrimPrefix(dir.Name+"/"+e.Name, "/")
					switch e.Kind {
					case KindDirectory:
						stack = append(stack, e)
					case KindSymlink:
						found[e.Name] = int64(len("-> " + e.Target))
					default:
						found[e.Name] = e.Size
					}
				}
			}
			for name, content := range site {
				if size, ok := found[name]; !ok || size != int64(len(content)) {
					t.Errorf("%q: size %d, %v, want %d", name, size, ok, len(content))
				}
			}
			if len(found) != len(site) {
				t.Errorf("found %d entries of %d", len(found), len(site))
			}
		})
	}
}

func TestListErrors(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "f", "x")
	lost := m.putDir(t, "lost", file)
	dir := m.putDir(t, "", file, lost, m.putFile(t, "g", "y"))
	delete(m.blocks, lost.CID)
	all, err := collect(t.Context(), m, dir.CID)
	if len(all) != 1 || !errors.Is(err, errNotHeld) || !strings.Contains(err.Error(), lost.CID.String()) {
		t.Errorf("got %v, %v", all, err)
	}
	if _, err := collect(t.Context(), m, file.CID); !errors.Is(err, ErrNotDir) {
		t.Errorf("List of a file: %v", err)
	}
	symlink, err := putSymlink("x", metadata{}, m.put)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := collect(t.Context(), m, symlink.CID); !errors.Is(err, ErrNotDir) {
		t.Errorf("List of a symlink: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := collect(ctx, m, dir.CID); !errors.Is(err, context.Canceled) {
		t.Errorf("List after cancel: %v", err)
	}
}

// Whoever stops early gets no more, and nobody is left fetching.
func TestListStops(t *testing.T) {
	m := newMemStore()
	var entries []Link
	for i := range 100 {
		entries = append(entries, m.putDir(t, fmt.Sprintf("%03d", i)))
	}
	dir := m.putDir(t, "", entries...)
	for e, err := range List(t.Context(), m, dir.CID) {
		if err != nil || e.Name != "000" {
			t.Fatalf("got %+v, %v", e, err)
		}
		break
	}
	if m.gets > 2+lookAhead {
		t.Errorf("read %d blocks for one entry", m.gets)
	}
}
