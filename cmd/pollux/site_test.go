package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeSite makes a documentation site of over 1,000 files below dir, with what
// real ones have: nested folders, large and small files, awkward names, an empty
// file, an empty folder and symlinks.
func writeSite(t *testing.T, dir string) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	write := func(name string, data []byte) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page := func(title string, paragraphs int) []byte {
		var b bytes.Buffer
		fmt.Fprintf(&b, "<!doctype html><title>%s</title><link rel=stylesheet href=/style.css><h1>%[1]s</h1>\n", title)
		for range paragraphs {
			fmt.Fprintf(&b, "<p>Paragraph %d on %s, see <a href=page%03d.html>there</a>.</p>\n", r.IntN(1e6), title, r.IntN(100))
		}
		return b.Bytes()
	}
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	write("index.html", page("Welcome", 20))
	write("style.css", []byte("body { font: 16px/1.5 serif }\n"))
	for chapter := range 11 {
		write(fmt.Sprintf("chapter %02d/index.html", chapter), page(fmt.Sprint("Chapter ", chapter), 5))
		for i := range 100 {
			write(fmt.Sprintf("chapter %02d/page%03d.html", chapter, i), page(fmt.Sprint("Page ", i), 1+r.IntN(60)))
		}
	}
	write(strings.Repeat("deep/", 30)+"file.txt", []byte("deep\n"))
	write("download/large.bin", noise(3<<20+17))
	write("download/exactly-1MiB.bin", noise(1<<20))
	write("download/zeros.bin", make([]byte, 5<<20)) // one chunk, five times
	write("names/with space.html", page("space", 1))
	write("names/100%.html", page("percent", 1))
	write("names/%2e%2e%2f.html", page("percent signs", 1))
	write("names/naïve-名前-🪐.html", page("unicode", 1))
	write("names/quote'\"<>&?#.html", page("marks", 1))
	write("names/"+strings.Repeat("n", 255), []byte("255 bytes of name\n"))
	write("empty.txt", nil)
	if err := os.MkdirAll(filepath.Join(dir, "empty folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"latest": "chapter 10", "names/dangling": "nowhere", "outside": "/etc/hostname",
	} {
		if err := os.Symlink(target, filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
	}
}

// readTree returns what lies below dir by path: a file's bytes, "-> " and the
// target of a symlink, "/" for a directory.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		name = filepath.ToSlash(name)
		switch {
		case e.IsDir():
			tree[name] = "/"
		case e.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			tree[name] = "-> " + target
			return err
		default:
			data, err := os.ReadFile(path)
			tree[name] = string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// wantSameTree compares trees without printing megabytes.
func wantSameTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%q is missing", name)
		} else if g != want[name] {
			t.Errorf("%q differs: %d bytes, want %d", name, len(g), len(want[name]))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q should not be there", name)
		}
	}
}
