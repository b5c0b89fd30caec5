package dag

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	chunker "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	dagtest "github.com/ipfs/boxo/ipld/merkledag/test"
	boxounixfs "github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	boxoio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"

	"pollux/blockstore"
)

// boxo imports trees with the library under Kubo, set up as Kubo does for the
// profile unixfs-v1-2025.
type boxo struct {
	profile
	hidden   bool
	preserve bool
	builder  cid.Builder
	dags     format.DAGService
}

func newBoxo(p profile) *boxo {
	return &boxo{profile: p, builder: boxoio.UnixFS_v1_2025.CidBuilder(), dags: dagtest.Mock()}
}

func (b *boxo) add(t testing.TB, path string) format.Node {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept struct {
		mode    os.FileMode
		modTime time.Time
	}
	if b.preserve {
		kept.mode, kept.modTime = info.Mode(), info.ModTime()
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return b.addDir(t, path, boxoio.WithStat(kept.mode, kept.modTime))
	case mode&os.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := boxounixfs.SymlinkData(target)
		if err != nil {
			t.Fatal(err)
		}
		fsn, err := boxounixfs.FSNodeFromBytes(data)
		if err != nil {
			t.Fatal(err)
		}
		fsn.SetModTime(kept.modTime) // as Kubo does, without the mode
		if data, err = fsn.GetBytes(); err != nil {
			t.Fatal(err)
		}
		n := merkledag.NodeWithData(data)
		if err := n.SetCidBuilder(b.builder); err != nil {
			t.Fatal(err)
		}
		return n
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	params := helpers.DagBuilderParams{
		Maxlinks: b.maxLinks, RawLeaves: true, CidBuilder: b.builder, Dagserv: b.dags,
		FileMode: kept.mode, FileModTime: kept.modTime,
	}
	db, err := params.New(chunker.NewSizeSplitter(f, int64(b.chunkSize)))
	if err != nil {
		t.Fatal(err)
	}
	n, err := balanced.Layout(db)
	if err != nil {
		t.Fatal(err)
	}
	if leaf, ok := n.(*merkledag.RawNode); ok && b.preserve {
		return b.addNodeAbove(t, db, leaf, kept.mode, kept.modTime)
	}
	return n
}

// addNodeAbove makes a file of one leaf, or of none for an empty one, whose metadata
// balanced.Layout loses.
func (b *boxo) addNodeAbove(t testing.TB, db *helpers.DagBuilderHelper, leaf *merkledag.RawNode, mode os.FileMode, modTime time.Time) format.Node {
	t.Helper()
	file := db.NewFSNodeOverDag(boxounixfs.TFile)
	if size := len(leaf.RawData()); size > 0 {
		if err := file.AddChild(leaf, uint64(size), db); err != nil {
			t.Fatal(err)
		}
	}
	file.SetMode(mode)
	file.SetModTime(modTime)
	n, err := file.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (b *boxo) addDir(t testing.TB, path string, stat boxoio.DirectoryOption) format.Node {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	children := map[string]format.Node{}
	for _, e := range entries {
		if b.hidden || !strings.HasPrefix(e.Name(), ".") {
			children[e.Name()] = b.add(t, filepath.Join(path, e.Name()))
		}
	}
	return b.makeDir(t, children, stat)
}

func (b *boxo) makeDir(t testing.TB, children map[string]format.Node, opts ...boxoio.DirectoryOption) format.Node {
	t.Helper()
	ctx := context.Background()
	d, err := boxoio.NewDirectory(b.dags, append(opts,
		boxoio.WithCidBuilder(b.builder),
		boxoio.WithSizeEstimationMode(boxoio.SizeEstimationBlock),
		boxoio.WithMaxHAMTFanout(hamtFanout))...)
	if err != nil {
		t.Fatal(err)
	}
	d.SetHAMTShardingSize(b.maxDirSize)
	for name, n := range children {
		if err := d.AddChild(ctx, name, n); err != nil {
			t.Fatal(err)
		}
	}
	n, err := d.GetNode()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.dags.Add(ctx, n); err != nil {
		t.Fatal(err)
	}
	return n
}

// boxoGetter reads what boxo wrote.
type boxoGetter struct{ dags format.DAGService }

func (g boxoGetter) Get(ctx context.Context, c cid.Cid) (blockstore.Block, error) {
	n, err := g.dags.Get(ctx, c)
	if err != nil {
		return blockstore.Block{}, err
	}
	return blockstore.NewBlock(c, n.RawData())
}
