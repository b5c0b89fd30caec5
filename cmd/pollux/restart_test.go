package main

import (
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/node/api"
)

// fill stores a site of n small files in a repository whose daemon does not run
// yet, block by block, and returns its root and the CID of the last file.
func fill(t testing.TB, repo string, n int) (root, last cid.Cid) {
	t.Helper()
	dir, err := blockstore.Dir(filepath.Join(repo, "blocks"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := blockstore.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := store.NewWriter()
	put := func(b blockstore.Block) dag.Link {
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		return dag.Link{CID: b.CID(), Size: uint64(len(b.Data()))}
	}
	directory := func(links []dag.Link) dag.Link {
		return put(blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode()))
	}
	var top, sub []dag.Link
	for i := range n {
		l := put(blockstore.Sum(cid.Raw, fmt.Appendf(nil, "<p>page %d", i)))
		l.Name = fmt.Sprintf("%06d.html", i)
		last = l.CID
		if sub = append(sub, l); len(sub) == 500 || i == n-1 {
			d := directory(sub)
			d.Name = fmt.Sprintf("%06d", i)
			top, sub = append(top, d), nil
		}
	}
	root = directory(top).CID
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return root, last
}

// TestLargeRestart ends a daemon with 50,000 blocks while it announces them. After
// the restart it goes on, and each of them is found.
func TestLargeRestart(t *testing.T) {
	const files = 50_000
	boot := newMachine(t, "boot").start(nil)
	a := newMachine(t, "a")
	root, last := fill(t, a.repo, files)
	a.start(boot)
	var followed api.FollowResult
	a.run(&followed, "follow", root.String(), "--wait")
	if followed.Blocks != files+files/500+1 || followed.Received != 0 {
		t.Fatalf("followed %+v", followed)
	}
	a.stop(syscall.SIGTERM)
	a.start(boot)
	a.status("it announces all blocks", func(s api.Status) bool { return s.Announce.Keys == followed.Blocks })

	b := newMachine(t, "b").start(boot)
	out, err := exec.Command("pollux", "--repo", b.repo, "cat", last.String()).Output()
	if want := fmt.Sprintf("<p>page %d", files-1); err != nil || string(out) != want {
		t.Errorf("the second node reads %q, %v; want %q", out, err, want)
	}
}

// BenchmarkStart measures the time from the start of a daemon with 50,000 blocks
// until it is ready.
func BenchmarkStart(b *testing.B) {
	a := newMachine(b, "a")
	root, _ := fill(b, a.repo, 50_000)
	a.start(nil)
	a.run(new(api.FollowResult), "follow", root.String(), "--wait")
	a.stop(syscall.SIGTERM)
	for b.Loop() {
		a.start(nil)
		b.StopTimer()
		a.stop(syscall.SIGTERM)
		b.StartTimer()
	}
}
