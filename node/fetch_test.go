package node

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pollux/node/api"
)

// TestFetchReceived fetches a file below two directories: what it takes to find that counts
// as received too, and it counts for each who wants it.
func TestFetchReceived(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 100_000)
	rand.Read(page)
	if err := os.WriteFile(filepath.Join(inner, "page"), page, 0o644); err != nil {
		t.Fatal(err)
	}
	// The directories take more than the page: names of 200 bytes.
	const names = 500
	for i := range names {
		name := make([]byte, 100)
		rand.Read(name)
		if err := os.WriteFile(filepath.Join(inner, fmt.Sprintf("%x", name)), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a, ready := runNode(t)
	b, _ := runNode(t, ready.Addrs...)
	added, err := a.Add(t.Context(), api.AddRequest{Path: api.Raw(dir)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Connect(t.Context(), ready.Addrs[0]); err != nil {
		t.Fatal(err)
	}
	fetch := func(path string) api.FetchResult {
		t.Helper()
		req := api.FetchRequest{Target: api.Raw(added.Root + path), Timeout: time.Minute}
		res, err := b.Fetch(t.Context(), req, nil)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	const least = 100_000 + names*100 // half a hexadecimal digit is a byte
	if res := fetch("/a/b/page"); res.Received < least || res.Received > 2*least || res.Peers != 1 {
		t.Errorf("%+v, want %d bytes of one peer", res, least)
	}
	if res := fetch("/a/b/page"); res.Received != 0 || res.Peers != 0 {
		t.Errorf("%+v for what was there", res)
	}
	// Of the directory only the other files are missing.
	if res := fetch("/a/b"); res.Received == 0 || res.Received > least || res.Peers != 1 {
		t.Errorf("%+v for small files", res)
	}
}
