package dag

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pollux/blockstore"
)

// sharding makes parts of all directories but the smallest.
var sharding = profile{chunkSize: 1 << 20, maxLinks: 1024, maxDirSize: 100}

// What an import takes for the entries of a large folder is little more than their names, and
// what its cache keeps of each.
func TestImportMemory(t *testing.T) {
	const files = 30_000
	top := t.TempDir()
	root, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for i := range files {
		if err := root.WriteFile(fmt.Sprintf("page-%07d.html", i), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	grown := heapGrowth(t)
	m := &probe{}
	m.at = func(n int64) {
		if n%(files/6) == 0 {
			grown(fmt.Sprintf("after %d files", n), files*150)
		}
	}
	res, err := runImport(t.Context(), unixfsV1, m, func() BlockWriter { return m }, top, ImportOptions{Progress: func(Progress) {}})
	if err != nil || res.Files != files {
		t.Fatalf("%+v, %v", res, err)
	}
}

// probe is a store that keeps nothing and tells how often it was written to.
type probe struct {
	discard
	writes atomic.Int64
	at     func(writes int64)
}

func (p *probe) Write(blockstore.Block) (bool, error) {
	p.at(p.writes.Add(1))
	return true, nil
}

// Directories in parts have directories, symlinks and secrets among their entries, ignore
// files, and metadata, as others have.
func TestImportSharded(t *testing.T) {
	tr := tree{"empty/": "", "link": "-> nowhere", "only/one-entry-of-a-name-that-alone-is-too-long-for-a-directory-that-is-whole-by-this-profile-here": "1"}
	for i := range 100 {
		tr[fmt.Sprintf("d%d/e%d/f", i%30, i)] = fmt.Sprint(i)
		tr[fmt.Sprintf("d%d/file-%d", i%3, i)] = fmt.Sprint(i)
	}
	top := tr.write(t)
	for _, opts := range []ImportOptions{{}, {Preserve: true}, {Workers: 1, Hidden: true}} {
		sameAsBoxo(t, sharding, top, opts)
	}

	before, want := importTree(t, sharding, top, ImportOptions{})
	tr[IgnoreFile] = "*.tmp\nout/\n"
	for i := range 300 {
		tr[fmt.Sprintf("%d.tmp", i)] = "x"
		tr[fmt.Sprintf("few/%d.tmp", i)] = "x"
		tr[fmt.Sprintf("d1/%d.tmp/x", i)] = "x"
	}
	tr["few/out"], tr["few/sub/out/x"] = "stays, as it is no directory", "goes"
	m, got := importTree(t, sharding, tr.write(t), ImportOptions{})
	var few []string
	e, err := Resolve(t.Context(), m, got.Root, "few")
	if err != nil {
		t.Fatal(err)
	}
	for entry, err := range List(t.Context(), m, e.CID) {
		if err != nil {
			t.Fatal(err)
		}
		few = append(few, entry.Name)
	}
	if n := m.blocks[e.CID]; !slices.Equal(few, []string{"out", "sub"}) || len(n.Data()) > 200 {
		t.Errorf("few has %q in %d bytes", few, len(n.Data()))
	}
	for _, name := range []string{"d1", "d2", "only", "empty", "link"} {
		a, err := Resolve(t.Context(), m, got.Root, name)
		b, err2 := Resolve(t.Context(), before, want.Root, name)
		if errors.Join(err, err2) != nil || a.CID != b.CID {
			t.Errorf("%s: %s, want %s, %v, %v", name, a.CID, b.CID, err, err2)
		}
	}

	tr["d2/sub/.env"], tr["d1/id_rsa"] = "secret", "secret"
	top = tr.write(t)
	_, err = runImport(t.Context(), sharding, m, func() BlockWriter { return m }, top, ImportOptions{Hidden: true})
	if !errors.Is(err, ErrSecret) || !strings.Contains(err.Error(), filepath.Join(top, "d1", "id_rsa")) || !strings.Contains(err.Error(), ".env") {
		t.Errorf("got error %v", err)
	}
}

// A walk that is cancelled in the middle of a large directory ends there.
func TestWalkTreeCancelled(t *testing.T) {
	tr := tree{}
	for i := range 50 {
		tr[fmt.Sprintf("file-%d", i)] = ""
	}
	im := &importer{profile: sharding}
	top, err := im.openTop(tr.write(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err = im.walk(ctx, top, func(j job) error {
		j.dir.root.release()
		if n++; n == 10 {
			cancel()
		}
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || n != 10 {
		t.Errorf("%d entries, %v", n, err)
	}
	im.open.closeAll()
}
