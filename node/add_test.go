package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pollux/node/api"
)

// The options of an add reach the import, and one path added in several ways has the
// root of each.
func TestAddOptions(t *testing.T) {
	n := openTestNode(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	requests := []api.AddRequest{
		{Path: api.Raw(dir)}, {Path: api.Raw(dir), Preserve: true}, {Path: api.Raw(dir), Chunker: "size-2"}, {Path: api.Raw(dir), Chunker: "size-2", Preserve: true},
	}
	roots := map[string]int{}
	for range 2 {
		for i, req := range requests {
			res, err := n.Add(t.Context(), req, nil)
			if err != nil {
				t.Fatal(err)
			}
			if first, ok := roots[res.Root]; ok && first != i {
				t.Errorf("%+v and %+v have one root", requests[first], req)
			}
			roots[res.Root] = i
		}
	}
	if len(roots) != len(requests) {
		t.Errorf("%d roots of %d kinds", len(roots), len(requests))
	}
	if _, err := n.Add(t.Context(), api.AddRequest{Path: api.Raw(dir), Chunker: "rabin"}, nil); !errors.Is(err, api.ErrUsage) {
		t.Errorf("unknown chunker: %v", err)
	}
}
