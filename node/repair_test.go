package node

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/node/api"
)

// flipRecord changes a byte of the record of c in a repository that no node has open.
func flipRecord(t *testing.T, repo string, c cid.Cid) {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(repo, blocksDir, "*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range packs {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		i := bytes.Index(data, c.Hash())
		if i < 0 {
			continue
		}
		data[i+len(c.Hash())] ^= 1
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no such record")
}

// openAlone opens a node that finds no other, even if it looks.
func openAlone(t *testing.T, repo string) *Node {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Network, cfg.Bootstrap, cfg.MDNS, cfg.PortMapping = "test", []string{None}, false, false
	n, err := Open(t.Context(), repo, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCollectAfterLoss damages the root of a site between two starts, so that the
// store opens without it: no collection removes what was below it, before a repair that
// nobody can help with or after, and when it is added again it is whole.
func TestCollectAfterLoss(t *testing.T) {
	repo := t.TempDir()
	n := openAlone(t, repo)
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), 3000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	add := func() api.AddResult {
		res, err := n.Add(t.Context(), api.AddRequest{Path: api.Raw(dir)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := add()
	root, err := cid.Decode(res.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	flipRecord(t, repo, root)
	n = openAlone(t, repo)
	defer n.Close()
	blocks := n.store.Stats().Blocks
	if _, err := n.GC(t.Context(), nil); err == nil {
		t.Error("a collection beside an unrepaired loss")
	}
	rep, err := n.Repair(t.Context(), api.RepairRequest{Timeout: 1}, nil)
	if err != nil || len(rep.Incomplete) != 1 || rep.Incomplete[0] != res.Root {
		t.Errorf("%+v, %v", rep, err)
	}
	if _, err := n.GC(t.Context(), nil); err == nil {
		t.Error("a collection beside a loss that could not be repaired")
	}
	if now := n.store.Stats().Blocks; now != blocks {
		t.Errorf("%d of %d blocks are left", now, blocks)
	}
	add()
	if _, err := n.GC(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if missing, err := n.missing(t.Context(), root); missing != 0 || err != nil {
		t.Errorf("%d blocks are missing, %v", missing, err)
	}
}
