package dag

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tree describes files below a directory: the content of files by path; a path that
// ends in a slash is an empty directory, and content that starts with "-> " makes a
// symlink.
type tree map[string]string

func (tr tree) write(t testing.TB) string {
	t.Helper()
	top := t.TempDir()
	for _, path := range slices.Sorted(maps.Keys(tr)) {
		content, full := tr[path], filepath.Join(top, path)
		dir := filepath.Dir(full)
		if path[len(path)-1] == '/' {
			dir = full
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case dir == full:
		case len(content) > 3 && content[:3] == "-> ":
			err = os.Symlink(content[3:], full)
		default:
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

// readTree is the inverse of tree.write, but that directories are in it whether
// empty or not.
func readTree(t testing.TB, top string) tree {
	t.Helper()
	tr := tree{}
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			tr[name+"/"] = ""
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			tr[name] = "-> " + target
			return err
		default:
			content, err := os.ReadFile(path)
			tr[name] = string(content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// randomBytes returns n bytes that are the same for the same seed.
func randomBytes(n int, seed byte) string {
	r := rand.NewChaCha8([32]byte{seed})
	b := make([]byte, n)
	r.Read(b)
	return string(b)
}

// siteTree is a site with everything that trips importers up.
func siteTree() tree {
	tr := tree{
		"index.html":                    "<h1>hello</h1>",
		"empty":                         "",
		"a b/c  d.html":                 "spaces",
		"100%25/%zz.html":               "percent",
		"ünï/文書/🙂.html":                 "unicode",
		"not-utf8-\xff\xfe/\x01\n.html": "bytes",
		"nested/empty/dirs/here/":       "",
		"nested/other/":                 "",
		".hidden":                       "hidden",
		".well-known/x":                 "hidden too",
		"nested/.git/config":            "hidden too",
		"link":                          "-> index.html",
		"dangling":                      "-> nowhere",
		"out":                           "-> ../../../../etc/passwd",
		"absolute":                      "-> /etc",
		"loop":                          "-> loop",
		"updir":                         "-> nested/..",
		"big/one.bin":                   randomBytes(1<<20+1, 1),
		"big/exact.bin":                 randomBytes(1<<20, 2),
		"big/three.bin":                 randomBytes(3<<20+12345, 3),
	}
	for i := range 300 {
		tr[fmt.Sprintf("pages/%d/page-%d.html", i%7, i)] = fmt.Sprintf("<p>page %d", i)
	}
	return tr
}
