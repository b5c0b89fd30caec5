package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
)

// held are blocks in memory. Each Get calls onGet first.
type held struct {
	blocks map[cid.Cid]blockstore.Block
	onGet  func(gets int)
	gets   int
}

func (h *held) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	h.gets++
	h.onGet(h.gets)
	return h.blocks[c], ctx.Err()
}

// heldFile returns a file of several blocks.
func heldFile(n int) (*held, cid.Cid) {
	h := &held{blocks: map[cid.Cid]blockstore.Block{}, onGet: func(int) {}}
	var node dag.Node
	for i := range n {
		b := blockstore.Sum(cid.Raw, bytes.Repeat([]byte{byte(i)}, 100_000))
		h.blocks[b.CID()] = b
		node.Links = append(node.Links, dag.Link{CID: b.CID(), Size: uint64(len(b.Data()))})
	}
	root := blockstore.Sum(cid.DagProtobuf, node.Encode())
	h.blocks[root.CID()] = root
	return h, root.CID()
}

// An export that is interrupted leaves neither the file nor a part of it.
func TestExportInterrupted(t *testing.T) {
	h, root := heldFile(5)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	path := filepath.Join(dir, "site.car")
	parts := 0
	h.onGet = func(gets int) {
		if gets == 4 {
			entries, _ := os.ReadDir(dir)
			parts = len(entries)
			cancel()
		}
	}
	err := writeFile(path, func(w io.Writer) error { return dag.WriteCAR(ctx, h, root, w) })
	if !errors.Is(err, context.Canceled) || parts != 1 {
		t.Errorf("got %v, with %d files written to", err, parts)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// What came to lie at the path meanwhile is left alone.
func TestExportNeverOverwrites(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "site.car")
	err := writeFile(path, func(io.Writer) error { return os.WriteFile(path, []byte("precious"), 0o644) })
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	entries, _ := os.ReadDir(dir)
	if data, _ := os.ReadFile(path); string(data) != "precious" || len(entries) != 1 {
		t.Errorf("%q among %v", data, entries)
	}
}

// An import that waits for its input ends at the first signal and keeps nothing.
func TestImportInterrupted(t *testing.T) {
	h, root := heldFile(20)
	var car bytes.Buffer
	if err := dag.WriteCAR(t.Context(), h, root, &car); err != nil {
		t.Fatal(err)
	}
	repo := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "pollux", "--repo", repo, "import", "-")
	cmd.Env = append(os.Environ(), testEnv...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// More than pipes and buffers hold: when it is written, the import is at work.
	if _, err := in.Write(car.Bytes()[:car.Len()-1]); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitError || stderr.String() != "pollux: interrupted\n" {
		t.Errorf("ended with %v, %q", err, stderr.String())
	}
	if _, err := os.Stat(filepath.Join(repo, "sites.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a site was kept: %v", err)
	}
}
