package node

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/node/api"
)

// openTestNode opens a node that stays off the network.
func openTestNode(t *testing.T) *Node {
	t.Helper()
	n, err := Open(t.Context(), t.TempDir(), DefaultConfig(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// exportSite adds files to a node of their own, and returns their root and CAR.
func exportSite(t *testing.T, files map[string]string) (root cid.Cid, car []byte) {
	t.Helper()
	n := openTestNode(t)
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	res, err := n.Add(t.Context(), api.AddRequest{Path: api.Raw(dir)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if root, err = cid.Decode(res.Root); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := dag.WriteCAR(t.Context(), n.store, root, &out); err != nil {
		t.Fatal(err)
	}
	return root, out.Bytes()
}

func TestImport(t *testing.T) {
	root, car := exportSite(t, map[string]string{"a": "a", "b": "b", "same": "a"})
	n := openTestNode(t)
	var last api.Progress
	res, err := n.Import(t.Context(), bytes.NewReader(car), func(p api.Progress) { last = p })
	if err != nil || len(res.Roots) != 1 || res.Roots[0] != root.String() || res.Blocks != 3 || res.NewBytes != res.Bytes {
		t.Errorf("got %+v, %v", res, err)
	}
	if last.Blocks != 3 || last.Bytes != int64(len(car)) {
		t.Errorf("last progress %+v, want all %d bytes", last, len(car))
	}
	if s, ok := n.sites.find(root); !ok || !s.Whole || s.Blocks != 3 || s.Bytes != res.Bytes {
		t.Errorf("site is %+v, %v", s, ok)
	}

	// A site that was added keeps the name of where it came from.
	s, _ := n.sites.find(root)
	s.Path = "/srv/site"
	if err := n.sites.put(s); err != nil {
		t.Fatal(err)
	}
	again, err := n.Import(t.Context(), bytes.NewReader(car), nil)
	if err != nil || again.NewBytes != 0 || again.Bytes != res.Bytes {
		t.Errorf("again: %+v, %v", again, err)
	}
	if s, _ := n.sites.find(root); s.Path != "/srv/site" || len(n.sites.all()) != 1 {
		t.Errorf("sites are %+v", n.sites.all())
	}
}

// A CAR without some blocks keeps nothing, unless the store has them already.
func TestImportIncomplete(t *testing.T) {
	root, car := exportSite(t, map[string]string{"a": "a", "b": "b", "c": "c"})
	n := openTestNode(t)
	short := car[:len(car)-2*(1+36+1)] // without the last two files
	_, err := n.Import(t.Context(), bytes.NewReader(short), nil)
	if err == nil || !strings.Contains(err.Error(), root.String()+" is not whole") || !strings.HasSuffix(err.Error(), "missing: 2") {
		t.Errorf("got %v", err)
	}
	if sites := n.sites.all(); len(sites) != 0 {
		t.Errorf("kept %+v", sites)
	}
	if err := n.store.Put(blockstore.Sum(cid.Raw, []byte("b")), blockstore.Sum(cid.Raw, []byte("c"))); err != nil {
		t.Fatal(err)
	}
	if res, err := n.Import(t.Context(), bytes.NewReader(short), nil); err != nil || res.Blocks != 2 {
		t.Errorf("with the rest in the store: %+v, %v", res, err)
	}
}

func TestImportCancelled(t *testing.T) {
	_, car := exportSite(t, map[string]string{"a": "a", "b": "b"})
	n := openTestNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := n.Import(ctx, bytes.NewReader(car), func(api.Progress) { cancel() })
	if err != context.Canceled || len(n.sites.all()) != 0 {
		t.Errorf("got %v, sites %+v", err, n.sites.all())
	}
}
