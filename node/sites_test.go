package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// A list that is not understood is refused and left as it is.
func TestSitesRefused(t *testing.T) {
	for data, want := range map[string]string{
		"":                                "damaged",
		"null":                            "no version",
		"{}":                              "no version",
		`{"version":-1,"sites":[]}`:       "no version",
		`{"version":2,"sites":[]}`:        "newer version",
		`{"version":1,"sites":[{}]}`:      "no root",
		`{"version":1,"sites":[]} x`:      "damaged",
		`{"version":1,"sites":[{"root":1`: "damaged",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, sitesFile)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openSites(dir, nil); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want the path and %q", data, err, want)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != data {
			t.Errorf("%q became %q, %v", data, after, err)
		}
	}
}

// FuzzParseSites checks that a list that is understood survives being saved.
func FuzzParseSites(f *testing.F) {
	c := blockstore.Sum(cid.Raw, nil).CID()
	for _, sites := range [][]site{nil, {{Root: c}}, {{Root: c, Path: "/srv/ü", Whole: true, Blocks: 7, Bytes: 9}, {Root: c}}} {
		data, err := encodeSites(sites)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sites, err := parseSites(data)
		if err != nil {
			if sites != nil {
				t.Fatalf("got %+v beside %v", sites, err)
			}
			return
		}
		again, err := encodeSites(sites)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseSites(again)
		if err != nil || !slices.Equal(back, sites) {
			t.Fatalf("%+v became %+v, %v", sites, back, err)
		}
	})
}
