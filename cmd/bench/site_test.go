//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestSources(t *testing.T) {
	sites, scratch := t.TempDir(), t.TempDir()
	for i := range 40 {
		path := filepath.Join(sites, "docs", fmt.Sprint("folder", i%4), fmt.Sprintf("%02d.html", i))
		data := make([]byte, 1000)
		if i%10 == 0 {
			data = make([]byte, 4e6)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(sites, "docs", ".hidden"), make([]byte, 1e6), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name         string
		source       source
		sites        string
		files, bytes int64 // files 0: skipped
	}{
		{"named", siteNamed("docs"), sites, 40, 36*1000 + 4*4e6},
		{"no such site", siteNamed("api"), sites, 0, 0},
		{"no sites", siteNamed("docs"), "", 0, 0},
		{"all", all(40, 16e6), sites, 40, 36*1000 + 4*4e6},
		{"too few files", all(41, 0), sites, 0, 0},
		{"too few bytes", all(0, 17e6), sites, 0, 0},
		{"all of no sites", all(0, 0), "", 0, 0},
		{"part", part("docs", 30, 30_000), sites, 30, 30_000},
		{"part again", part("docs", 30, 30_000), sites, 30, 30_000},
		{"random", random(3000), "", 1, 3000},
		{"random again", random(3000), "", 1, 3000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := tt.source(tt.sites, scratch)
			if skip := skipError(""); tt.files == 0 {
				if !errors.As(err, &skip) {
					t.Errorf("got %q, %v; want a reason to skip it", dir, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			files, bytes, err := treeSize(dir)
			if err != nil || files != tt.files || bytes != tt.bytes {
				t.Errorf("%d files of %d bytes, %v; want %d of %d", files, bytes, err, tt.files, tt.bytes)
			}
		})
	}
	if _, err := part("docs", 41, 41_000)(sites, scratch); err == nil {
		t.Error("a part of more files than there are was made")
	}
}
